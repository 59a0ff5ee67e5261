"""What stages say of themselves while they run. Nothing here decides a result, and no stage's key has it (`tasks/keys.py`)."""

from __future__ import annotations

MATH_VERIFY = "math-verify"
# Of lm-eval's requests what is counted.
REPLIES = "replies"
TEXTS = "texts"
# The share of completions from which on their rate is told.
_TOLD_FROM = 0.05


def cross_checking(task: str) -> str:
    """The note of lm-eval's task `folder/task` while it reads completions."""
    return f"lm-eval {task.rpartition('/')[2]}"


def generating(num_tokens: int, elapsed_s: float, share: float, left: str) -> str:
    """How fast completions come; `share` of them are there, and `left` is the time until the last, as text. Nothing before a twentieth is:
    most of what was computed until then belongs to completions that are under way.
    """
    return f"{num_tokens / elapsed_s:.0f} tokens/s, {left} left" if share >= _TOLD_FROM else ""


def estimated_cost(
    num_requests: int, num_prompt_tokens: int, max_completion_tokens: int, least_usd: float | None, most_usd: float | None
) -> str:
    """What calls that are not made yet will take; the costs are None where the model has no price."""
    more = f"at most {max_completion_tokens:,} in the replies"
    tokens = f"{num_requests} requests, about {num_prompt_tokens:,} tokens in the prompts, {more}"
    if least_usd is None or most_usd is None:
        return f"{tokens}; no price is known, set spending.prices"
    return f"{tokens}; ${least_usd:.4f} for the prompts, at most ${most_usd:.4f} in all"


def spent_so_far(usd: float | None) -> str:
    """What the calls of this run have cost; empty where there was none with a price."""
    return "" if usd is None else f"${usd:.4f} so far"
