"""What a reader of recorded judgments gives for a row: whose it is, its judgments, what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from evaluation.judging.aggregates.judgment import Judgment


class Key(NamedTuple):
    """What judgments are kept apart by; `category` is Arena-Hard's. `protocol` is a judge protocol's name, `form` in files."""

    model: str
    judge: str | None
    protocol: str
    baseline: str | None
    category: str | None = None


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row."""

    rule: str
    got: object

    def __str__(self) -> str:
        return f"must {self.rule}, got {str(self.got)[:200]}"


class UnreadableRowError(ValueError):
    """A row that doesn't say whose judgment it is, so that nothing of it can be used."""

    def __init__(self, rule: str, got: object) -> None:
        super().__init__()
        self.fault = Fault(rule, got)


# Whose row it is, its judgments, and what is wrong with it.
Read = tuple[Key, list[Judgment], Fault | None]
