"""Preference pairs in TRL's schemas: `prompt`, `chosen` and `rejected`, each text or a list of messages.

`chosen` and `rejected` may repeat the prompt's messages before the reply. Without `prompt` the prompt is implicit: of messages it
is all before the last turn; of text it is what both begin with, up to a blank.
https://huggingface.co/docs/trl/dataset_formats#preference
"""

from __future__ import annotations

from data.sources._rows import Candidate, Fields, Row, pair, same_prompt

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
    if fields.has("prompt"):
        messages = fields.messages("prompt")
        texts = [fields.completion(side, messages) for side in ("chosen", "rejected")]
    elif isinstance(fields.need("chosen"), str) and isinstance(fields.need("rejected"), str):
        chosen, rejected = fields.text("chosen"), fields.text("rejected")
        common = next(
            (n for n, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), min(len(chosen), len(rejected))
        )
        if common and chosen[common - 1] == " ":
            common -= 1
        messages, texts = [{"role": "user", "content": chosen[:common]}], [chosen[common:], rejected[common:]]
    else:
        (first, better), (second, worse) = fields.conversation("chosen"), fields.conversation("rejected")
        messages, texts = same_prompt(first, second), [better, worse]
    scores = [fields.optional_number(f"score_{side}") for side in ("chosen", "rejected")]
    return pair(messages, Candidate(texts[0], 1, scores[0]), Candidate(texts[1], -1, scores[1]))
