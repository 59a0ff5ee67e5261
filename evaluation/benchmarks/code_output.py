"""Code output: what does this small Python function return? Made by the project in CRUX's form, to sample from and to be scored on.

Dataset: functions made by this file, of assignments, loops, and methods of strings and lists; training and held-out items share no
function. Metric: CRUX's. The value is known because each line is made beside a Python function that does the same: nothing is executed,
here as there. Pattern: CRUX's prompt, greedy, 512 tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from evaluation.benchmarks import crux
from evaluation.benchmarks._items import code_fault
from evaluation.types import Item, Message, Verdict

TITLE = "Code output"
NUM_ITEMS = 200
MAX_NEW_TOKENS = 512
# Nothing is fetched: its items are the same everywhere.
MAKES_ITS_ITEMS = True

# The order of all functions is fixed for good: its first NUM_ITEMS are the held-out items, the rest is for training.
_SEED = 20251129
_MOST_TRAIN_ITEMS = 20_000
_WORDS = ("apple", "banana", "cherry", "grape", "lemon", "mango", "olive", "peach", "pepper", "onion", "carrot", "tomato")


Before = TypeVar("Before")
After = TypeVar("After")


@dataclass(frozen=True)
class _Step(Generic[Before, After]):
    """A line of a function on the variable `x`, or several, and what it does to the value."""

    code: str
    does: Callable[[Before], After]


@dataclass(frozen=True)
class _Made:
    """A function's lines, what it is called with, and what it returns."""

    lines: list[str]
    argument: object
    output: object


def _made(value: Before, steps: Sequence[_Step[Before, Before]], end: _Step[Before, object] | None) -> _Made:
    output = value
    for step in steps:
        output = step.does(output)
    codes = [step.code for step in steps] + ([] if end is None else [end.code])
    lines = [line for code in codes for line in code.split("\n")]
    return _Made(lines, value, output if end is None else end.does(output))


def load(source: str | None, limit: int | None) -> list[Item]:
    """The held-out items. The project makes them itself, so there is one source: None and "sample" are the same.

    Raises:
        ValueError: where the source is a file.
    """
    if source not in (None, "sample"):
        raise ValueError(f"code_output.source must be left out, got {source!r}; the benchmark makes its own items")
    return _items("test", 0, NUM_ITEMS if limit is None else min(limit, NUM_ITEMS))


def train_items(limit: int) -> list[Item]:
    """The first `limit` items for sampling; no function is that of a held-out one.

    Raises:
        ValueError: where so many are not made.
    """
    if limit > _MOST_TRAIN_ITEMS:
        raise ValueError(f"sample.num_prompts must be at most {_MOST_TRAIN_ITEMS} for code_output, got {limit}; ask for fewer")
    return _items("train", NUM_ITEMS, limit)


item_fault = code_fault


def messages(item: Item) -> list[Message]:
    """CRUX's question."""
    return crux.messages(item)


def score(item: Item, completion: str, finish_reason: str) -> Verdict:
    """CRUX's verdict."""
    return crux.score(item, completion, finish_reason)


same_answer = crux.same_answer


def _items(split: str, first: int, number: int) -> list[Item]:
    items: list[Item] = []
    for place, item in enumerate(_functions()):
        if len(items) == number:
            break
        if place >= first:
            items.append({"id": f"code_output-{split}-{place - first}", **item})
    return items


def _functions() -> Iterator[Item]:
    """Functions with an input and the output, no function twice, in an order that is fixed for good."""
    rng, seen = random.Random(_SEED), set[str]()
    while True:
        made = rng.choice((_on_numbers, _on_words, _on_text, _on_number))(rng)
        code = "\n".join(["def f(x):", *(f"    {line}" for line in made.lines), "    return x"])
        if code in seen:
            continue
        seen.add(code)
        # 0 and nothing at all would be right for many functions, and the latter for a reply without a value.
        if made.output:
            yield {"code": code, "input": repr(made.argument), "answer": repr(made.output)}


def _on_number(rng: random.Random) -> _Made:
    """A whole number, by assignments, a loop and a condition."""
    add, times, modulus, turns, limit = (rng.randint(*ends) for ends in ((2, 9), (2, 4), (5, 17), (2, 5), (10, 40)))

    def looped(x: int) -> int:
        for i in range(turns):
            x += i * times
        return x

    def bounded(x: int) -> int:
        return x - limit if x > limit else x + add

    steps: list[_Step[int, int]] = [
        _Step(f"x = x * {times} + {add}", lambda x: x * times + add),
        _Step(f"for i in range({turns}):\n    x += i * {times}", looped),
        _Step(f"if x > {limit}:\n    x -= {limit}\nelse:\n    x += {add}", bounded),
        _Step(f"x = x % {modulus}", lambda x: x % modulus),
    ]
    return _made(rng.randint(1, 30), rng.sample(steps, rng.randint(2, 4)), None)


def _on_numbers(rng: random.Random) -> _Made:
    """A list of whole numbers: methods, slices, and at last sometimes one number."""
    add, other, modulus, start = (rng.randint(*ends) for ends in ((2, 9), (1, 20), (2, 4), (1, 2)))

    def changed(x: list[int], change: Callable[[list[int]], object]) -> list[int]:
        copy = list(x)
        change(copy)
        return copy

    steps: list[_Step[list[int], list[int]]] = [
        _Step(f"x.append({other})", lambda x: [*x, other]),
        _Step("x.sort()", sorted),
        _Step("x.reverse()", lambda x: x[::-1]),
        _Step(f"x.insert({start}, {other})", lambda x: changed(x, lambda copy: copy.insert(start, other))),
        _Step("x.pop()", lambda x: x[:-1]),
        _Step(f"x = [n + {add} for n in x]", lambda x: [n + add for n in x]),
        _Step(f"x = [n for n in x if n % {modulus} != 0]", lambda x: [n for n in x if n % modulus]),
        _Step(f"x = x[{start}:]", lambda x: x[start:]),
        _Step(f"x.extend([{add}, {other}])", lambda x: [*x, add, other]),
    ]
    ends: list[_Step[list[int], object]] = [
        _Step("x = sum(x)", sum),
        _Step("x = len(x)", len),
        _Step(f"x = x.count({other})", lambda x: x.count(other)),
    ]
    chosen = rng.sample(steps, rng.randint(2, 3))
    # Of an empty list pop would fail: it comes first.
    chosen.sort(key=lambda step: step.code != "x.pop()")
    values = [rng.randint(1, 20) for _ in range(rng.randint(4, 6))]
    return _made(values, chosen, rng.choice([None, None, rng.choice(ends)]))


def _on_text(rng: random.Random) -> _Made:
    """A text of two or three words, by methods of strings."""
    words = rng.sample(_WORDS, rng.randint(2, 3))
    letter, end, other = rng.choice("aeiou"), rng.choice("xyz"), rng.choice("-_.")
    start, width = rng.randint(1, 4), rng.randint(2, 5)

    def joined(x: str) -> str:
        return "".join(c for c in x if c != letter)

    steps: list[_Step[str, str]] = [
        _Step("x = x.upper()", str.upper),
        _Step("x = x.title()", str.title),
        _Step("x = x.swapcase()", str.swapcase),
        _Step(f"x = x.replace({letter!r}, {end!r})", lambda x: x.replace(letter, end)),
        _Step(f"x = x.replace(' ', {other!r})", lambda x: x.replace(" ", other)),
        _Step("x = x[::-1]", lambda x: x[::-1]),
        _Step(f"x = x[{start}:]", lambda x: x[start:]),
        _Step(f"y = ''\nfor c in x:\n    if c != {letter!r}:\n        y += c\nx = y", joined),
        _Step(f"x = x[:{width}] + {end!r}", lambda x: x[:width] + end),
    ]
    ends: list[_Step[str, object]] = [
        _Step(f"x = x.count({letter!r})", lambda x: x.count(letter)),
        _Step(f"x = x.find({letter!r})", lambda x: x.find(letter)),
        _Step("x = x.split()", str.split),
    ]
    return _made(" ".join(words), rng.sample(steps, rng.randint(2, 3)), rng.choice([None, None, rng.choice(ends)]))


def _on_words(rng: random.Random) -> _Made:
    """A list of words: methods of the list and of its members, and at last sometimes one text."""
    letter, length, start, other = rng.choice("aeiou"), rng.randint(4, 6), rng.randint(1, 3), rng.choice("-_.")
    word = rng.choice(_WORDS)
    steps: list[_Step[list[str], list[str]]] = [
        _Step("x.sort()", sorted),
        _Step("x.reverse()", lambda x: x[::-1]),
        _Step(f"x.append({word!r})", lambda x: [*x, word]),
        _Step("x = [w.upper() for w in x]", lambda x: [w.upper() for w in x]),
        _Step(f"x = [w[:{start}] for w in x]", lambda x: [w[:start] for w in x]),
        _Step(f"x = [w for w in x if {letter!r} in w]", lambda x: [w for w in x if letter in w]),
        _Step(f"x = [w for w in x if len(w) > {length}]", lambda x: [w for w in x if len(w) > length]),
        _Step("x = [w for w in x if not w.endswith('y')]", lambda x: [w for w in x if not w.endswith("y")]),
    ]
    ends: list[_Step[list[str], object]] = [
        _Step(f"x = {other!r}.join(x)", other.join),
        _Step("x = [len(w) for w in x]", lambda x: [len(w) for w in x]),
        _Step("x = len(x)", len),
    ]
    return _made(rng.sample(_WORDS, rng.randint(3, 5)), rng.sample(steps, 2), rng.choice([None, rng.choice(ends)]))
