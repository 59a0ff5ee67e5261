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
# What settings can be compared in: of `delta` there are several, and `collapsed` is a count of runs.
TestName = Literal[
    "gain",
    "tax",
    "eval_accuracy",
    "eval_loss",
    "kl",
    "tokens",
    "chosen_shift",
    "rejected_shift",
    "grad_norm",
    "loss_std",
    "gini",
]
DEFAULT_TESTS: tuple[TestName, ...] = ("gain", "tax")


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        title: its head, with the unit.
        digits: after the point.
        is_signed: whether it is a change.
        unit, of: the unit of a difference, and what it is one of: `points` of `gain`.
        is_better: whether more of it is better, as far as the page says where BNF loses.
        own_scale: whether each objective has a scale of its own, so that only settings of one objective can be compared in it.
        is_tested: whether a study that tests the column's name compares settings in it.
    """

    key: str
    title: str
    digits: int
    is_signed: bool = False
    unit: str = ""
    of: str = ""
    is_better: bool = False
    own_scale: bool = False
    is_tested: bool = True


# By the name in a study's file; `delta` stands for a column of each benchmark.
COLUMNS: Mapping[str, Sequence[Column]] = {
    "gain": (Column("gain", "gain, points", 1, is_signed=True, unit="points", of="gain", is_better=True),),
    "tax": (Column("tax", "tax, points", 1, is_signed=True, unit="points", of="tax", is_better=True),),
    "eval_accuracy": (Column("eval_accuracy", "dev accuracy, %", 1, unit="points", of="dev accuracy", is_better=True),),
    "eval_loss": (Column("eval_loss", "dev loss", 4, of="dev loss", own_scale=True),),
    "kl": (Column("kl", "KL, nats", 2, unit="nats", of="KL"),),
    "tokens": (Column("tokens", "tokens", 1, unit="tokens", of="length"),),
    "chosen_shift": (
        Column(
            "chosen_shift",
            "preferred, nats per token",
            3,
            is_signed=True,
            unit="nats per token",
            of="the preferred side's shift",
            is_better=True,
        ),
    ),
    "rejected_shift": (
        Column(
            "rejected_shift",
            "dispreferred, nats per token",
            3,
            is_signed=True,
            unit="nats per token",
            of="the dispreferred side's shift",
        ),
    ),
    "collapsed": (Column("collapsed", "collapsed", 0),),
    "grad_norm": (
        Column("grad_norm", "gradient norm, median", 2, of="the gradient's median norm", own_scale=True),
        Column("grad_norm_max", "gradient norm, largest", 2, is_tested=False),
    ),
    "loss_std": (Column("loss_std", "spread of the loss", 4, of="the loss's spread", own_scale=True),),
    "gini": (Column("gini", "Gini of token shifts", 3, of="the token shifts' Gini"),),
}


def delta_column(benchmark: str, label: str) -> Column:
    """The column of one benchmark's Δ."""
    return Column(f"delta/{benchmark}", f"Δ {label}, points", 1, is_signed=True)


@dataclass(frozen=True)
class StudyFacts:
    """The section `study` of a sweep's file.

    Attributes:
        design: the sentences that were fixed beforehand; `changed` has what was changed after.
        tests: the columns in which settings are compared.
        compare: the variants that are compared, each with its opponent; empty: by the rule of `study_pairs`.
    """

    title: str
    question: str
    design: Sequence[str]
    columns: Sequence[ColumnName]
    changed: Sequence[str] = ()
    tests: Sequence[TestName] = DEFAULT_TESTS
    compare: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Made:
    """How the results came about, as the artifacts of all runs have it.

    Attributes:
        seconds: the tasks' own time, that of shared ones once. Of a training that collapsed nothing is recorded.
        machines, versions: where and by which packages; several where they differ.
        date: when the last run ended, an ISO date.
        num_unknown: tasks whose artifact isn't on this machine any more, and which count for nothing.
        at_once: the most runs that were at work at the same time.
    """

    seconds: float
    machines: Sequence[str]
    versions: Mapping[str, Sequence[str]]
    date: str
    num_unknown: int = 0
    at_once: int = 1
