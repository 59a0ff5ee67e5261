"""Chatbot Arena's votes: lmsys/chatbot_arena_conversations, mt_bench_human_judgments and their kin.

`conversation_a` and `conversation_b` with a `winner`: model_a, model_b, tie, or tie (bothbad), which calls both dispreferred.
A vote is about the reply of its `turn`: what follows in the conversation is cut off. Where the replies before it differ, as in
mt_bench_human_judgments' second turns, the two conversations have different prompts and are no pair. https://arxiv.org/abs/2306.05685
"""

from __future__ import annotations

from data.rows import Candidate, Fields, Reply, Row, same_prompt, split_last_turn
from evaluation.types import Message

GIVES = "pairs"
COLUMNS = {
    "id": ("id",),  # a question's id stands for several votes
    "first": ("conversation_a",),
    "second": ("conversation_b",),
    "winner": ("winner",),
    "turn": ("turn",),
    "first_model": ("model_a",),
    "second_model": ("model_b",),
}

# winner → labels of the first and the second
_LABELS = {"model_a": (1, -1), "model_b": (-1, 1), "tie": (0, 0), "tie (bothbad)": (-1, -1)}


def row(fields: Fields) -> Row:
    """Both replies with the vote's labels."""
    (prompt, first), (other, second) = _judged(fields, "first"), _judged(fields, "second")
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


def _judged(fields: Fields, role: str) -> tuple[list[Message], Reply]:
    """The prompt and the reply that the vote is about."""
    if not fields.has("turn"):
        return fields.conversation(role)
    messages, turn = fields.messages(role), fields.number("turn")
    replies = [place for place, message in enumerate(messages, start=1) if message["role"] == "assistant"]
    if turn not in range(1, len(replies) + 1):
        raise fields.error("turn", f"must be one of the conversation's {len(replies)} turns, got {turn:g}")
    return split_last_turn(messages[: replies[int(turn) - 1]], role)
