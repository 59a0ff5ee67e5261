"""Which of two numbers is larger: the quick start's own task, for models too small for the real benchmarks.

Dataset: pairs of two-digit numbers made by this file; training and held-out pairs are disjoint whatever their order.
Metric: the larger number is the one number of the reply, and the turn ended by itself. Pattern: one user turn, greedy, 16 tokens.
A reply that names both numbers is wrong: "30 is larger than 55" would otherwise count as right, and teach just that.
"""

from __future__ import annotations

import itertools
import random
import re

from evaluation.fields import WHOLE, fault
from evaluation.types import Item, Message, Verdict

TITLE = "Number comparison"
NUM_ITEMS = 128
MAX_NEW_TOKENS = 16
# Nothing is fetched: its items are the same everywhere.
MAKES_ITS_ITEMS = True

# `-47` differs from 47, `47.0` is 47, and the hyphen of `Answer-47` is no sign.
_NUMBER = re.compile(r"(?:(?<!\w)[-−])?[0-9]+(?:\.[0-9]+)?")
# The order of all pairs is fixed for good: its first NUM_ITEMS are the held-out items, the rest is for training.
_SHUFFLE_SEED = 20241004


def load(source: str | None, limit: int | None) -> list[Item]:
    """The held-out items. The project makes them itself, so there is one source: None and "sample" are the same.

    Raises:
        ValueError: where the source is a file.
    """
    if source not in (None, "sample"):
        raise ValueError(f"number_comparison.source must be left out, got {source!r}; the benchmark makes its own items")
    items = _items(_pairs()[:NUM_ITEMS], "test")
    return items if limit is None else items[:limit]


def train_items(limit: int, seed: int = 0) -> list[Item]:
    """`limit` items for sampling, in an order that `seed` sets; no pair of numbers is a held-out one, in either order.

    Raises:
        ValueError: where there are not so many pairs.
    """
    available = _pairs()[NUM_ITEMS:]
    if limit > len(available):
        raise ValueError(
            f"sample.num_prompts must be at most {len(available)} for number_comparison, got {limit}; ask for fewer"
        )
    random.Random(seed).shuffle(available)
    return _items(available[:limit], f"train-{seed}")


def item_fault(item: Item) -> str | None:
    """As the contract has it: two numbers, of which `answer` is the larger."""
    if wrong := fault(item, {"a": WHOLE, "b": WHOLE, "answer": WHOLE}):
        return wrong
    larger = max(item["a"], item["b"])
    return None if item["answer"] == larger else f"have the larger number {larger} as answer, got {item['answer']}"


def messages(item: Item) -> list[Message]:
    """The question as the user's turn: the chat template's own system text stays."""
    text = f"Which number is larger, {item['a']} or {item['b']}? Reply with only the number."
    return [{"role": "user", "content": text}]


def score(item: Item, completion: str, finish_reason: str) -> Verdict:
    """Right is the larger number and no other, in a turn that ended by itself, as far as that is known; words around it don't matter."""
    found = {_plain(number) for number in _NUMBER.findall(completion)}
    if not found:
        return Verdict("no_answer", None, "none")
    answer = " ".join(sorted(found)[:2])
    # Of a file of one's own nobody may know how a reply ended.
    if finish_reason not in ("stop", ""):
        return Verdict("wrong", answer, "unterminated")
    if len(found) > 1:
        return Verdict("wrong", answer, "several_numbers")
    return Verdict("correct" if answer == str(item["answer"]) else "wrong", answer, "only_number")


def _plain(number: str) -> str:
    """A number without leading and trailing zeros, as text: Python refuses numbers of thousands of digits."""
    whole, _, decimals = number.replace("−", "-").lstrip("-").partition(".")
    decimals = decimals.rstrip("0")
    sign = "" if number[0].isdigit() else "-"
    return sign + (whole.lstrip("0") or "0") + (f".{decimals}" if decimals else "")


def _items(pairs: list[tuple[int, int]], split: str) -> list[Item]:
    return [{"id": f"number_comparison-{split}-{n}", "a": a, "b": b, "answer": max(a, b)} for n, (a, b) in enumerate(pairs)]


def _pairs() -> list[tuple[int, int]]:
    """Every unordered pair of different two-digit numbers once, in a fixed random order and each in a fixed random direction."""
    rng = random.Random(_SHUFFLE_SEED)
    pairs = list(itertools.combinations(range(10, 100), 2))
    rng.shuffle(pairs)
    return [(b, a) if rng.random() < 0.5 else (a, b) for a, b in pairs]
