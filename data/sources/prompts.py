"""Prompts without completions, to sample from: rows with a `prompt`, as text or as messages. A judge, a reward model or ratings say which
completions are better."""

from __future__ import annotations

from data.rows import Fields, Row

GIVES = "prompts"
COLUMNS = {"id": ("id", "prompt_id"), "prompt": ("prompt", "messages", "question", "instruction")}


def row(fields: Fields) -> Row:
    """The prompt, without candidates. A conversation that ends with a reply gives the messages before it."""
    messages = fields.messages("prompt")
    return Row(messages[:-1] if messages[-1]["role"] == "assistant" else messages, ())
