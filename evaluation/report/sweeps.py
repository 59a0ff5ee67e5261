"""The end of a sweep: tidy tables of its runs, and one page that compares its settings.

The page needs no network and no script; it links to its runs' reports, which lie where they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from evaluation import formats
from evaluation.records import replacing
from evaluation.report import tables
from evaluation.report.build import REPORT_FILE, shown_value
from evaluation.report.charts import Curve
from evaluation.report.sweep_charts import Place, pareto, shift_charts, shifts_of
from evaluation.report.sweep_results import REFERENCE, OfSeeds, Row, SweepResults, find_results
from evaluation.report.sweep_words import answer, notes, reference_of
from evaluation.report.swept import PAGE, RESULTS, SweepFacts, SweptRun

_DEV = {"eval_accuracy": "dev accuracy", "eval_loss": "dev loss"}
_TABLES = (RESULTS, tables.PARQUET, tables.LATEX)


def write(runs: Sequence[SweptRun], folder: Path, sweep: SweepFacts) -> None:
    """Writes results.parquet, results.csv, results.tex and report.html into `folder`, each replaced as a whole.

    Args:
        runs: Those with a result; those that were trained only, to be chosen from, are in the tables and the page's list of runs.

    Raises:
        ValueError: where a file of a run is ill-formed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables.write(tables.results(runs, sweep.name, sweep.failed), folder)
    page = render(runs, folder, sweep)
    with replacing(folder / PAGE) as partial:
        partial.write_text(page, encoding="utf-8")


def render(runs: Sequence[SweptRun], folder: Path, sweep: SweepFacts) -> str:
    """The page's HTML; its links to the runs' reports are relative to `folder`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown_value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for shown in (formats.number, formats.signed, formats.interval, formats.p_value, formats.difference):
        environment.filters[shown.__name__] = shown
    environment.filters["dev"] = _dev_shown
    found = find_results(runs, sweep)
    numbers = _numbers(found.rows)
    shifts = [shift for row in found.rows if (shift := shifts_of(row.title, list(row.setting.runs.values())))]
    return environment.get_template("sweep.html.j2").render(
        sweep=sweep,
        results=found,
        answer=answer(found, sweep),
        notes=notes(found),
        reference=reference_of(found),
        is_compared=any(row.against is not None for row in found.rows),
        facts=_facts(runs, found, sweep),
        tables=_TABLES,
        pareto=_pareto(found.rows, numbers),
        dev_title=_DEV.get(found.dev_figure or "", found.dev_figure),
        by_title=_DEV.get(sweep.by or "", sweep.by),
        by=sweep.by,
        dev_figure=found.dev_figure,
        shifts=shift_charts(shifts),
        shift_lines=[Curve("", "preferred", "preferred"), Curve("", "dispreferred", "dispreferred")],
        runs=[_run(run, folder, found) for run in runs],
        labels=found.scores.labels,
    )


def _numbers(rows: Sequence[Row]) -> dict[str, int]:
    """The number of each setting in charts: 0 is BNF's, where one setting alone is BNF."""
    references = [row.title for row in rows if row.setting.objective == REFERENCE]
    own = references[0] if len(references) == 1 else None
    others = [row.title for row in rows if row.title != own]
    return {title: 0 if title == own else 1 + others.index(title) for title in (row.title for row in rows)}


def _pareto(rows: Sequence[Row], numbers: Mapping[str, int]) -> Markup | None:
    places = [
        Place(row.title, row.gain.mean, row.gain.ci, row.tax.mean, row.tax.ci, numbers[row.title])
        for row in rows
        if row.gain is not None and row.tax is not None
    ]
    # A point alone is surpassed by none and says no more than its numbers.
    return pareto(places) if len(places) > 1 else None


def _facts(runs: Sequence[SweptRun], found: SweepResults, sweep: SweepFacts) -> list[tuple[str, str]]:
    compared = sum(len(row.setting.runs) for row in found.rows)
    # One that was trained and has no dev figure to be chosen by is among both.
    without = {one.run for one in sweep.failed}
    trained = sum(run.run not in without for run in runs) - compared
    counts = [(compared, "compared"), (trained, "trained to choose from"), (len(sweep.failed), "without a result")]
    facts = [
        ("Runs", ", ".join(f"{count} {what}" for count, what in counts if count)),
        *((key, ", ".join(map(str, values))) for key, values in sweep.axes.items()),
    ]
    if sweep.by is not None:
        over = ", ".join(sweep.over)
        facts.append(
            ("Chosen", f"{over}, by the mean {_DEV.get(sweep.by, sweep.by)} over seeds, before anything was evaluated")
        )
    items = [f"{len(found.scores.clusters[name])} of {shown}" for name, shown in found.scores.labels.items()]
    if items:
        facts.append(("Items", ", ".join(items)))
    return [*facts, ("Command", sweep.command)]


def _run(run: SweptRun, folder: Path, found: SweepResults) -> dict[str, object]:
    report = run.folder / REPORT_FILE
    return {
        "run": run.run,
        "name": run.name,
        "seed": run.seed,
        "link": quote(Path(os.path.relpath(report, folder)).as_posix()) if report.is_file() else None,
        "is_chosen": run.is_chosen,
        "is_evaluated": bool(run.scores or run.judges),
        "dev": run.dev.get(found.dev_figure) if found.dev_figure else None,
        "changes": {
            name: 100 * sum(scored.changes) / len(scored.changes)
            for row in found.rows
            for seed, of_seed in row.setting.runs.items()
            if of_seed is run
            for name, scored in row.setting.scores[seed].items()
        },
    }


def _dev_shown(value: OfSeeds | float | None, figure: str | None) -> str:
    """A dev figure of one run or in the mean: accuracy in percent."""
    if value is None:
        return formats.NONE
    factor, digits = (100.0, 1) if figure == "eval_accuracy" else (1.0, 4)
    if isinstance(value, float):
        return formats.number(factor * value, digits)
    ci = None if value.ci is None else [factor * end for end in value.ci]
    return f"{formats.number(factor * value.mean, digits)} {formats.interval(ci, digits)}".rstrip()
