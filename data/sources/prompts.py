"""Prompts without completions, to sample from: rows with a `prompt`, as text or as messages. What is better, a judge, a reward model
or ratings say."""

from __future__ import annotations

from data.rows import Fields, Row

GIVES = "prompts"
COLUMNS = {"id": ("id", "prompt_id"), "prompt": ("prompt", "messages", "question", "instruction")}


def row(fields: Fields) -> Row:
    """The prompt, without candidates; of a whole conversation what stands before its last reply."""
    messages = fields.messages("prompt")
    return Row(messages[:-1] if messages[-1]["role"] == "assistant" else messages, ())
