"""What a training measured on its dev set: the figures by which settings are chosen, as terminal, report and `compare` show them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from evaluation.formats import NONE, number, signed
from evaluation.records import Record, read_json, read_records


class _Column(NamedTuple):
    title: str
    metric: str
    digits: int
    is_share: bool = False
    has_sign: bool = False


_COLUMNS = (
    _Column("loss", "eval_loss", 4),
    _Column("accuracy", "eval_rewards/accuracies", 1, is_share=True),
    _Column("preferred", "eval_logps_shift/chosen", 3, has_sign=True),
    _Column("dispreferred", "eval_logps_shift/rejected", 3, has_sign=True),
    _Column("KL", "eval_samples/kl", 3),
    _Column("unterminated", "eval_samples/unterminated", 1, is_share=True),
    _Column("tokens", "eval_samples/tokens", 1),
)
_OF_EACH = "Dev set: loss and accuracy (preferred above dispreferred rewards) are the objective's own and compare runs of one objective."
_OF_SHIFTS = "Preferred and dispreferred completions: log-probability per token against {model}, in nats."
_OF_SAMPLES = (
    "KL to {model} in nats, the share that did not end and the mean length are of the policy's own samples of dev prompts."
)


def read_dev(folder: Path) -> Record | None:
    """The dev set's size and every evaluation, from a training's folder; None where it had no dev set.

    Raises:
        ValueError: where a file is ill-formed.
    """
    dev = read_json(folder / "train_summary.json").get("dev")
    if dev is None:
        return None
    evaluations = [record for record in read_records(folder / "metrics.jsonl") if "eval_loss" in record]
    summary = read_json(folder / "train_summary.json")
    kept, compared = summary.get("kept"), {name: summary[name] for name in ("compared_with",) if name in summary}
    return {**dev, "evaluations": evaluations, **({"kept": kept["step"]} if kept else {}), **compared}


def dev_title(dev: Record) -> str:
    """`dev set: 8 groups, 8 samples of their prompts`"""
    samples = dev["after"].get("eval_samples/number")
    return f"dev set: {dev['groups']} groups" + (f", {samples} samples of their prompts" if samples is not None else "")


def dev_meaning(*devs: Record) -> str:
    """What the figures of these dev sets mean, those alone that one of them has."""
    metrics = {column.metric for column in _columns([entry for dev in devs for entry in (dev["before"], dev["after"])])}
    shifts = [_OF_SHIFTS] if any(metric.startswith("eval_logps_shift/") for metric in metrics) else []
    samples = [_OF_SAMPLES] if any(metric.startswith("eval_samples/") for metric in metrics) else []
    # Where a recipe names another reference, both are measured from the base model.
    model = " or ".join(dict.fromkeys(dev.get("compared_with", "the reference") for dev in devs))
    return " ".join([_OF_EACH, *shifts, *samples]).format(model=model)


def dev_rows(dev: Record) -> list[dict[str, str]]:
    """One row of text per evaluation. A figure that the objective doesn't report has no column."""
    return [
        {
            "step": str(entry["step"]) + (" = the policy" if entry["step"] == dev.get("kept") else ""),
            **{column.title: _shown(entry, column) for column in _columns(dev["evaluations"])},
        }
        for entry in dev["evaluations"]
    ]


def compare_dev(runs: Sequence[tuple[str, Record, Record]]) -> Record | None:
    """The dev sets of runs beside each other; None where no run has one.

    A run is its name, its dev set, and how that was measured: `objective`, `data` (a digest), `dev_max_new_tokens`.
    """
    if not runs:
        return None
    (first, _, known), *others = runs
    notes = [dev_meaning(*(dev for _, dev, _ in runs))]
    for name, _, how in others:
        if how["data"] != known["data"]:
            notes.append(
                f"{name} has other data than {first}, and so another dev set: their figures are not of the same groups."
            )
        if how["objective"] != known["objective"]:
            notes.append(
                f"{name} was trained by {how['objective']}, {first} by {known['objective']}: their losses and rewards differ in kind."
            )
        if how["dev_max_new_tokens"] != known["dev_max_new_tokens"]:
            notes.append(
                f"{name} samples up to {how['dev_max_new_tokens']} tokens, {first} up to {known['dev_max_new_tokens']}: KL, "
                "unterminated and tokens are not of the same length."
            )
    return {"runs": {name: {**how, **dev} for name, dev, how in runs}, "notes": notes}


def compared_dev_rows(compared: Record) -> list[dict[str, str]]:
    """One row of text per figure, a column per run: before the first step → of the policy that was taken."""
    runs = compared["runs"]
    columns = _columns([run[when] for run in runs.values() for when in ("before", "after")])
    return [
        {"dev set": "groups", **{name: str(run["groups"]) for name, run in runs.items()}},
        *(
            {
                "dev set": column.title,
                **{name: f"{_shown(run['before'], column)} → {_shown(run['after'], column)}" for name, run in runs.items()},
            }
            for column in columns
        ),
    ]


def _columns(evaluations: Sequence[Record]) -> list[_Column]:
    return [column for column in _COLUMNS if any(entry.get(column.metric) is not None for entry in evaluations)]


def _shown(entry: Record, column: _Column) -> str:
    value = entry.get(column.metric)
    if value is None:
        return NONE
    if column.is_share:
        return f"{number(100 * value, column.digits)} %"
    return (signed if column.has_sign else number)(value, column.digits)
