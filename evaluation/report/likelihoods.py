"""Charts of what training logged, and of what it did to the likelihood of its data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from evaluation.records import Record, read_records
from evaluation.report import charts
from evaluation.report.charts import Curve, Figure

_TRAINING_CHARTS: list[tuple[str, list[Curve]]] = [
    ("Loss", [Curve("loss", "training", "aligned"), Curve("eval_loss", "dev", "base")]),
    (
        "Rewards",
        [Curve("rewards/chosen", "preferred", "preferred"), Curve("rewards/rejected", "dispreferred", "dispreferred")],
    ),
    (
        "Log-probability per token",
        [Curve("logps/chosen", "preferred", "preferred"), Curve("logps/rejected", "dispreferred", "dispreferred")],
    ),
    (
        "Share of preferred above dispreferred rewards",
        [Curve("rewards/accuracies", "training", "aligned"), Curve("eval_rewards/accuracies", "dev", "base")],
    ),
    (
        "BNF's mean weight w",
        [Curve("weights/chosen", "preferred", "preferred"), Curve("weights/rejected", "dispreferred", "dispreferred")],
    ),
    ("Gradient norm", [Curve("grad_norm", "gradient norm", "base")]),
]

_LABELS = ("preferred", "dispreferred")
# Of the tokens that moved most, so many are shown.
_NUM_LARGEST = 5


@dataclass(frozen=True)
class Shifts:
    """How the likelihood of the training completions changed.

    Attributes:
        means: A chart of the mean log-probability per token before and after; None where no mean is finite.
        distribution: A chart of the tokens' shifts, with a line in its legend for each label.
        rows: (label, its figures).
        largest: (title, the tokens that moved most).
    """

    means: Markup | None
    distribution: Markup
    lines: list[Curve]
    rows: list[tuple[str, Record]]
    largest: list[tuple[str, list[Record]]]


def training(folder: Path | None) -> list[Figure]:
    """A chart of every metric that was logged."""
    if folder is None:
        return []
    steps = [record for record in read_records(folder / "metrics.jsonl") if "step" in record]
    logged = {name for record in steps for name in record}
    found = [(title, [line for line in lines if line.key in logged]) for title, lines in _TRAINING_CHARTS]
    drawn = [(title, lines, charts.curves(steps, lines, title)) for title, lines in found]
    return [Figure(title, chart, lines) for title, lines, chart in drawn if chart is not None]


def shifts(found: Record | None) -> Shifts | None:
    """The charts and tables of what training did to the likelihood of its data; None where nothing was analyzed."""
    # A data set may have one label only.
    rows = [(name, found[name]) for name in _LABELS if found[name]["completions"]] if found else []
    if not rows:
        return None
    means = [(name, row["logps_per_token"]["reference"], row["logps_per_token"]["policy"], name) for name, row in rows]
    # A token that became impossible has no finite log-probability, and nor has the mean.
    drawn = [row for row in means if None not in row]
    bins = [(row["shift_histogram"]["counts"], name) for name, row in rows]
    largest = [
        (f"{name} completions, largest {kind}s", row[f"largest_{kind}s"][:_NUM_LARGEST])
        for name, row in rows
        for kind in ("rise", "fall")
    ]
    return Shifts(
        charts.likelihoods(drawn) if drawn else None,
        charts.histogram(rows[0][1]["shift_histogram"]["edges"], bins),
        [Curve("", name, name) for name, _ in rows],
        rows,
        largest,
    )
