"""`bnf compare`: the results of runs against each other, and the recipe keys in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from flows.commands.showing import taken_run
from flows.display import print_json, print_notes, print_table
from flows.errors import RecipeError
from flows.recipe.keys import dotted
from flows.runs.home import home_folder, open_store
from flows.runs.record import COMPARABLE, Run
from flows.wording import in_words
from tasks.names import TaskName
from tasks.store import Store


class DifferingSetting(TypedDict):
    """A recipe key that is not the same in all runs, with every run's value; None where its recipe has none."""

    key: str
    values: dict[str, object]


def compare_runs(names: Sequence[str], *, as_json: bool) -> None:
    from evaluation.report.compare import compare, compared_at_k_rows, comparison_rows
    from evaluation.report.dev_set import compare_dev, compared_dev_rows

    if len(names) < 2:
        raise RecipeError(f"compare must be given two runs or more, got {len(names)}; see `bnf runs`")
    home = home_folder()
    store = open_store(home)
    runs: dict[str, Run] = {}
    for name in names:
        run = taken_run(home, name, COMPARABLE)
        for other, taken in runs.items():
            if taken.id == run.id:
                raise RecipeError(
                    f"RUN must be another run each time, got {run.id} for both {other!r} and {name!r}; write more of the names, "
                    "see `bnf runs`"
                )
        runs[name] = run
    scored, devs = [], []
    for run in runs.values():
        scores, dev = _scores(run, store), _dev(run, store)
        if not scores and dev is None:
            raise RecipeError(
                f"RUN must have scores or a dev set, got neither in {run.id} ({run.state}); run its evaluation first"
            )
        scored.append((run.id, scores))
        devs += [(run.id, *dev)] if dev is not None else []
    result = compare(scored) | {"dev": compare_dev(devs)}
    settings = differing_settings(list(runs.values()))
    result["settings"] = settings
    if as_json:
        print_json(result)
        return
    print_table("", comparison_rows(result))
    if rows := compared_at_k_rows(result):
        print_table("several samples of each item", rows)
    print_notes(result["notes"])
    if result["dev"] is not None:
        print_table("before → after training", compared_dev_rows(result["dev"]))
        print_notes(result["dev"]["notes"])
    print()
    if settings:
        print("recipe keys that differ")
        print_table("", [_setting_row(entry) for entry in settings], words=True)
    else:
        print("the recipes of these runs are the same")


def differing_settings(runs: Sequence[Run]) -> list[DifferingSetting]:
    """The recipe keys that are not the same in all runs, but for the recipes' names, which are the runs' own."""
    of = {run.id: dotted(run.written_recipe) for run in runs}
    keys = dict.fromkeys(key for values in of.values() for key in values if key != "name")
    found = {key: {name: values.get(key) for name, values in of.items()} for key in keys}
    return [{"key": key, "values": values} for key, values in found.items() if len(set(map(repr, values.values()))) > 1]


def _setting_row(setting: DifferingSetting) -> dict[str, str]:
    """A recipe key with every run's value, a column for each run."""
    return {"key": setting["key"]} | {run: in_words(value) for run, value in setting["values"].items()}


def _scores(run: Run, store: Store) -> dict[str, dict[str, Path]]:
    """A run's scores by benchmark and model."""
    folders: dict[str, dict[str, Path]] = {}
    for task, artifact in run.artifacts.items():
        name = TaskName.from_id(task)
        if name.stage == "score" and name.checkpoint is None:
            folders.setdefault(str(name.benchmark), {})[str(name.role)] = store.fetch(artifact)
    return folders


def _dev(run: Run, store: Store) -> tuple[dict[str, object], dict[str, object]] | None:
    """The dev set results of the run's last training, and the settings they were measured with, as `compare_dev` takes them."""
    from evaluation.report.dev_set import read_dev

    last = {artifact.stage: artifact for artifact in run.artifacts.values()}
    if "train" not in last or "prepare" not in last:
        return None
    dev = read_dev(store.fetch(last["train"], ("*.safetensors",)))
    config = run.recipe.train_config()
    how = {name: getattr(config, name) for name in ("objective", "dev_max_new_tokens")}
    return None if dev is None else (dev, {**how, "data": last["prepare"].fingerprint})
