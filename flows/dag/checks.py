"""What a check before a run says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One check: what was looked at, what is wrong with it (None where nothing is), and what was seen."""

    name: str
    problem: str | None
    seen: str = ""
    # Said when a run begins: what it will cost.
    is_cost: bool = False
