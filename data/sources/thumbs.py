"""Thumbs up and down, as KTO takes them: one completion of a prompt with a `label`, true or false.

`prompt` and `completion` are text or messages (TRL's unpaired preference); or `messages` hold the whole conversation.
https://huggingface.co/docs/trl/dataset_formats#unpaired-preference https://arxiv.org/abs/2402.01306
"""

from __future__ import annotations

from data.rows import Candidate, Fields, Row

GIVES = "labels"
COLUMNS = {
    "id": ("id",),
    "prompt": ("prompt",),
    "completion": ("completion", "response"),
    "messages": ("messages",),
    "label": ("label",),
}

_LABELS = {"true": 1, "false": -1}


def row(fields: Fields) -> Row:
    """The prompt with its one completion, labelled +1 or −1."""
    if fields.has("messages") and not fields.has("completion"):
        messages, text = fields.conversation("messages")
    else:
        messages = fields.whole_prompt("prompt", "completion")
        text = fields.completion("completion", messages)
    return Row(messages, (Candidate(text, _label(fields)),))


def _label(fields: Fields) -> int:
    value = fields.need("label")
    if isinstance(value, bool):
        return 1 if value else -1
    if isinstance(value, str) and value.lower() in _LABELS:  # as CSV has it
        return _LABELS[value.lower()]
    raise fields.error("label", f"must be true or false, got {value!r:.40}; write these")
