"""Which settings of a study are compared: as its file says it, or by one rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from evaluation.report.sweep_results import REFERENCE, other_settings
from evaluation.report.swept import VARIANT, SweepFacts

_SEED = "seed"


class Candidate(NamedTuple):
    """A setting: its name, its objective and its value on each axis."""

    name: str
    objective: str | None
    settings: Mapping[str, object]


def study_pairs(
    settings: Sequence[Candidate], facts: SweepFacts, compare: Sequence[tuple[str, str]] = ()
) -> list[tuple[str, str]]:
    """The names of the settings that are compared, each with its opponent's: those with BNF first, and then in the file's order.

    Where `compare` names variants, these are compared, at equal values of the other axes. Otherwise each setting is compared with BNF at
    the same other settings, and with the first setting of its own objective; one that has neither is compared with the first BNF. In a
    sweep without BNF the first setting's objective stands for it.
    """
    if compare:
        return [
            (one.name, other.name)
            for first, second in compare
            for one in settings
            for other in settings
            if one.settings.get(VARIANT) == first
            and other.settings.get(VARIANT) == second
            and _axes(one, facts) == _axes(other, facts)
        ]
    objectives = [one.objective for one in settings]
    reference = REFERENCE if REFERENCE in objectives else next(iter(objectives), None)
    references = [one for one in settings if one.objective == reference]
    between, within = [], []
    for one in settings:
        own = next(other for other in settings if other.objective == one.objective)
        within += [] if own is one else [(one.name, own.name)]
        if one.objective != reference:
            rest = other_settings(one.settings, facts)
            alike = [other for other in references if other_settings(other.settings, facts) == rest]
            opponents = alike or (references if own is one else [])
            between += [(one.name, other.name) for other in opponents[:1]]
    return [*between, *within]


def _axes(one: Candidate, facts: SweepFacts) -> dict[str, str]:
    free = {VARIANT, _SEED, *facts.over}
    return {key: repr(value) for key, value in one.settings.items() if key not in free}
