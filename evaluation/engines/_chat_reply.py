"""Reads a chat completion. The client passes on whatever JSON a server sends, so every field is checked before it is used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeGuard

# Rounding in the server may put a certain token's log-probability just above 0.
_MOST_LOGPROB = 0.01
# No request has so many; a longer number could not be multiplied by a price.
_MOST_TOKENS = 10**9
_ABSENT = object()
_TOO_LONG = re.compile(
    r"maximum context length is \d+ tokens\. However, your (?:prompt contains|messages resulted in) (?:at least )?(\d{1,9}) "
    r"(?:input )?(tokens|characters)"
)


@dataclass(frozen=True)
class Completion:
    text: str
    finish_reason: str
    top_logprobs: dict[str, float] | None


def completions(reply: object, num: int, *, with_logprobs: bool) -> list[Completion]:
    """The reply's `num` completions; log-probabilities are read only where they were asked for.

    Raises:
        ValueError: where the reply breaks the protocol.
    """
    choices = getattr(reply, "choices", None)
    if not isinstance(choices, list) or len(choices) != num:
        raise ValueError(f"the reply must have {num} choices, got {_short(choices)}")
    return [
        Completion(_text(choice), str(getattr(choice, "finish_reason", None)), _top_logprobs(choice) if with_logprobs else None)
        for choice in choices
    ]


def too_long(refusal: str) -> int | None:
    """How many tokens a prompt has that a server refuses because they alone are more than its model reads; 0 where it doesn't say.

    None of every other refusal. The texts are those of vLLM's server and of OpenAI's, whose codes don't tell it from too large a limit.
    """
    found = _TOO_LONG.search(refusal)
    return None if found is None else int(found[1]) if found[2] == "tokens" else 0


def usage(reply: object) -> tuple[int, int] | None:
    """The tokens of the prompt and of all completions; None where the server doesn't say, or says an impossible number."""
    told = getattr(reply, "usage", None)
    num_prompt, num_completion = getattr(told, "prompt_tokens", None), getattr(told, "completion_tokens", None)
    return (num_prompt, num_completion) if _is_count(num_prompt) and _is_count(num_completion) else None


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS


def _text(choice: object) -> str:
    content = getattr(getattr(choice, "message", None), "content", _ABSENT)
    # Null is within the protocol: the model refused, or thought until its limit.
    if content is None:
        return ""
    if not isinstance(content, str):
        raise ValueError(f"a choice must have a message with a text, got {_short(choice)}")
    return content


def _top_logprobs(choice: object) -> dict[str, float] | None:
    """Those of the first token; None where the server sent none."""
    logprobs = getattr(choice, "logprobs", None)
    if logprobs is None:
        return None
    content = getattr(logprobs, "content", _ABSENT)
    if content is None or content == []:
        return None
    first = getattr(content[0], "top_logprobs", None) if isinstance(content, list) else None
    if not isinstance(first, list):
        raise ValueError(f"logprobs must list the likeliest first tokens, got {_short(logprobs)}")
    top: dict[str, float] = {}
    for entry in first:
        token, logprob = getattr(entry, "token", None), getattr(entry, "logprob", None)
        # The comparison is false for NaN.
        if not isinstance(token, str) or not isinstance(logprob, int | float) or not logprob <= _MOST_LOGPROB:
            raise ValueError(f"logprobs must hold tokens with their log-probabilities, got {_short(entry)}")
        top[token] = float(logprob)
    return top or None


def _short(value: object) -> str:
    # A name of a field, which a repr has as it is, may hold half of a surrogate pair.
    return repr(value)[:80].encode(errors="backslashreplace").decode()
