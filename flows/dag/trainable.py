"""Finds before a training starts what it would refuse: in the machine and the model at once, in the groups once they are prepared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from bnf.data.sizes import data_sizes
from bnf.host import available_memory
from bnf.training.config import TrainConfig
from flows.dag.memory_check import memory_check
from flows.dag.on_policy import BASE
from flows.recipe.config import Recipe
from tasks.nodes import Forecast, model_folder


def problems_before(recipe: Recipe, forecasts: Sequence[Forecast]) -> Iterator[tuple[str, str | None]]:
    """The checks that can be made now, each with its name and what is wrong: of the machine, of the model where its folder is on this
    machine, and of groups that are prepared already."""
    from bnf.training.checks import check_machine

    config = recipe.train_config()
    yield "training", _problem(lambda: check_machine(config))
    known = {entry.node.id: entry for entry in forecasts}
    folder = resolved_folder(known[BASE])
    if folder is not None:
        yield f"training {folder.name}", model_problem(recipe, folder)
    for entry in forecasts:
        data = known[entry.node.inputs["data"]] if entry.node.stage == "train" else None
        if data is not None and entry.cached is not True and data.cached and data.artifact and data.artifact.path.is_dir():
            yield f"training on {data.node.label}", groups_problem(config, data.artifact.path)


def model_problem(recipe: Recipe, folder: Path) -> str | None:
    """What keeps this model from being trained as the recipe says; None where nothing does."""
    from bnf.training.checks import check_lengths, check_model_dir

    def check() -> None:
        check_model_dir(recipe.train_config(), folder, evaluates=recipe.prepare.dev_fraction > 0)
        check_lengths(folder, recipe.prepare.max_length)

    return _problem(check)


def memory_problem(config: TrainConfig, model: Path, groups: Path | None) -> str | None:
    """What keeps the model in a folder from being trained in this machine's memory, on these groups where they are prepared."""
    data = None if groups is None else data_sizes(groups, share_prompts=config.share_prompts)
    check = memory_check(model, config, data, available_memory())
    return None if check is None else check.problem


def groups_problem(config: TrainConfig, folder: Path) -> str | None:
    """What keeps a training from taking these groups; None where nothing does."""
    from bnf.training.checks import check_groups_dir

    return _problem(lambda: check_groups_dir(config, folder))


def resolved_folder(entry: Forecast) -> Path | None:
    """Where the files of a model that a node resolves lie; None where they are still to be fetched."""
    if "model" in entry.node.files:
        return entry.node.files["model"]
    return model_folder(entry.artifact.path) if entry.cached and entry.artifact else None


def _problem(check: Callable[[], None]) -> str | None:
    try:
        check()
    except (ValueError, OSError) as error:
        first = str(error).split(" ", 1)[0]
        return f"train.{error}" if first in {known.name for known in fields(TrainConfig)} else str(error)
    return None
