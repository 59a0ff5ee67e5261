"""What the commands do: everything behind `flows/cli.py`'s signatures."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from flows.config import Recipe, find_path, load_recipe, make_recipe
from flows.display import Display, plan_rows, print_table, run_row, size
from flows.errors import RecipeError
from flows.garbage import collect
from flows.graph import build
from flows.graph_parts import plugin
from flows.home import home_folder, open_store, set_prefect_environment
from flows.preflight import Check, preflight, require
from flows.runs import RUNNING, Run, all_runs, find_run, last_artifacts, run_sizes
from flows.selection import EVALUATION_SECTIONS, Options, evaluated_recipe, pinned_artifacts, select
from tasks.child import Cancelled
from tasks.nodes import forecast
from tasks.store import Store, read_json


def run_recipe(recipe: Recipe, options: Options, *, as_json: bool = False, debug: bool = False) -> None:
    """Check a recipe, run its flow with live output, and show what came out of it."""
    home = home_folder()
    checks = check(recipe, home, options)
    set_prefect_environment(home, debug=debug)
    from flows.server import prefect_server

    display = Display()
    for found in checks:
        if found.is_cost:
            display.message(f"{found.name}: {found.seen}")
    with prefect_server(home, meanwhile=_import_flow) as url:
        from prefect.exceptions import CancelledRun

        from flows.align import LISTENER, Listener, align

        def started(run: Run) -> None:
            display.message(f"run {run.id}\n  watch it at {url}/runs/flow-run/{run.record['flow_run_id']}")

        LISTENER.set(Listener(started, display.start, display.progress, display.done, display.message))
        try:
            name = align(recipe, **dataclasses.asdict(options))
        except CancelledRun as error:
            raise Cancelled("the run was cancelled; the same command goes on from where it was") from error
        finally:
            display.stop()
            display.total()
    run = find_run(home, str(name))
    if as_json:
        _print_json(_shown(run))
        return
    show_results(run)


def _import_flow() -> None:
    import flows.align  # noqa: F401


def check(recipe: Recipe, home: Path, options: Options) -> list[Check]:
    """Everything that can be known before the first stage: names, files, the selection, the machine's room; what was seen.

    Raises:
        RecipeError: with every problem found.
    """
    recipe = evaluated_recipe(home, recipe, options.evaluate_run)
    nodes = build(recipe)
    selection = select(nodes, options)
    store = open_store(home, verify=options.verify)
    pinned = pinned_artifacts(home, options.evaluate_run, selection, store) if options.evaluate_run else {}
    known = selection.check(nodes, store, last_artifacts(home, recipe), pinned)
    checks = preflight(recipe, list(known.values()), home)
    require(checks)
    return checks


def evaluate_target(
    target: str, recipe_path: str | None, overrides: Sequence[str], options: Options, *, as_json: bool, debug: bool
) -> None:
    """Evaluate a run's models with its own recipe (or another's evaluation), or any model with a recipe's evaluation."""
    for override in overrides:
        if override.split(".")[0].split("=")[0] not in ("name", *EVALUATION_SECTIONS):
            raise RecipeError(
                f"evaluate must change keys of {', '.join(EVALUATION_SECTIONS)} alone, got {override!r}; use `bnf run` for the others"
            )
    home = home_folder()
    known = [run for run in all_runs(home) if target == "latest" or run.id.startswith(target)]
    if known and not Path(target).exists():
        run = known[0]
        base = run.recipe
        if recipe_path is not None:
            asked = load_recipe(recipe_path)
            base = base.model_copy(update={name: getattr(asked, name) for name in EVALUATION_SECTIONS})
        recipe = make_recipe(base.model_dump(), overrides)
        evaluated = run.id if recipe.train is not None else None
        run_recipe(recipe, dataclasses.replace(options, evaluate_run=evaluated), as_json=as_json, debug=debug)
        return
    if "/" not in target and not Path(target).exists():
        find_run(home, target)
    asked = load_recipe(recipe_path or "flows/recipes/evaluate.yaml")
    values = asked.model_dump() | {
        "model_name_or_path": target,
        "data": None,
        "sample": None,
        "label": None,
        "train": None,
    }
    run_recipe(make_recipe(values, overrides), options, as_json=as_json, debug=debug)


def show_plan(recipe: Recipe, options: Options, *, as_json: bool) -> None:
    home = home_folder()
    nodes = build(recipe)
    keep = select(nodes, options).keep
    known = forecast(nodes, open_store(home, verify=options.verify), last_artifacts(home, recipe), keep=keep)
    if as_json:
        _print_json({"stages": [entry.as_json() for entry in known.values()], "settings": _dotted(recipe.model_dump())})
        return
    print_table(f"{recipe.name} in {home}", plan_rows(list(known.values())), words=True)
    count = {state: sum(entry.cached is state for entry in known.values()) for state in (True, None, False)}
    print(f"{count[True]} cached, {count[None]} cached if the stage before gives the same bits, {count[False]} to run")


def show_runs(*, as_json: bool) -> None:
    home = home_folder()
    runs = all_runs(home)
    sizes = run_sizes(runs)
    rows = [
        {
            "run": run.id,
            "state": run.state,
            "started": run.record["started"],
            "ended": run.record.get("ended"),
            "recipe": run.record["recipe"],
            "tasks": len(run.record["tasks"]),
            "bytes": sizes[run.id].artifacts,
            "bytes_of_its_own": sizes[run.id].own,
        }
        for run in runs
    ]
    if as_json:
        _print_json({"runs": rows})
    elif rows:
        print_table("", [run_row(row) for row in rows], words=True)
    else:
        print(f"no runs in {home} yet; start one with `bnf run flows/recipes/quickstart.yaml`")


def show_run(name: str, *, as_json: bool) -> None:
    run = find_run(home_folder(), name)
    if as_json:
        _print_json(_shown(run))
        return
    print(f"{run.id}  {run.state}")
    tasks = [
        {
            "task": name,
            "": ("other code" if entry.get("other_code") else "cached") if entry["cached"] else "done",
            "seconds": f"{entry['seconds']:.1f}",
            "artifact": entry["fingerprint"][:12],
        }
        for name, entry in run.record["tasks"].items()
    ]
    print_table("", tasks)
    show_results(run)


def show_results(run: Run) -> None:
    """The table of results, and where the report and the UI are."""
    if not (run.folder / "summary.json").exists():
        return
    from evaluation.dev_set import MEANING, dev_rows, dev_title
    from evaluation.lm_eval_summary import task_rows
    from evaluation.rounds import round_rows
    from evaluation.summary import notes, table_rows

    summary = read_json(run.folder / "summary.json")
    print()
    print_table("", table_rows(summary))
    print_table("lm-eval's own tasks", task_rows(summary))
    if len(rounds := summary.get("rounds", [])) > 1:
        print_table("rounds", round_rows(rounds))
    said = notes(summary)
    dev = (summary["train"] or {}).get("dev")
    # The summary of an older run has no evaluation but the first and the last.
    if dev is not None and "evaluations" in dev:
        print_table(dev_title(dev), dev_rows(dev))
        said.append(MEANING)
    for note in said:
        print(f"  {note}")
    print(f"\nreport  {run.folder / 'report.html'}\nUI      bnf ui")


def _shown(run: Run) -> dict[str, Any]:
    path = run.folder / "summary.json"
    return {
        "run": run.id,
        **run.record,
        "state": run.state,
        "folder": str(run.folder),
        "summary": read_json(path) if path.exists() else None,
    }


def compare_runs(names: Sequence[str], *, as_json: bool) -> None:
    from evaluation.compare import compare, comparison_rows
    from evaluation.dev_set import compare_dev, compared_dev_rows

    if len(names) < 2:
        raise RecipeError(f"compare must be given two runs or more, got {len(names)}; see `bnf runs`")
    home = home_folder()
    store = open_store(home)
    scored, devs = [], []
    for name in names:
        run = find_run(home, name)
        folders: dict[str, dict[str, Path]] = {}
        for artifact_of, artifact in run.artifacts.items():
            stage, *rest = artifact_of.split("/")
            if stage == "score":
                folders.setdefault(rest[1], {})[rest[0]] = store.fetch(artifact)
        dev = _dev_of(run, store)
        if not folders and dev is None:
            raise RecipeError(f"RUN must have scores, got none in {run.id} ({run.state}); run its evaluation first")
        scored.append((run.id, folders))
        devs += [(run.id, *dev)] if dev is not None else []
    result = compare(scored) | {"dev": compare_dev(devs)}
    if as_json:
        _print_json(result)
        return
    print_table("", comparison_rows(result))
    for note in result["notes"]:
        print(f"  {note}")
    if result["dev"] is not None:
        print_table("before → after training", compared_dev_rows(result["dev"]))
        for note in result["dev"]["notes"]:
            print(f"  {note}")


def _dev_of(run: Run, store: Store) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What the run's training, of several rounds the last, measured on its dev set, and how, as `compare_dev` takes them."""
    from evaluation.dev_set import read_dev

    last = {name.split("/")[0]: artifact for name, artifact in run.artifacts.items()}
    if "train" not in last or "prepare" not in last:
        return None
    dev = read_dev(store.fetch(last["train"], ("*.safetensors",)))
    config = run.recipe.train_config()
    how = {name: getattr(config, name) for name in ("objective", "dev_max_new_tokens")}
    return None if dev is None else (dev, {**how, "data": last["prepare"].fingerprint})


def show_report(name: str, *, open_it: bool, as_json: bool) -> None:
    run = find_run(home_folder(), name)
    path = run.folder / "report.html"
    if not path.exists():
        raise RecipeError(f"RUN must have a report, got none in {run.id} ({run.state}); finish it with `bnf run`")
    if open_it:
        webbrowser.open(path.as_uri())
    if as_json:
        _print_json({"run": run.id, "report": str(path)})
    else:
        print(path)


def cancel_run(name: str, *, as_json: bool) -> None:
    """Ask a run to end, and wait until it has."""
    home = home_folder()
    run = find_run(home, name)
    if run.state != RUNNING:
        raise RecipeError(f"RUN must be at work to be cancelled, got {run.id}, which is {run.state}; see `bnf runs`")
    set_prefect_environment(home)
    from flows.server import prefect_server

    with prefect_server(home):
        from prefect.exceptions import ObjectNotFound

        from flows.cancel import cancel

        try:
            cancel(UUID(run.record["flow_run_id"]))
        except ObjectNotFound:
            raise RecipeError(
                f"RUN must be known to the Prefect server, got {run.id}, which {os.environ['PREFECT_API_URL']} has not; set "
                "PREFECT_API_URL as it was when the run was started"
            ) from None
        while run.state == RUNNING:
            time.sleep(0.2)
            run = find_run(home, run.id)
    if as_json:
        _print_json({"run": run.id, "state": run.state})
    else:
        print(f"{run.id}  {run.state}")


def collect_garbage(*, dry_run: bool, as_json: bool) -> None:
    """Drop what no run names, and say what it was."""
    home = home_folder()
    dropped = collect(home, dry_run=dry_run)
    if as_json:
        _print_json({"dry_run": dry_run, "bytes": sum(entry["bytes"] for entry in dropped), "dropped": dropped})
        return
    print_table("", [{**entry, "bytes": size(entry["bytes"])} for entry in dropped], words=True)
    verb = "would be" if dry_run else "were"
    print(f"{len(dropped)} folders, {size(sum(entry['bytes'] for entry in dropped))}, {verb} dropped from {home / 'artifacts'}")


def serve_ui(*, debug: bool) -> None:
    """Keep the home's server up until Ctrl-C; runs started meanwhile share it."""
    import threading

    home = home_folder()
    set_prefect_environment(home, debug=debug)
    from flows.server import prefect_server

    with prefect_server(home) as url:
        from flows.crashed import mark_crashed

        mark_crashed(home)
        print(f"Prefect UI of {home}\n{url}\nCtrl-C ends it", flush=True)
        threading.Event().wait()


def score_file(benchmark: str, file: Path, file_format: Literal["native", "zeroeval"], *, lm_eval: bool, as_json: bool) -> None:
    """Score a file of completions; with `lm_eval` also as lm-eval's own tasks read it."""
    from evaluation.lm_eval_summary import cross_check_rows, is_main
    from evaluation.scoring import score_completions

    _require_file(file, "a completions.jsonl")
    result = score_completions(plugin("evaluation.benchmarks", benchmark), file, format=file_format, lm_eval=lm_eval)
    if as_json:
        _print_json(result)
        return
    checked, disagreements = result.pop("cross_check", None), result.pop("disagreements", [])
    print_table("", [{"key": key, "value": value} for key, value in result.items()], words=True)
    if checked is not None:
        print_table("lm-eval's reading of the same completions", cross_check_rows(checked), words=True)
        main = [entry for entry in disagreements if is_main(entry, checked)]
        print_table(f"items on which {checked['main']['task']} ({checked['main']['filter']}) differs", main, words=True)


def score_judgments(
    benchmark: str,
    files: Sequence[Path],
    file_format: Literal["native", "upstream"] | None,
    questions: str | None,
    *,
    as_json: bool,
) -> None:
    from evaluation.judge_score import BENCHMARKS, judge_score, judgment_rows

    name = benchmark.replace("-", "_")
    if name not in BENCHMARKS:
        known = " or ".join(known.replace("_", "-") for known in BENCHMARKS)
        raise RecipeError(f"BENCHMARK must be {known}, got {benchmark!r}; `bnf score` takes benchmarks with a rule")
    for file in files:
        _require_file(file, "recorded judgments")
    if questions not in (None, "hub", "sample"):
        questions = str(find_path(str(questions)))
    result = judge_score(name, files, file_format=file_format, questions=questions)
    if as_json:
        _print_json(result)
        return
    for title, rows in judgment_rows(result):
        print_table(title, rows)


def _require_file(file: Path, what: str) -> None:
    if file.is_dir():
        raise RecipeError(f"FILE must be a file, got the folder {file}; give the path of {what}")
    if not file.exists():
        raise FileNotFoundError(f"FILE must exist, got {file}; give the path of {what}")


def _dotted(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    return {
        name: leaf for key, item in value.items() for name, leaf in _dotted(item, f"{prefix}.{key}" if prefix else key).items()
    }


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2)
    print()
