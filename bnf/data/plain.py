"""Prompt groups from plain rows, for training without the pipeline.

The pipeline's own preparation (`data/preparing`) does more: it reads many formats, labels and selects, resolves contradictions, and keeps
a ledger of every row. Here a row that can't be used is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real

import numpy as np
from transformers import PreTrainedTokenizerBase

from bnf.data.chat_template import RenderingError
from bnf.data.groups import Completion, PromptGroup
from bnf.data.marked import Message
from bnf.data.rendering import Renderer

_PAIR, _LABELLED = {"prompt", "chosen", "rejected"}, {"prompt", "completion", "label"}


def make_groups(rows: Iterable[Mapping[str, object]], tokenizer: PreTrainedTokenizerBase) -> list[PromptGroup]:
    """A group for each prompt of the rows, in their order; all rows of a prompt meet in one.

    Args:
        rows: each `{"prompt", "chosen", "rejected"}`, or `{"prompt", "completion", "label"}` with a label of true or 1 for preferred and
            false or −1 for dispreferred, and maybe a `score`. A prompt is a text or a list of messages; a completion is a text or a list
            that holds one message of the assistant's.
        tokenizer: with the chat template that renders them, as `bnf.data.rendering.load_tokenizer` gives it.

    Raises:
        ValueError: naming the row, where its keys or values are others, a text is empty or can't be written, the template doesn't take
            it, or it labels a completion otherwise than a row before.
    """
    prompts: dict[str, _Prompt] = {}
    for number, row in enumerate(rows, 1):
        where = f"row {number}"
        if not isinstance(row, Mapping):
            raise ValueError(f"{where} must be a mapping of column to value, got {type(row).__name__}; give a list of dicts")
        given = set(row) - {"score"}
        if given not in (_PAIR, _LABELLED) or ("score" in row and given == _PAIR):
            raise ValueError(
                f"{where} must have the keys prompt, chosen, rejected, or prompt, completion, label and maybe score, got "
                f"{', '.join(map(str, row)) or 'none'}; rename them, and leave others out"
            )
        messages = _messages(row["prompt"], f"{where}: prompt")
        prompt = prompts.setdefault(json.dumps(messages, sort_keys=True), _Prompt(f"row-{number}", messages))
        if given == _PAIR:
            better, worse = (_reply(row[side], f"{where}: {side}") for side in ("chosen", "rejected"))
            if better == worse:
                raise ValueError(f"{where} must have another rejected than chosen, got {better!r} for both; leave it out")
            chosen, rejected = prompt.add(better, 1, None, where), prompt.add(worse, -1, None, where)
            prompt.pairs[chosen, rejected] = None
        else:
            label = _label(row["label"], where)
            prompt.add(_reply(row["completion"], f"{where}: completion"), label, _score(row.get("score"), where), where)
    return _rendered(list(prompts.values()), tokenizer)


class _Prompt:
    """A prompt's messages, and the replies, with (label, score, row) of each."""

    def __init__(self, name: str, messages: list[Message]) -> None:
        self.name, self.messages = name, messages
        self.replies: dict[str, tuple[int, float | None, str]] = {}
        self.pairs: dict[tuple[int, int], None] = {}

    def add(self, reply: str, label: int, score: float | None, where: str) -> int:
        """The number of a reply among the prompt's."""
        known_label, known_score, before = self.replies.setdefault(reply, (label, score, where))
        if (known_label, known_score) != (label, score):
            raise ValueError(
                f"{where} must say the same of its completion as {before}, got label {label} and score {score} after {known_label} and "
                f"{known_score}; leave one out, or let `bnf run` prepare the data, which resolves them"
            )
        return list(self.replies).index(reply)


def _rendered(prompts: list[_Prompt], tokenizer: PreTrainedTokenizerBase) -> list[PromptGroup]:
    groups = []
    renderer = Renderer(tokenizer)
    for prompt in prompts:
        if control := renderer.control_tokens("\n".join(message["content"] for message in prompt.messages)):
            raise ValueError(
                f"{prompt.name}: a prompt's text must hold no control token, got {control}; remove it, the template writes turns"
            )
    found = renderer.render([(prompt.messages, list(prompt.replies)) for prompt in prompts])
    for prompt, rendered in zip(prompts, found, strict=True):
        if isinstance(rendered, RenderingError):
            raise ValueError(f"{prompt.name}: the chat template must take the prompt, got: {rendered}")
        completions = []
        labels: dict[tuple[int, ...], tuple[int, str]] = {}
        for ids, (label, score, where) in zip(rendered.completions, prompt.replies.values(), strict=True):
            if isinstance(ids, RenderingError):
                raise ValueError(f"{where}: the chat template must take the completion, got: {ids}")
            known, before = labels.setdefault(tuple(ids), (label, where))
            if known != label:
                raise ValueError(
                    f"{where} must say the same of its completion as {before}, got other labels for the same token ids, as the template "
                    "strips white space; leave one out"
                )
            completions.append(Completion(ids, label, score))
        groups.append(PromptGroup(prompt.name, rendered.prompt_ids, tuple(completions), tuple(prompt.pairs)))
    return groups


def _messages(given: object, what: str) -> list[Message]:
    """A prompt's messages; a text is one of the user's."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given or not all(_is_message(one) for one in given):
        raise ValueError(f"{what} must be a text or a list of messages with role and content, got {given!r}; write it so")
    _check_text([one["content"] for one in given], what)
    return [dict(one) for one in given]


def _reply(given: object, what: str) -> str:
    """A completion's text; a list holds one message of the assistant's."""
    if isinstance(given, list) and len(given) == 1 and _is_message(given[0]) and given[0]["role"] == "assistant":
        given = given[0]["content"]
    if isinstance(given, str):
        _check_text([given], what)
    else:
        raise ValueError(f"{what} must be a text, or a list of one message of the assistant's, got {given!r}; write it so")
    return given


def _check_text(texts: Sequence[str], what: str) -> None:
    """Raises ValueError where nothing is said, or a text is none that UTF-8 can write."""
    if not any(text.strip() for text in texts):
        raise ValueError(f"{what} must hold text, got {' '.join(texts)!r}; leave the row out")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} must be text that UTF-8 can write, got half of a surrogate pair; remove it") from error


def _label(given: object, where: str) -> int:
    # NumPy's values too, which rows of pandas hold.
    if isinstance(given, bool | np.bool_):
        return 1 if given else -1
    if not isinstance(given, Real) or given not in (1, -1):
        raise ValueError(f"{where}: label must be true, false, 1 or -1, got {given!r}; label it or leave the row out")
    return 1 if given == 1 else -1


def _score(given: object, where: str) -> float | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, Real) or not math.isfinite(given):
        raise ValueError(f"{where}: score must be a finite number, got {given!r}; leave it out where there is none")
    return float(given)


def _is_message(one: object) -> bool:
    return isinstance(one, dict) and set(one) == {"role", "content"} and all(isinstance(value, str) for value in one.values())
