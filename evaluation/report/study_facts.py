"""What a study says of itself, the columns that its table can have, and what is recorded of how its results came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

ColumnName = Literal[
    "gain",
    "tax",
    "delta",
    "eval_accuracy",
    "eval_loss",
    "kl",
    "tokens",
    "chosen_shift",
    "rejected_shift",
    "collapsed",
    "grad_norm",
    "loss_std",
    "gini",
]
COLUMN_NAMES: tuple[ColumnName, ...] = get_args(ColumnName)


@dataclass(frozen=True)
class Column:
    """A column of the table: its key, its title with the unit, the digits after the point, and whether it is a change."""

    key: str
    title: str
    digits: int
    is_signed: bool = False


# By the name in a study's file; `delta` stands for a column of each benchmark.
COLUMNS: Mapping[str, Sequence[Column]] = {
    "gain": (Column("gain", "gain, points", 1, is_signed=True),),
    "tax": (Column("tax", "tax, points", 1, is_signed=True),),
    "eval_accuracy": (Column("eval_accuracy", "dev accuracy, %", 1),),
    "eval_loss": (Column("eval_loss", "dev loss", 4),),
    "kl": (Column("kl", "KL, nats", 2),),
    "tokens": (Column("tokens", "tokens", 1),),
    "chosen_shift": (Column("chosen_shift", "preferred, nats per token", 3, is_signed=True),),
    "rejected_shift": (Column("rejected_shift", "dispreferred, nats per token", 3, is_signed=True),),
    "collapsed": (Column("collapsed", "collapsed", 0),),
    "grad_norm": (
        Column("grad_norm", "gradient norm, median", 2),
        Column("grad_norm_max", "gradient norm, largest", 2),
    ),
    "loss_std": (Column("loss_std", "spread of the loss", 4),),
    "gini": (Column("gini", "Gini of token shifts", 3),),
}


def delta_column(benchmark: str, label: str) -> Column:
    """The column of one benchmark's Δ."""
    return Column(f"delta/{benchmark}", f"Δ {label}, points", 1, is_signed=True)


@dataclass(frozen=True)
class StudyFacts:
    """The section `study` of a sweep's file: `design` has the sentences that were fixed beforehand, `changed` what was changed after."""

    title: str
    question: str
    design: Sequence[str]
    columns: Sequence[ColumnName]
    changed: Sequence[str] = ()


@dataclass(frozen=True)
class Made:
    """How the results came about, as the artifacts of all runs have it.

    Attributes:
        seconds: the tasks' own time, that of shared ones once. Of a training that collapsed nothing is recorded.
        machines, versions: where and by which packages; several where they differ.
        date: when the last run ended, an ISO date.
        num_unknown: tasks whose artifact isn't on this machine any more, and which count for nothing.
    """

    seconds: float
    machines: Sequence[str]
    versions: Mapping[str, Sequence[str]]
    date: str
    num_unknown: int = 0
