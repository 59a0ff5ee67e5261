"""The figures that a training has once, from its run's folders: `training` in the tidy tables, and columns of a study.

What a run doesn't have is left out: it is no 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

from evaluation.records import Record, read_json, read_records
from evaluation.report.swept import SweptRun

_SIDES = ("chosen", "rejected")
# A line through fewer points leaves nothing to vary.
_FEWEST_LOSSES = 3

Points = Sequence[tuple[float, float]]


def training_figures(run: SweptRun) -> dict[str, float]:
    """The figures by their names in the tidy tables (docs/sweep_results.md); empty where nothing was trained.

    Raises:
        ValueError: where a file of the training is ill-formed.
    """
    if run.train is None:
        return {}
    summary, log = read_json(run.train / "train_summary.json"), list(read_records(run.train / "metrics.jsonl"))
    after = (summary.get("dev") or {}).get("after", {})
    found: dict[str, float | None] = {"kl": after.get("eval_samples/kl"), "tokens": after.get("eval_samples/tokens")}
    found |= {name: summary.get(name) for name in ("steps", "seconds")}
    for side in _SIDES:
        shifts = _values(log, f"logps_shift/{side}")
        found[f"logps_shift/{side}"] = shifts[-1][1] if shifts else None
    kept = summary.get("kept")
    found |= {f"{side}_shift": _shift(log, side, kept["step"] if kept else None) for side in _SIDES}
    norms = [value for _, value in _values(log, "grad_norm")]
    found |= {"grad_norm": median(norms), "grad_norm_max": max(norms)} if norms else {}
    found["loss_std"] = loss_std(_values(log, "loss"))
    found["gini"] = _gini(run)
    # A training that collapsed has no result, and so no `SweptRun`.
    found["collapsed"] = 0.0
    return {name: float(value) for name, value in found.items() if value is not None}


def loss_std(losses: Points) -> float | None:
    """How much the loss varies from step to step: the standard deviation around a straight line.

    Of the logged steps those after half of the last one's number are taken, and a line is fitted to their losses by least squares. With r
    what is left of each of n losses it is √(Σ r² / (n − 2)). None of fewer than three.
    """
    last = losses[-1][0] if losses else 0.0
    taken = [(step, loss) for step, loss in losses if step > last / 2]
    number = len(taken)
    if number < _FEWEST_LOSSES:
        return None
    mean_step, mean = (math.fsum(column) / number for column in zip(*taken, strict=True))
    squares = math.fsum((step - mean_step) ** 2 for step, _ in taken)
    slope = math.fsum((step - mean_step) * (loss - mean) for step, loss in taken) / squares
    left = math.fsum((loss - mean - slope * (step - mean_step)) ** 2 for step, loss in taken)
    return math.sqrt(left / (number - 2))


def _shift(log: Sequence[Record], side: str, kept: int | None) -> float | None:
    """How far the log-probability per token of one side moved, in nats: of the dev set against its start, at the policy that was taken;
    without one of the batches, against the reference, or without that against their start.
    """
    for key, is_relative in ((f"eval_logps/{side}", True), (f"logps_shift/{side}", False), (f"logps/{side}", True)):
        points = _values(log, key)
        if points:
            taken = [value for step, value in points if step == kept] if key.startswith("eval_") else []
            return (taken or [points[-1][1]])[0] - (points[0][1] if is_relative else 0.0)
    return None


def _values(log: Sequence[Mapping[str, object]], key: str) -> list[tuple[float, float]]:
    """(step, value) where the metric is a finite number."""
    return [
        (float(step), float(value))
        for record in log
        if isinstance(step := record.get("step"), int | float)
        and isinstance(value := record.get(key), int | float)
        and math.isfinite(value)
    ]


def _gini(run: SweptRun) -> float | None:
    if run.shifts is None or run.reference is None:
        return None
    from bnf.analysis.gini import gini_of_token_shifts
    from bnf.analysis.token_shifts import POLICY_LOGPS

    return gini_of_token_shifts(run.reference, run.shifts / POLICY_LOGPS)
