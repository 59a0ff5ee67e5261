"""`bnf study`: what a study found, as tables and as a page of the docs."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Sequence

from evaluation.report.study_results import StudyResults
from evaluation.report.swept import PAGE, RESULTS
from flows.commands import sweep_study_page
from flows.commands.study_page import STUDIES, run, write
from flows.commands.sweeping import run_sweep, shown
from flows.display import print_json, print_notes, print_table
from flows.errors import RecipeError
from flows.recipe.studies import question_of, study_names, study_path
from flows.recipe.sweep_file import Sweep, load_sweep, made_of, same_but_code
from flows.runs.home import home_folder
from flows.runs.record import RUNNING
from flows.runs.sweeps import SweepFolder, find_sweep, held
from flows.sweep_end import compare_again
from flows.wording import place
from tasks.home_lock import using
from tasks.keys import ROOT

# A path from the root, the person's home or above the working folder, as a setting or inside one; an address is none.
_NAME = r"""[^\s"',\]}/]+"""
_MACHINE_PATH = re.compile(rf"""(?<![\w.:/~-])(?:~|\.\.)?/(?:{_NAME}/)*?(?P<kept>(?:{_NAME}/)?{_NAME})/?(?=[\s"',\]}}]|$)""")


def study(name: str | None, overrides: Sequence[str] = (), *, write_page: bool, as_json: bool, debug: bool = False) -> int:
    """Run a study; with `write_page` write its page and its figure into the docs of this checkout. Without a name list all.

    Returns:
        The exit code: 1 where a run of its sweep failed.
    """
    if name is None:
        if write_page:
            raise RecipeError("NAME must be given with --write-page, got none; name a study, or leave the option out")
        _list(as_json=as_json)
        return 0
    if name in STUDIES:
        if overrides:
            raise RecipeError(
                f"[key=value …] must stand with a study of language models, got {overrides[0]} with {name}; leave it out"
            )
        _simulate(name, write_page=write_page, as_json=as_json)
        return 0
    if name not in study_names():
        known = "\n".join(f"  {one}: {question}" for one, question in _questions().items())
        raise RecipeError(f"NAME must be one of {', '.join(_questions())}, got {name!r}; correct it\n{known}")
    path = study_path(name)
    command = shlex.join(["bnf", "study", name, "--write-page", *_results_settings(overrides)])

    def show(folder: SweepFolder) -> None:
        _show(name, command, folder, write_page=write_page, as_json=as_json)

    sweep = load_sweep(path, overrides)
    if sweep.study is None:
        question_of(name)
    found = _complete(sweep) if write_page else None
    if found is not None:
        show(found)
        return 1 if found.record.failed else 0
    return run_sweep(path, overrides, as_json=as_json, debug=debug, show=show)


def _results_settings(overrides: Sequence[str]) -> list[str]:
    """The settings that decide results, as a page can name them: those of `resources` decide none, and where files lie on this machine is
    nobody else's: of an absolute path its folder and its name are left.
    """
    return [_MACHINE_PATH.sub(r"\g<kept>", word) for word in overrides if not word.startswith("resources.")]


def _questions() -> dict[str, str]:
    """What each study asks, by its name."""
    simulated = {name: " ".join(one.question) for name, one in STUDIES.items()}
    return simulated | {name: question_of(name) for name in study_names()}


def _list(*, as_json: bool) -> None:
    if as_json:
        print_json({"studies": [{"study": name, "question": question} for name, question in _questions().items()]})
    else:
        print_table("", [{"study": name, "asks": question} for name, question in _questions().items()], words=True)


def _complete(sweep: Sweep) -> SweepFolder | None:
    """The study's folder where its sweep has ended, as the file says it today, with a result of every run or a collapse of its training,
    which another try would repeat. Results that other code made of the runs are made anew where the runs are still there.
    """
    home = home_folder()
    found = find_sweep(home, sweep.name)
    if found is None or found.state in (RUNNING, "crashed"):
        return None
    ended = all(run.is_collapsed if run.why is not None else run.state == "completed" for run in found.record.runs)
    made, today = StudyResults.made_of_in(found.folder), made_of(sweep)
    if not ended or made is None or not same_but_code(made, today):
        return None
    if made == today and StudyResults.read(found.folder) is not None:
        return found
    with using(home), held(home, sweep.name):
        return found if compare_again(home, sweep, found) else None


def _show(name: str, command: str, folder: SweepFolder, *, write_page: bool, as_json: bool) -> None:
    results = StudyResults.read(folder.folder)
    assert results is not None, "the sweep of a study leaves its results"
    if write_page and not any(run.why is None or run.is_collapsed for run in folder.record.runs):
        failed = next(run for run in folder.record.runs if run.why is not None)
        raise RecipeError(
            f"--write-page must have a run with a result, got none, as with {failed.name}: {failed.why}; the same command goes on"
        )
    paths = sweep_study_page.write(name, command, results, ROOT / "docs") if write_page else []
    if as_json:
        found = {"answer": results.answer.sentence, "rows": [dataclasses.asdict(row) for row in results.rows]}
        print_json({"study": name, **shown(folder), **found, "files": [str(path) for path in paths]})
        return
    print_table(results.study.title, sweep_study_page.rows_of(results), words=True)
    notes = [*sweep_study_page.last_rounds(results), *sweep_study_page.without_result(results), results.reading.family]
    print_notes([results.answer.sentence, *notes])
    print(f"tables  {place(folder.folder / RESULTS)}, and .parquet and .tex beside it\npage    {place(folder.folder / PAGE)}")
    for path in paths:
        print(f"written: {path}")


def _simulate(name: str, *, write_page: bool, as_json: bool) -> None:
    """A study that needs no language model."""
    results = run(name)
    paths = write(results, ROOT / "docs") if write_page else []
    if as_json:
        print_json({"study": name, **results.to_json(), "files": [str(path) for path in paths]})
        return
    for title, rows in results.tables():
        print_table(title, rows)
    print_table("compared", results.comparison_rows(), words=True)
    for path in paths:
        print(f"written: {path}")
