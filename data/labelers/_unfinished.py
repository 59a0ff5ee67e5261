"""Samples whose thought doesn't end: they say nothing that could be rated."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.answers.thoughts import answer_of
from evaluation.records import Record


def without_unfinished(records: Sequence[Record]) -> list[tuple[Record, Record, str]]:
    """What is to be rated: each sample with its completion and what that says after its thought.

    A completion whose thought doesn't end says nothing. It gets the reward 0 and the outcome "no_answer", and is not among them.
    Statistics of a reward model's own rewards leave it out: it has none.
    """
    found: list[tuple[Record, Record, str]] = []
    for record in records:
        for completion in record["completions"]:
            if (said := answer_of(completion, "text")) is None:
                completion |= {"reward": 0.0, "outcome": "no_answer"}
            else:
                found.append((record, completion, said))
    return found
