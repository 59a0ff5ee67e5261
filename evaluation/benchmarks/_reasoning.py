r"""The prompts of benchmarks that are published for reasoning models: zero-shot, one user turn, the chat template's own system text stays.

Mathematics asks for the final answer in `\boxed{…}`, as DeepSeek-R1 and Qwen2.5-Math do (https://arxiv.org/abs/2501.12948,
https://arxiv.org/abs/2409.12122), multiple choice for "The answer is (X)" at the end, as MMLU-Pro and GPQA do. The wording is the
project's own.
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.benchmarks._zeroeval import LETTERS
from evaluation.types import Item, Message

# What DeepSeek-R1's published figures allow, and MMLU-Pro's zero-shot script (evaluate_from_apiX.py).
REASONING_TOKENS = 32_768


def boxed_messages(item: Item) -> list[Message]:
    """A problem whose final answer goes into a box."""
    return _turn(
        item["question"], r"Work the problem out step by step, and write the final answer, and nothing else, inside \boxed{}."
    )


def lettered_messages(question: str, choices: Sequence[str]) -> list[Message]:
    """A question and its choices, of which the reply names one at its end."""
    listed = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    # Not "(X)": where a reply repeats that, GPQA's expressions find it first, and no letter.
    request = 'Think step by step. Then end your reply with "The answer is (LETTER)", where LETTER is that of the right choice.'
    return _turn(question, listed, request)


def _turn(*parts: str) -> list[Message]:
    return [{"role": "user", "content": "\n\n".join(parts)}]
