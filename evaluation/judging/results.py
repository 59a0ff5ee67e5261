"""The results of all models from the games' records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaluation.records import Record
from evaluation.types import Item

# Below this the letters were not what the judge wanted to say, whatever they seem to.
MIN_LETTER_MASS = 0.5


def summarize_games(
    form: Any, records: Sequence[Record], models: Sequence[str], questions: Sequence[Item], orders: str, demonstration: bool
) -> Record:
    """`models` with each one's result, and what the form says of all of them together."""
    games = {model: [record for record in records if record["candidate"] == model] for model in models}
    results: dict[str, Record] = {}
    for model, found in games.items():
        result: Record = form.aggregate(
            found, num_expected=len(questions), orders=orders, demonstration=demonstration, questions=questions
        )
        masses = [record["letter_mass"] for record in found if record["letter_mass"] is not None]
        result["letter_mass"] = sum(masses) / len(masses) if masses else None
        if masses and result["letter_mass"] < MIN_LETTER_MASS:
            reason = f"the letters have {result['letter_mass']:.0%} of the probability (at least {MIN_LETTER_MASS:.0%})"
            result["trusted"] = False
            result["untrusted_reason"] = "; ".join(filter(None, [result["untrusted_reason"], reason]))
        results[model] = result
    together: Record = form.across(results, games)
    return {"models": results, **together}
