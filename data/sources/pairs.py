"""Preference pairs in TRL's schemas: `prompt`, `chosen` and `rejected`, each text or a list of messages.

`chosen` and `rejected` may repeat the prompt's messages before the reply, with a system message or earlier turns before those.
Without `prompt` they must be messages: then the prompt is all before the last turn. https://huggingface.co/docs/trl/dataset_formats#preference
"""

from __future__ import annotations

from data.rows import Candidate, Fields, Row, pair, same_prompt

GIVES = "pairs"
COLUMNS = {
    "id": ("id", "prompt_id"),
    "prompt": ("prompt",),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "score_chosen": ("score_chosen",),
    "score_rejected": ("score_rejected",),
}


def row(fields: Fields) -> Row:
    """The pair; where it has scores and they are equal, a tie."""
    if not fields.has("prompt") and isinstance(fields.need("chosen"), list) and isinstance(fields.need("rejected"), list):
        (first, better), (second, worse) = fields.conversation("chosen"), fields.conversation("rejected")
        messages, texts = same_prompt(first, second), [better, worse]
    else:
        messages = fields.whole_prompt("prompt", "chosen", "rejected")
        texts = [fields.completion(side, messages) for side in ("chosen", "rejected")]
    scores = [fields.optional_number(f"score_{side}") for side in ("chosen", "rejected")]
    return pair(messages, Candidate(texts[0], 1, scores[0]), Candidate(texts[1], -1, scores[1]))
