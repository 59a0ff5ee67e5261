"""Votes between two replies to one prompt: `prompt`, `response_a` and `response_b`, and a `winner` or `preference` that names one of them.

It is a, b or tie, in any case, also as model_a or response_a; `tie (bothbad)` calls both dispreferred. Votes on whole conversations are
`arena`'s.
"""

from __future__ import annotations

from data.rows import Candidate, Fields, Row

GIVES = "pairs"
COLUMNS = {
    "id": ("id",),
    "prompt": ("prompt",),
    "first": ("response_a",),
    "second": ("response_b",),
    "winner": ("winner", "preference"),
    "first_model": ("model_a",),
    "second_model": ("model_b",),
}

# winner → labels of the first and the second
_LABELS = {"a": (1, -1), "b": (-1, 1), "tie": (0, 0), "tie (bothbad)": (-1, -1)}


def row(fields: Fields) -> Row:
    """The winner before the loser; of a tie, both in the data's order."""
    messages, said = fields.messages("prompt"), fields.text("winner")
    winner = said.strip().lower().removeprefix("model_").removeprefix("response_")
    if winner not in _LABELS:
        raise fields.error("winner", f"must be one of {', '.join(_LABELS)}, also as model_a or response_a, got {said!r:.40}")
    candidates = [
        Candidate(fields.completion(role, messages), label, None, fields.text(model) if fields.has(model) else "")
        for role, model, label in zip(("first", "second"), ("first_model", "second_model"), _LABELS[winner], strict=True)
    ]
    if winner == "b":
        candidates.reverse()
    return Row(messages, tuple(candidates), tie=winner.startswith("tie"))
