"""The report of a run: summary.json, and report.html, one file that needs no network, no script and no other file. It links the pages of
items (`item_pages.py`) that lie beside it.

Everything that comes from models or data is escaped by the template's autoescape, and what can't be seen in it is made visible.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from evaluation import formats
from evaluation.records import Record, replacing, write_json
from evaluation.report import charts
from evaluation.report.answer import answer
from evaluation.report.facts import facts
from evaluation.report.inputs import ReportInputs
from evaluation.report.sections import SECTIONS
from evaluation.report.summary import label, summarize

if TYPE_CHECKING:
    from jinja2 import Environment

SUMMARY_FILE = "summary.json"
REPORT_FILE = "report.html"


def build_report(inputs: ReportInputs, output_dir: Path, item_pages: Mapping[str, str] | None = None) -> Record:
    """Writes summary.json and report.html; returns the summary. The same inputs give the same bytes.

    Args:
        item_pages: Where, seen from the report, the pages of items lie, by benchmark.

    Raises:
        ValueError: where a stage's file is ill-formed.
    """
    summary = summarize(inputs)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / SUMMARY_FILE, summary, indent=1, allow_nan=False)
    with replacing(output_dir / REPORT_FILE) as partial:
        partial.write_text(render(inputs, summary, item_pages), encoding="utf-8")
    return summary


def render(inputs: ReportInputs, summary: Record, item_pages: Mapping[str, str] | None = None) -> str:
    """The report's HTML for a summary and the inputs it was made from."""
    pages = item_pages or {}
    found = [(section, section.content(inputs, summary)) for section in SECTIONS]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            s=summary,
            answer=answer(summary),
            differences=_differences(summary),
            facts=facts(summary),
            sections=[(section, content) for section, content in found if content is not None],
            item_pages=[(label(name, entry), pages[name]) for name, entry in summary["benchmarks"].items() if name in pages],
        )
    )


def environment() -> Environment:
    """The templates of pages: every expression is made visible and escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown_value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for shown in (formats.number, formats.signed, formats.interval, formats.p_value, formats.duration):
        found.filters[shown.__name__] = shown
    return found


def shown_value(value: object) -> str:
    """What an expression of the template puts out, before it is escaped."""
    if isinstance(value, Markup):
        return value
    return formats.NONE if value is None else formats.visible(str(value))


def _differences(summary: Record) -> Markup | None:
    rows = [
        (label(name, entry), entry["delta"], entry["delta_ci"], entry["verdict"])
        for name, entry in summary["benchmarks"].items()
        if entry.get("delta") is not None
    ]
    return charts.differences(rows) if rows else None
