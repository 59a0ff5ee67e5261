"""The result of a check before a run."""

from __future__ import annotations

from dataclasses import dataclass

from bnf.urls import without_secrets


@dataclass(frozen=True)
class Check:
    """One check: what was looked at, what is wrong with it (None where nothing is), and what was seen. All is said without the secrets
    of URLs."""

    name: str
    problem: str | None
    seen: str = ""
    # Whether it says what the run will cost: that is shown when the run begins.
    is_cost: bool = False
    # Whether it was seen in a cache, because a hub wasn't reached: then it may have changed there, and that is shown too.
    is_stale: bool = False
    # Whether it says how the recipe is read, such as where models compute: that is shown too.
    is_said: bool = False

    def __post_init__(self) -> None:
        for name in ("problem", "seen"):
            if (said := getattr(self, name)) is not None:
                object.__setattr__(self, name, without_secrets(said))
