"""What lm-evaluation-harness says, as a run's summary and its tables show it: cross-checks of our scores, and its own tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evaluation.formats import NONE, interval, number, signed
from evaluation.harness.room import what_did_not_fit
from evaluation.records import Record, read_json, read_records
from evaluation.report.inputs import MODELS, ByModel
from evaluation.statistics import paired_difference

# A cross-check lists so many disagreements in the report; its stage's file has all of them.
NUM_SHOWN = 50


def cross_check_of(folder: Path) -> Record:
    """A cross-check's columns, and the items that its main column and our scorer decide differently."""
    found = read_json(folder / "cross_check.json")
    differing = [entry for entry in read_records(folder / "disagreements.jsonl") if is_main(entry, found)]
    return {**found, "disagreements": differing[:NUM_SHOWN], "n_disagreements": len(differing)}


def is_main(disagreement: Record, found: Record) -> bool:
    """Whether a disagreement is one of the cross-check's main column."""
    return all(disagreement[key] == found["main"][key] for key in ("task", "filter", "metric"))


def cross_check_rows(found: Record) -> list[dict[str, str]]:
    """One row of text per column, in percent; `agreement` is the share of items on which lm-eval and we say the same."""
    return [
        {
            "lm-eval task": column["task"],
            "filter": column["filter"],
            "metric": column["metric"],
            "value": _with_error(column, 2),
            "agreement": number(column["agreement"], 2),
            "items": str(column["n"]),
            "killed": str(column["n_killed"]),
        }
        for column in found["columns"]
    ]


def tasks_of(folders: ByModel) -> Record:
    """lm-eval's results by task and metric: {task: {metric: {base, aligned, delta, delta_ci, …}}}, on lm-eval's own scale.

    `folders` has the folder of each task's results by model. A difference is paired by document where the metric is one number for
    each of them.
    """
    return {name: _task(by_model) for name, by_model in folders.items()}


def task_rows(summary: Record) -> list[dict[str, str]]:
    """One row of text per task and metric."""
    return [
        {
            "lm-eval task": task,
            "metric": metric,
            **{model: _value(entry[model]) for model in MODELS if any(model in one for one in metrics.values())},
            "Δ [95 %]": f"{signed(entry.get('delta'), 4)} {interval(entry.get('delta_ci'), 4, with_sign=True)}".rstrip(),
            "documents": str(entry["n"] or NONE),
        }
        for tasks in summary["lm_eval"].values()
        for task, metrics in tasks.items()
        for metric, entry in metrics.items()
    ]


def room_of(folders: ByModel) -> Record:
    """How the requests of lm-eval's tasks fitted into the models' contexts: {task: {model: the fields of a `Room`}}."""
    found: Record = {name: {} for name in folders}
    for name, by_model in folders.items():
        for model, folder in by_model.items():
            # Results of older versions have none.
            if (room := read_json(folder / "results.json").get("room")) is not None:
                found[name][model] = room
    return found


def room_notes(summary: Record) -> list[str]:
    """A sentence for each task and model with requests that did not fit."""
    return [
        f"lm-eval's {name}, {model}: {said}."
        for name, rooms in summary.get("lm_eval_room", {}).items()
        for model, room in rooms.items()
        if (said := what_did_not_fit(room)) is not None
    ]


def _value(entry: Record | None) -> str:
    return NONE if entry is None else _with_error(entry, 4)


def _with_error(entry: Record, digits: int) -> str:
    """`value ± standard error`. One of 0 is left out: where all documents have one value, nothing tells how others would vary."""
    return f"{number(entry['value'], digits)} ± {number(entry['stderr'] or None, digits)}"


def _task(folders: Mapping[str, Path]) -> Record:
    results = {model: read_json(folder / "results.json") for model, folder in folders.items()}
    samples = {model: _values(folder / "samples.jsonl") for model, folder in folders.items()}
    found: Record = {}
    for model, result in results.items():
        for task, metrics in result["results"].items():
            for metric, entry in metrics.items():
                found.setdefault(task, {}).setdefault(metric, {"n": None, "base": None, "aligned": None})[model] = entry
    for task, metrics in found.items():
        for metric, entry in metrics.items():
            first, *others = (values.get((task, metric), {}) for values in samples.values())
            entry["n"] = len(first) or None
            shared = [document for document in first if document in others[0]] if others else []
            if len(shared) < 2 or set(samples) != set(MODELS):
                continue
            base, aligned = ([samples[model][task, metric][document] for document in shared] for model in MODELS)
            difference = paired_difference(base, aligned)
            entry |= {
                "delta": difference.delta / 100,
                "delta_ci": [limit / 100 for limit in difference.ci] if difference.ci else None,
                "n_paired": difference.n,
            }
    return found


def _values(path: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Of each task and metric (as `acc,none`) the value of each document."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for sample in read_records(path):
        for metric, value in sample["metrics"].items():
            document = f"{sample['doc_id']}-{sample['doc_hash']}"
            found.setdefault((sample["task"], f"{metric},{sample['filter']}"), {})[document] = value
    return found
