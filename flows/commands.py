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
from typing import Literal
from uuid import UUID

from bnf.paths import person_path
from evaluation.benchmarks import BENCHMARKS
from evaluation.records import read_json
from flows.dag.estimate import Asked, estimate_recipe
from flows.dag.estimate_tables import gpu_rows, heading, memory_rows, other_rows
from flows.dag.parts import plugin
from flows.dag.plan import make_plan
from flows.dag.preflight import HOME, problems, require
from flows.dag.selection import EVALUATION_SECTIONS, MODELS, Options
from flows.display import Display, ListedRun, plan_rows, print_table, run_row, size, timeline
from flows.errors import RecipeError, Stopped
from flows.recipe.config import LATEST, Recipe, load_recipe, make_recipe
from flows.recipe.paths import find_path
from flows.runs.garbage import collect
from flows.runs.home import home_folder, set_prefect_environment
from flows.runs.record import REPORT, RUNNING, Need, Run, all_runs, dotted, find_run, passed_over, run_sizes
from tasks.child import Cancelled


def run_recipe(recipe: Recipe, options: Options, *, as_json: bool = False, debug: bool = False) -> None:
    """Check a recipe, run its flow with live output, and show what came out of it."""
    home = home_folder()
    plan = make_plan(home, recipe, options)
    require(plan.checks)
    set_prefect_environment(home, debug=debug)
    from flows.service.server import prefect_server

    display = Display()
    for found in plan.checks:
        if found.is_cost:
            display.message(f"{found.name}: {found.seen}")
    try:
        with prefect_server(home, meanwhile=_import_flow) as url:
            from prefect.exceptions import CancelledRun

            from flows.align import LISTENER, PLAN, align
            from flows.runner import Listener

            def started(run: Run) -> None:
                display.message(f"run {run.id}\n  watch it at {url}/runs/flow-run/{run.record.flow_run_id}")

            LISTENER.set(Listener(started, display.start, display.progress, display.done, display.failed, display.message))
            PLAN.set(plan)
            try:
                name = align(recipe, **dataclasses.asdict(options))
            except CancelledRun as error:
                raise Cancelled("the run was cancelled; the same command goes on from where it was") from error
            finally:
                display.stop()
        display.total()
    except Exception as error:
        display.broken_off("cancelled" if isinstance(error, Cancelled) else "failed")
        raise
    except BaseException as signal:
        # Ctrl-C, `cli.main`'s answer to SIGTERM, and Prefect's own: whatever the run was about when it came.
        by, code = ("Ctrl-C", 130) if isinstance(signal, KeyboardInterrupt) else ("SIGTERM", 143)
        where = display.broken_off("stopped")
        raise Stopped(f"stopped by {by} {where}; the same command goes on from there", code) from None
    run = find_run(home, str(name))
    if as_json:
        print_json(_shown(run))
        return
    show_results(run)


def _import_flow() -> None:
    import flows.align  # noqa: F401


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
    run = _evaluated_run(home, target)
    if run is not None:
        base = run.recipe
        if recipe_path is not None:
            asked = load_recipe(recipe_path)
            base = base.model_copy(update={name: getattr(asked, name) for name in EVALUATION_SECTIONS})
        recipe = make_recipe(base.model_dump(), overrides)
        evaluated = run.id if recipe.train is not None else None
        run_recipe(recipe, dataclasses.replace(options, evaluate_run=evaluated), as_json=as_json, debug=debug)
        return
    asked = load_recipe(recipe_path or "flows/recipes/evaluate.yaml")
    values = asked.model_dump() | {"model_name_or_path": target} | dict.fromkeys(("data", "sample", "label", "train"))
    run_recipe(make_recipe(values, overrides), options, as_json=as_json, debug=debug)


def _evaluated_run(home: Path, target: str) -> Run | None:
    """The run whose models are to be evaluated; None where the target is a model: a folder, or a hub id, which has a slash."""
    if person_path(target).exists() or "/" in target:
        if target in {name for run in all_runs(home) for name in (run.id, run.record.recipe, LATEST)}:
            raise RecipeError(
                f"RUN|MODEL must be one of both, got {target!r}, which is a run and a folder here; write ./{target} for the folder"
            )
        return None
    runs = all_runs(home)
    if target != LATEST and not any(target == run.record.recipe or run.id.startswith(target) for run in runs):
        newest = ", ".join(run.id for run in runs[:3]) or "none yet"
        raise RecipeError(
            f"RUN must be a run of {home}, or MODEL a folder or a hub id such as owner/name, got {target!r}; the newest runs: {newest}"
        )
    return taken_run(home, target, MODELS)


def taken_run(home: Path, name: str, need: Need | None = None) -> Run:
    """The run that a name stands for, as `find_run`. Unless the name is the run's own, standard error says which run was taken, and which
    newer ones were passed over."""
    run = find_run(home, name, need)
    over = ", ".join(f"{one.id} ({one.state})" for one in passed_over(home, name, run))
    if run.id != name:
        lack = f"; without {need.what}, and so passed over: {over}" if need and over else ""
        print(f"{name} is {run.id} ({run.state}){lack}", file=sys.stderr)
    return run


def show_plan(recipe: Recipe, options: Options, *, as_json: bool) -> None:
    """Print what a run would do.

    Raises:
        RecipeError: with the problems for which `run` would refuse it.
    """
    home = home_folder()
    plan = make_plan(home, recipe, options)
    known = plan.forecasts
    if as_json:
        stages = [entry.as_json() for entry in known.values()]
        print_json({"stages": stages, "settings": dotted(recipe.model_dump()), "problems": problems(plan.checks)})
    else:
        print_table(f"{recipe.name} in {home}", plan_rows(list(known.values())), words=True)
        count = {state: sum(entry.cached is state for entry in known.values()) for state in (True, None, False)}
        print(f"{count[True]} cached, {count[None]} cached if the stage before gives the same bits, {count[False]} to run")
    # A home that can't be written may be looked at; `run` and `doctor` refuse it.
    require(check for check in plan.checks if check.name != HOME)


def show_estimate(recipe: Recipe, asked: Asked, *, as_json: bool) -> None:
    """Print what a recipe's training will take."""
    found = estimate_recipe(recipe, asked, home_folder())
    if as_json:
        print_json(found.to_json())
        return
    print("\n".join(heading(found)))
    for rows in filter(None, (memory_rows(found), gpu_rows(found), other_rows(found))):
        print()
        print_table("", rows, words=True)
    print("", *(f"assumed: {assumption}" for assumption in found.assumptions), sep="\n")


def show_runs(*, as_json: bool) -> None:
    home = home_folder()
    runs = all_runs(home)
    sizes = run_sizes(runs)
    rows: list[ListedRun] = [
        {
            "run": run.id,
            "state": run.state,
            "started": run.record.started,
            "ended": run.record.ended,
            "recipe": run.record.recipe,
            "tasks": len(run.record.tasks),
            "bytes": sizes[run.id].artifacts,
            "bytes_of_its_own": sizes[run.id].own,
        }
        for run in runs
    ]
    if as_json:
        print_json({"runs": rows})
    elif rows:
        print_table("", [run_row(row) for row in rows], words=True)
    else:
        print(f"no runs in {home} yet; start one with `bnf run flows/recipes/quickstart.yaml`")


def show_run(name: str, *, as_json: bool) -> None:
    run = taken_run(home_folder(), name)
    if as_json:
        print_json(_shown(run))
        return
    print(f"{run.id}  {run.where}")
    spans = {name: (task.started, task.ended) for name, task in run.record.tasks.items() if task.started and task.ended}
    heading, bars = timeline(spans) if spans else ("", {})
    tasks = [
        {
            "task": name,
            "": ("other code" if task.other_code else "cached") if task.cached else "done",
            "seconds": f"{task.seconds:.1f}",
            "artifact": task.artifact.fingerprint[:12],
            **({heading: bars.get(name, "")} if bars else {}),
        }
        for name, task in run.record.tasks.items()
    ]
    print_table("", tasks)
    show_results(run)


def show_results(run: Run) -> None:
    """The table of results, and where the report and the UI are."""
    if not (run.folder / "summary.json").exists():
        return
    from evaluation.report.dev_set import MEANING, dev_rows, dev_title
    from evaluation.report.lm_eval import task_rows
    from evaluation.report.rounds import round_rows
    from evaluation.report.summary import notes, table_rows

    summary = read_json(run.folder / "summary.json")
    print()
    print_table("", table_rows(summary))
    print_table("lm-eval's own tasks", task_rows(summary))
    if len(rounds := summary.get("rounds", [])) > 1:
        print_table("rounds", round_rows(rounds))
    said = notes(summary)
    dev = (summary["train"] or {}).get("dev")
    if dev is not None:
        print_table(dev_title(dev), dev_rows(dev))
        said.append(MEANING)
    for note in said:
        print(f"  {note}")
    print(f"\nreport  {run.folder / 'report.html'}\nUI      bnf ui")


def _shown(run: Run) -> dict[str, object]:
    path = run.folder / "summary.json"
    return {
        "run": run.id,
        **run.record.to_json(),
        "state": run.state,
        "folder": str(run.folder),
        "summary": read_json(path) if path.exists() else None,
    }


def show_report(name: str, *, open_it: bool, as_json: bool) -> None:
    run = taken_run(home_folder(), name, REPORT)
    path = run.folder / "report.html"
    if not path.exists():
        raise RecipeError(f"RUN must have a report, got none in {run.id} ({run.state}); finish it with `bnf run`")
    if open_it:
        webbrowser.open(path.as_uri())
    if as_json:
        print_json({"run": run.id, "report": str(path)})
    else:
        print(path)


def cancel_run(name: str, *, as_json: bool) -> None:
    """Ask a run to end, and wait until it has."""
    home = home_folder()
    run = taken_run(home, name)
    if run.state != RUNNING:
        raise RecipeError(f"RUN must be at work to be cancelled, got {run.id}, which is {run.state}; see `bnf runs`")
    set_prefect_environment(home)
    from flows.service.server import prefect_server

    with prefect_server(home):
        from prefect.exceptions import ObjectNotFound

        from flows.service.cancel import cancel

        try:
            cancel(UUID(run.record.flow_run_id))
        except ObjectNotFound:
            raise RecipeError(
                f"RUN must be known to the Prefect server, got {run.id}, which {os.environ['PREFECT_API_URL']} has not; set "
                "PREFECT_API_URL as it was when the run was started"
            ) from None
        while run.state == RUNNING:
            time.sleep(0.2)
            run = find_run(home, run.id)
    if as_json:
        print_json({"run": run.id, "state": run.state})
    else:
        print(f"{run.id}  {run.state}")


def collect_garbage(*, dry_run: bool, as_json: bool) -> None:
    """Drop what no run names, and print it."""
    home = home_folder()
    dropped = collect(home, dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, "bytes": sum(entry["bytes"] for entry in dropped), "dropped": dropped})
        return
    print_table("", [{**entry, "bytes": size(entry["bytes"])} for entry in dropped], words=True)
    verb = "would be" if dry_run else "were"
    print(f"{len(dropped)} folders, {size(sum(entry['bytes'] for entry in dropped))}, {verb} dropped from {home / 'artifacts'}")


def serve_ui(*, debug: bool) -> None:
    """Keep the home's server up until Ctrl-C; runs started meanwhile share it."""
    import threading

    home = home_folder()
    set_prefect_environment(home, debug=debug)
    from flows.service.server import prefect_server

    with prefect_server(home) as url:
        from flows.service.crashed import mark_crashed

        mark_crashed(home)
        print(f"Prefect UI of {home}\n{url}\nCtrl-C ends it", flush=True)
        threading.Event().wait()


def join_training(*, stay: bool) -> int:
    """Work as a further node on what the runs of this home launch on several nodes; the exit code."""
    from bnf.parallel.join import calls_in, join

    artifacts = home_folder() / "artifacts"
    print(f"join: waiting for a training in {artifacts}; Ctrl-C ends it", file=sys.stderr, flush=True)
    return join(lambda: calls_in(artifacts.glob("*/*.work")), stay=stay)


def score_file(benchmark: str, file: Path, file_format: Literal["native", "zeroeval"], *, lm_eval: bool, as_json: bool) -> None:
    """Score a file of completions; with `lm_eval`, also let lm-eval's own tasks score it."""
    from evaluation.report.lm_eval import cross_check_rows, is_main
    from evaluation.scoring.score import score_completions

    file = _file(file, "a completions.jsonl")
    result = score_completions(plugin(BENCHMARKS, benchmark, "BENCHMARK"), file, format=file_format, lm_eval=lm_eval)
    if as_json:
        print_json(result)
        return
    checked, disagreements = result.pop("cross_check", None), result.pop("disagreements", [])
    print_table("", [{"key": key, "value": _rounded(value)} for key, value in result.items()], words=True)
    if checked is not None:
        print_table("lm-eval's reading of the same completions", cross_check_rows(checked), words=True)
        main = [entry for entry in disagreements if is_main(entry, checked)]
        print_table(f"items on which {checked['main']['task']} ({checked['main']['filter']}) differs", main, words=True)


def _rounded(value: object) -> object:
    """A value as people read it, its numbers to two places; `--json` has all of them."""
    if isinstance(value, dict):
        return {name: _rounded(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return round(value, 2) if isinstance(value, float) else value


def score_judgments(
    benchmark: str,
    files: Sequence[Path],
    file_format: Literal["native", "upstream"] | None,
    questions: str | None,
    *,
    as_json: bool,
) -> None:
    from evaluation.judging.recorded.score import BENCHMARKS as JUDGED
    from evaluation.judging.recorded.score import judge_score
    from evaluation.judging.recorded.tables import judgment_rows

    name = benchmark.replace("-", "_")
    if name not in JUDGED:
        known = " or ".join(known.replace("_", "-") for known in JUDGED)
        raise RecipeError(f"BENCHMARK must be {known}, got {benchmark!r}; `bnf score` takes benchmarks with a rule")
    files = [_file(file, "recorded judgments") for file in files]
    if questions not in (None, "hub", "sample"):
        questions = str(find_path(str(questions), "--questions"))
    result = judge_score(name, files, file_format=file_format, questions=questions)
    if as_json:
        print_json(result)
        return
    for title, rows in judgment_rows(result):
        print_table(title, rows)


def _file(given: Path, what: str) -> Path:
    file = person_path(str(given))
    if file.is_dir():
        raise RecipeError(f"FILE must be a file, got the folder {file}; give the path of {what}")
    if not file.exists():
        raise FileNotFoundError(f"FILE must exist, got {file}; give the path of {what}")
    return file


def print_json(value: object) -> None:
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2)
    print()
