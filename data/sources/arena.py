"""Chatbot Arena's votes: lmsys/chatbot_arena_conversations, mt_bench_human_judgments and their kin.

`conversation_a` and `conversation_b` with a `winner`: model_a, model_b, tie, or tie (bothbad), which calls both dispreferred.
Conversations whose replies part before the last turn have different prompts and are no pair. https://arxiv.org/abs/2306.05685
"""

from __future__ import annotations

from data.sources._rows import Candidate, Fields, Row, same_prompt

COLUMNS = {
    "id": ("id",),  # a question's id stands for several votes
    "first": ("conversation_a",),
    "second": ("conversation_b",),
    "winner": ("winner",),
    "first_model": ("model_a",),
    "second_model": ("model_b",),
}

# winner → labels of the first and the second
_LABELS = {"model_a": (1, -1), "model_b": (-1, 1), "tie": (0, 0), "tie (bothbad)": (-1, -1)}


def row(fields: Fields) -> Row:
    """Both replies with the vote's labels."""
    (prompt, first), (other, second) = fields.conversation("first"), fields.conversation("second")
    winner = fields.text("winner")
    if winner not in _LABELS:
        raise fields.error("winner", f"must be one of {', '.join(_LABELS)}, got {winner!r:.40}")
    models = [fields.text(role) if fields.has(role) else "" for role in ("first_model", "second_model")]
    candidates = [
        Candidate(text, label, None, model) for text, label, model in zip((first, second), _LABELS[winner], models, strict=True)
    ]
    if winner == "model_b":
        candidates.reverse()
    return Row(same_prompt(prompt, other), tuple(candidates), tie=winner.startswith("tie"))
