"""What `bnf compare` does: runs against each other, and what of their recipes differs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows.commands import print_json, taken_run
from flows.display import print_table, settings_rows
from flows.errors import RecipeError
from flows.home import home_folder, open_store
from flows.runs import SCORES, Run, differing_settings
from tasks.store import Store


def compare_runs(names: Sequence[str], *, as_json: bool) -> None:
    from evaluation.compare import compare, comparison_rows

    if len(names) < 2:
        raise RecipeError(f"compare must be given two runs or more, got {len(names)}; see `bnf runs`")
    home = home_folder()
    store = open_store(home)
    runs: dict[str, Run] = {}
    for name in names:
        run = taken_run(home, name, SCORES)
        for other, taken in runs.items():
            if taken.id == run.id:
                raise RecipeError(
                    f"RUN must be another run each time, got {run.id} for both {other!r} and {name!r}; write more of the names, "
                    "see `bnf runs`"
                )
        runs[name] = run
    result = compare([(run.id, _scores(run, store)) for run in runs.values()])
    result["settings"] = differing_settings(list(runs.values()))
    if as_json:
        print_json(result)
        return
    print_table("", comparison_rows(result))
    for note in result["notes"]:
        print(f"  {note}")
    print()
    if result["settings"]:
        print("recipe keys that differ")
        print_table("", settings_rows(result["settings"]), words=True)
    else:
        print("the recipes of these runs are the same")


def _scores(run: Run, store: Store) -> dict[str, dict[str, Path]]:
    """A run's scores by benchmark and model."""
    folders: dict[str, dict[str, Path]] = {}
    for name, artifact in run.artifacts.items():
        stage, *rest = name.split("/")
        if stage == "score":
            folders.setdefault(rest[1], {})[rest[0]] = store.fetch(artifact)
    if not folders:
        raise RecipeError(f"RUN must have scores, got none in {run.id} ({run.state}); run its evaluation first")
    return folders
