"""The page of a study of language models, docs/results/NAME.md, from what lies in its sweep's folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from evaluation.formats import interval, number, signed, visible
from evaluation.report.study_facts import Column
from evaluation.report.study_figure import figure
from evaluation.report.study_results import Cell, StudyResults, StudyRow
from evaluation.report.swept import FailedRun
from flows.commands.study_files import paragraph, table, write_page

# What Markdown would take for its own in a name or a message; a study's own text is Markdown.
_MARKUP = re.compile(r"[\\`*|]|<(?=[A-Za-z/!?])|(?<=\])\(")


def write(name: str, command: str, results: StudyResults, docs: Path) -> list[Path]:
    """Write page and figure; their paths. `command` is what writes them."""
    drawn = figure(results)
    page = "\n".join(_page(name, command, results, has_figure=drawn is not None))
    return write_page(docs, name, page, None if drawn is None else lambda path: path.write_text(drawn, encoding="utf-8"))


def rows_of(results: StudyResults) -> list[dict[str, str]]:
    """The table, a row for each setting; what isn't there is an empty cell."""
    return [
        {
            "setting": visible(row.title),
            "seeds": _seeds(row),
            **{column.title: _shown(column, row.cells.get(column.key), row) for column in results.columns},
        }
        for row in results.rows
    ]


def without_result(results: StudyResults) -> list[str]:
    """The runs without a result, those that collapsed apart from the others."""
    collapsed = [one for one in results.failed if one.is_collapsed]
    cancelled = [one for one in results.failed if one.is_cancelled]
    others = [one for one in results.failed if not one.is_collapsed and not one.is_cancelled]
    lines = [f"Collapsed, and so without a result: {', '.join(map(_run, collapsed))}."] if collapsed else []
    lines += [f"Cancelled, and so without a result: {', '.join(map(_run, cancelled))}."] if cancelled else []
    return lines + [f"Failed otherwise: {_run(one)}: {visible(one.why).splitlines()[0]}" for one in others]


def _seeds(row: StudyRow) -> str:
    """`3`, or `1 of 3: 2 collapsed`."""
    lost = {"collapsed": row.num_collapsed, "cancelled": row.num_cancelled, "failed": row.num_failed}
    said = ", ".join(f"{count} {what}" for what, count in lost.items() if count)
    return f"{row.num_seeds - sum(lost.values())} of {row.num_seeds}: {said}" if said else str(row.num_seeds)


def _shown(column: Column, cell: Cell | None, row: StudyRow) -> str:
    if cell is None:
        return ""
    if column.key == "collapsed":
        return f"{round(cell.mean * cell.num_seeds / 100)} of {cell.num_seeds}"
    mean = (signed if column.is_signed else number)(cell.mean, column.digits)
    fewer = f", n {cell.num_seeds}" if cell.num_seeds != row.num_seeds else ""
    last = _LAST_ROUND if cell.is_of_last_round else ""
    return f"{mean} {interval(cell.ci, column.digits, with_sign=column.is_signed)}".rstrip() + fewer + last


def last_rounds(results: StudyResults) -> list[str]:
    """Which figures are of a last round alone, and what that means; none where there are none."""
    marked: dict[str, list[str]] = {}
    for row in results.rows:
        known = [column for column in results.columns if column.key in row.cells]
        titles = [column.title for column in known if row.cells[column.key].is_of_last_round]
        if titles:
            marked.setdefault("; ".join(titles), []).append(visible(row.title))
    if not marked:
        return []
    which = ". ".join(f"{', '.join(rows)}: {titles}" for titles, rows in marked.items())
    return [
        f"{_LAST_ROUND.strip()} Of the last round alone: it is measured from that round's start, on that round's data and dev set. It is "
        f"no figure of the whole training, and is compared with none. {which}."
    ]


def _run(one: FailedRun) -> str:
    return f"{visible(one.name)} seed {one.seed}"


def _page(name: str, command: str, results: StudyResults, *, has_figure: bool) -> Iterator[str]:
    study = results.study
    yield from (f"# {study.title}", "")
    yield from ("## Where BNF loses", "", _text(results.answer.sentence), "")
    for point in results.answer.points:
        yield from (f"**{_text(point.question)}**", "", *_points(point.sentences), "")
    yield from ("## The question", "", paragraph([study.question]), "")
    yield from (
        "## The design",
        "",
        "It was fixed before the results, but for what stands last." if study.changed else "It was fixed before the results.",
        "",
        *(paragraph([f"- {sentence}"]) for sentence in study.design),
        *_points(results.reading.tested),
        *(paragraph([f"- Changed: {sentence}"]) for sentence in study.changed),
        "",
    )
    yield from ("## The numbers", "")
    if results.rows:
        yield from (*table([{_plain(key): _plain(value) for key, value in row.items()} for row in rows_of(results)]), "")
    yield from (_text(_HOW_TO_READ), "")
    rounds = last_rounds(results)
    yield from ((*_points(rounds), "") if rounds else ())
    lost = without_result(results)
    yield from ((*_points(lost), "") if lost else ())
    yield from ((*_points(results.notes), "") if results.notes else ())
    if has_figure:
        yield from (f"![{study.title}: the table's columns with their intervals](../images/{name}.svg)", "")
    holds, open_ = results.reading.holds, results.reading.open
    yield from ("## What holds", "", *(_points(holds) or ["Nothing."]), "")
    everything = "Every difference that was tested holds." if holds else "Nothing was tested."
    yield from ("## What doesn't", "", *(_points(open_) or [everything]), "")
    yield from (_text(results.reading.family), "")
    yield from ("## How it was made", "", *_made(command, results))


_LAST_ROUND = " †"
_HOW_TO_READ = (
    "Means over the seeds with 95 % intervals: of gain, tax, Δ and tokens over items and seeds, of the others by Student's t over the "
    "seeds. n is the number of seeds where a column has fewer than the setting. An empty cell: there is no such figure."
)


def _made(command: str, results: StudyResults) -> list[str]:
    made = results.made
    versions = ", ".join(f"{package} {' and '.join(found)}" for package, found in made.versions.items())
    collapsed = any(one.is_collapsed for one in results.failed)
    hours = f"{made.seconds / 3600:.1f} hours: the time of all runs' tasks, shared ones counted once"
    hours += ", without the trainings that collapsed, of which none is recorded" if collapsed else ""
    hours += f", and without {made.num_unknown} tasks whose artifacts are gone" if made.num_unknown else ""
    return [
        f"`{command}`, on {_text(' and '.join(made.machines))}, {made.date}.",
        "",
        _text(f"{hours}. {_at_once(made.at_once)} Versions: {versions}."),
        "",
        paragraph(
            [
                f"The sweep's folder in the home, `sweeps/{results.sweep}`, has the figures of every run as tidy tables; their columns",
                "are in [sweep_results.md](../sweep_results.md#the-tables).",
            ]
        ),
        "",
    ]


def _at_once(number: int) -> str:
    return f"Up to {number} runs were at work at a time." if number > 1 else "One run was at work at a time."


def _points(sentences: Sequence[str]) -> list[str]:
    return [paragraph([f"- {_plain(sentence)}"]) for sentence in sentences]


def _text(text: str) -> str:
    return paragraph([_plain(text)])


def _plain(text: str) -> str:
    """Text that reads as it stands, on one line."""
    return _MARKUP.sub(r"\\\g<0>", visible(" ".join(text.split())))
