"""What a run will cost besides the time of its stages, as the plan shows it before the run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bnf.training.choosing import num_kept
from bnf.training.gpus import GIB
from flows.dag.checks import Check
from flows.dag.on_policy import BASE
from flows.dag.trainable import resolved_folder
from flows.recipe.config import Recipe
from tasks.nodes import Forecast


def dev_samples(recipe: Recipe, forecasts: Sequence[Forecast]) -> Iterator[Check]:
    """How many samples of dev prompts the evaluations during training will cost."""
    known = {entry.node.id: entry for entry in forecasts}
    trainings = [entry.node for entry in forecasts if entry.node.stage == "train" and entry.cached is not True]
    if not trainings or recipe.prepare.dev_fraction == 0:
        return
    from bnf.data.groups import DEV

    config = recipe.train_config()
    data = known[trainings[0].inputs["data"]]
    prepared = data.artifact.path if data.cached is True and data.artifact is not None else None
    num_groups, num_dev = (_num_groups(prepared / part) if prepared else None for part in ("", DEV))
    if prepared and num_dev is None:
        return
    samples = config.num_dev_samples(num_dev) if num_dev is not None else config.dev_prompts
    evaluations = config.num_evaluations(num_groups)
    most = config.num_dev_samples(sys.maxsize)
    number = f"{samples} samples" if samples is not None else f"a sample of each dev prompt, {most} at most,"
    up_to = "" if num_groups is not None else "up to "
    times = f"{up_to}{evaluations} evaluations" if evaluations is not None else f"evaluations every {config.eval_steps:g} steps"
    rounds = f" in each of {len(trainings)} trainings" if len(trainings) > 1 else ""
    total = ""
    if evaluations is not None:
        total = f": at most {(samples or most) * config.dev_max_new_tokens * evaluations * len(trainings):,} tokens"
    yield Check(
        "dev samples",
        None,
        f"{number} of up to {config.dev_max_new_tokens} tokens (train.dev_prompts, train.dev_max_new_tokens) at {times} "
        f"(train.eval_steps){rounds}{total}",
        is_cost=True,
    )


def kept_policies(recipe: Recipe, forecasts: Sequence[Forecast], home: Path) -> Iterator[Check]:
    """How much disk the policies take that a training keeps beside the last one."""
    if not any(entry.node.stage == "train" and entry.cached is not True for entry in forecasts):
        return
    config = recipe.train_config()
    number = num_kept(recipe.checkpoints(), config.keep_best)
    base = next(entry for entry in forecasts if entry.node.id == BASE)
    folder = resolved_folder(base)
    if not number or folder is None:
        return
    # With adapters those of the way are small until the training ends; those that are asked for are whole models then.
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    there = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(there).free
    given = {"evaluation.checkpoints": recipe.evaluation.checkpoints, "train.keep_best": config.keep_best != "none"}
    keys = " and ".join(key for key, is_set in given.items() if is_set)
    problem = None
    if free < number * size:
        problem = (
            f"the disk of {home} must have {number * size / GIB:.2f} GiB free for the {number} policies of {keys}, got "
            f"{free / GIB:.2f} GiB; free some, move BNF_HOME, or ask for fewer"
        )
    yield Check("kept policies", problem, f"up to {number} of {size / GIB:.2f} GiB beside the last one ({keys})", is_cost=True)


def _num_groups(folder: Path) -> int | None:
    """The number of groups in a prepared folder; None where it has none."""
    from safetensors import safe_open

    from bnf.data.groups import GROUPS_FILE

    if not (folder / GROUPS_FILE).is_file():
        return None

    with safe_open(folder / GROUPS_FILE, framework="numpy") as file:
        (number,) = file.get_slice("prompt_lengths").get_shape()
    return int(number)
