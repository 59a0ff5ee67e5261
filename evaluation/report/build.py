"""The report of a run: summary.json, and report.html, one file that needs no network, no script and no other file.

Everything that comes from models or data is escaped by the template's autoescape, and what can't be seen in it is made visible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from evaluation import formats
from evaluation.records import Record, replacing, write_json
from evaluation.report import charts, checkpoints, likelihoods, training_data
from evaluation.report.dev_set import MEANING, dev_rows, dev_title
from evaluation.report.examples import examples
from evaluation.report.facts import facts
from evaluation.report.inputs import MODELS, ReportInputs
from evaluation.report.judged import judge_counts, judge_notes, judge_rows
from evaluation.report.lm_eval import cross_check_rows, task_rows
from evaluation.report.rounds import round_rows
from evaluation.report.summary import label, notes, summarize, table_rows

SUMMARY_FILE = "summary.json"
REPORT_FILE = "report.html"


@dataclass(frozen=True)
class GroupRow:
    """A group of a benchmark's items, such as a level or a subject: how many it has, and each model's figures."""

    group: str
    n: int
    models: Mapping[str, Record]


@dataclass(frozen=True)
class CheckedScore:
    """lm-eval's reading of a model's completions of a benchmark, and its columns as rows of text."""

    benchmark: str
    model: str
    checked: Record
    rows: list[dict[str, str]]


def build_report(inputs: ReportInputs, output_dir: Path) -> Record:
    """Writes summary.json and report.html; returns the summary. The same inputs give the same bytes.

    Raises:
        ValueError: where a stage's file is ill-formed.
    """
    summary = summarize(inputs)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / SUMMARY_FILE, summary, indent=1, allow_nan=False)
    with replacing(output_dir / REPORT_FILE) as partial:
        partial.write_text(render(inputs, summary), encoding="utf-8")
    return summary


def render(inputs: ReportInputs, summary: Record) -> str:
    """The report's HTML for a summary and the inputs it was made from."""
    import yaml
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for shown in (formats.number, formats.signed, formats.interval, formats.p_value, formats.duration):
        environment.filters[shown.__name__] = shown
    return environment.get_template("report.html.j2").render(
        s=summary,
        rows=table_rows(summary),
        notes=notes(summary),
        label=label,
        judge_rows=judge_rows,
        judge_counts=judge_counts,
        compared={name: entry for name, entry in summary["benchmarks"].items() if "delta" in entry},
        facts=facts(summary),
        differences=_differences(summary),
        judged=[text for name, entry in summary["judges"].items() for text in judge_notes(label(name, entry), entry)],
        groups=_groups(summary),
        checks=_checks(summary),
        lm_eval_rows=task_rows(summary),
        rounds=round_rows(summary["rounds"]),
        training=likelihoods.training(inputs.train),
        checkpoints=checkpoints.content(inputs, summary),
        dev_title=dev_title,
        dev_rows=dev_rows,
        dev_meaning=MEANING,
        shifts=likelihoods.shifts(summary["shifts"]),
        data_tables=training_data.tables(summary["data"]) if summary["data"] else [],
        data_figures=training_data.figures(summary["data"]) if summary["data"] else [],
        examples=[
            (label(name, entry), examples(_in_order(inputs.scores[name]), inputs.generations.get(name, {})))
            for name, entry in summary["benchmarks"].items()
        ],
        recipe=yaml.safe_dump(summary["recipe"], sort_keys=False, allow_unicode=True),
    )


def _shown(value: object) -> str:
    """What an expression of the template puts out, before it is escaped."""
    if isinstance(value, Markup):
        return value
    return formats.NONE if value is None else formats.visible(str(value))


def _in_order(folders: Mapping[str, Path]) -> dict[str, Path]:
    return {model: folders[model] for model in MODELS if model in folders}


def _differences(summary: Record) -> Markup | None:
    rows = [
        (label(name, entry), entry["delta"], entry["delta_ci"], entry["verdict"])
        for name, entry in summary["benchmarks"].items()
        if entry.get("delta") is not None
    ]
    return charts.differences(rows) if rows else None


def _groups(summary: Record) -> list[tuple[str, str, list[GroupRow]]]:
    """(benchmark, field, rows) of every benchmark whose items name a level, a subject or the like."""
    found = []
    for name, entry in summary["benchmarks"].items():
        models = [model for model in MODELS if model in entry]
        first = entry[models[0]].get("groups") or {}
        for field, groups in first.items():
            rows = [
                GroupRow(
                    group,
                    result["n"],
                    {model: (entry[model].get("groups") or {}).get(field, {}).get(group, {}) for model in models},
                )
                for group, result in groups.items()
            ]
            if rows:
                found.append((label(name, entry), field, rows))
    return found


def _checks(summary: Record) -> list[CheckedScore]:
    return [
        CheckedScore(label(name, entry), model, entry[model]["cross_check"], cross_check_rows(entry[model]["cross_check"]))
        for name, entry in summary["benchmarks"].items()
        for model in MODELS
        if entry.get(model, {}).get("cross_check")
    ]
