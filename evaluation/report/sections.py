"""The sections of the page, in its order. One entry of `SECTIONS` adds a section.

A section has an anchor, its title in the page's navigation, and a function that makes from the inputs and the summary what its template,
`templates/section_ANCHOR.html.j2`, shows as `c`. Where there is nothing to show, the function gives None, and the page has neither the
section nor its link.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import yaml

from evaluation.records import Record
from evaluation.report import checkpoints, likelihoods, training_data
from evaluation.report.ches import ches_notes, ches_rows, highest_rows
from evaluation.report.dev_set import dev_meaning, dev_rows, dev_title
from evaluation.report.examples import browse
from evaluation.report.inputs import MODELS, ReportInputs
from evaluation.report.judged import judge_counts, judge_notes, judge_rows
from evaluation.report.judged_answers import judged_answers
from evaluation.report.lm_eval import cross_check_rows, task_rows
from evaluation.report.rounds import round_rows
from evaluation.report.samples import curves
from evaluation.report.summary import label, notes, sample_rows, shown_names, table_rows
from evaluation.report.tokens import are_elsewhere, shown_tokens

Content = Mapping[str, object]


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    anchor: str
    title: str
    content: Callable[[ReportInputs, Record], Content | None]

    @property
    def template(self) -> str:
        return f"section_{self.anchor.replace('-', '_')}.html.j2"


def _results(inputs: ReportInputs, summary: Record) -> Content | None:
    # Notes are of training too: without a benchmark they stand alone.
    rows, said = table_rows(summary), notes(summary)
    if not rows and not said:
        return None
    return {
        "rows": rows,
        "tax": summary["alignment_tax"],
        "alone": _alone(summary),
        "at_k": sample_rows(summary),
        "curves": curves(summary, shown_names(summary)),
        "notes": said,
    }


def _alone(summary: Record) -> list[dict[str, str]]:
    """The rows of benchmarks that one model alone has."""
    rows = zip(table_rows(summary), summary["benchmarks"].values(), strict=True)
    return [row for row, entry in rows if "delta" not in entry]


@dataclass(frozen=True)
class GroupRow:
    """A group of a benchmark's items, such as a level or a subject: how many it has, and each model's figures."""

    group: str
    n: int
    models: Mapping[str, Record]


def _by_group(inputs: ReportInputs, summary: Record) -> Content | None:
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
    return {"groups": found} if found else None


@dataclass(frozen=True)
class CheckedScore:
    """lm-eval's reading of a model's completions of a benchmark, and its columns as rows of text."""

    benchmark: str
    model: str
    checked: Record
    rows: list[dict[str, str]]


def _checks(inputs: ReportInputs, summary: Record) -> Content | None:
    found = [
        CheckedScore(label(name, entry), model, entry[model]["cross_check"], cross_check_rows(entry[model]["cross_check"]))
        for name, entry in summary["benchmarks"].items()
        for model in MODELS
        if entry.get(model, {}).get("cross_check")
    ]
    return {"checks": found} if found else None


def _lm_eval(inputs: ReportInputs, summary: Record) -> Content | None:
    rows = task_rows(summary)
    return {"rows": rows} if rows else None


def _judges(inputs: ReportInputs, summary: Record) -> Content | None:
    entries = summary["judges"]
    if not entries:
        return None
    answers = judged_answers(inputs.judges, entries, inputs.generations)
    found = [
        {
            "label": label(name, entry),
            "entry": entry,
            "rows": judge_rows(name, entry),
            "counts": judge_counts(entry),
            "answers": answers[name],
        }
        for name, entry in entries.items()
    ]
    told = [text for name, entry in entries.items() for text in judge_notes(label(name, entry), entry)]
    return {"judges": found, "told": told}


def _rounds(inputs: ReportInputs, summary: Record) -> Content | None:
    rows = round_rows(summary["rounds"])
    return {"rows": rows, "spent": summary["rounds"][-1]["spent"]} if rows else None


def _training(inputs: ReportInputs, summary: Record) -> Content | None:
    figures, train = likelihoods.training(inputs.train), summary["train"]
    if not figures and not train:
        return None
    dev = (train or {}).get("dev")
    shown_dev = {"title": dev_title(dev), "rows": dev_rows(dev), "meaning": dev_meaning(dev)} if dev else None
    return {"figures": figures, "train": train, "dev": shown_dev}


def _likelihood(inputs: ReportInputs, summary: Record) -> Content | None:
    found = likelihoods.shifts(summary["shifts"])
    return {"shifts": found, "tokens": shown_tokens(inputs), "elsewhere": are_elsewhere(inputs)} if found else None


def _examples(inputs: ReportInputs, summary: Record) -> Content | None:
    found = browse(
        {
            name: ({model: inputs.scores[name][model] for model in MODELS if model in inputs.scores[name]}, generations)
            for name in summary["benchmarks"]
            if (generations := inputs.generations.get(name))
        }
    )
    shown = [(label(name, summary["benchmarks"][name]), one) for name, one in found.items() if one.chosen]
    return {"benchmarks": shown} if shown else None


def _data(inputs: ReportInputs, summary: Record) -> Content | None:
    data = summary["data"]
    contamination, ches = summary["contamination"], summary["ches"]
    if not data:
        return None
    return {
        "data": data,
        "tables": training_data.tables(data),
        "figures": training_data.figures(data),
        "ches": {"rows": ches_rows(ches), "highest": highest_rows(ches), "notes": ches_notes(ches)} if ches else None,
        "contamination": contamination,
    }


def _run(inputs: ReportInputs, summary: Record) -> Content:
    return {"recipe": yaml.safe_dump(summary["recipe"], sort_keys=False, allow_unicode=True)}


SECTIONS = (
    Section("results", "Results", _results),
    Section("groups", "By group", _by_group),
    Section("checks", "Cross-check", _checks),
    Section("lm-eval", "lm-eval", _lm_eval),
    Section("judges", "Judge", _judges),
    Section("examples", "Examples", _examples),
    Section("training", "Training", _training),
    Section("checkpoints", "Over training", checkpoints.content),
    Section("rounds", "Samples", _rounds),
    Section("likelihood", "Likelihood", _likelihood),
    Section("data", "Data", _data),
    Section("run", "Stages and recipe", _run),
)
