"""Writes data/samples/pairs.jsonl: small preference pairs of our own, for trying the pairs recipe and for tests.

The good reply is right and to the point; the bad one is wrong, says more than was asked, or does not answer.
Run `python -m data.samples.make` after a change; a test compares the file with this module.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

PATH = Path(__file__).parent / "pairs.jsonl"
PAIRS_PER_KIND = 15

_Pair = tuple[str, str, str]  # prompt, chosen, rejected
# fmt: off
_WORDS = (
    "apple", "bridge", "candle", "desert", "engine", "forest", "garden", "hammer", "island",
    "jacket", "kitten", "ladder", "market", "needle", "orange", "pepper", "quartz", "river",
    "saddle", "timber", "umbrella", "violin", "window", "yellow", "zipper",
)
# fmt: on


def _addition(rng: random.Random) -> _Pair:
    a, b = rng.randrange(11, 90), rng.randrange(11, 90)
    wrong = a + b + rng.choice((-10, -1, 1, 10))
    return f"What is {a} + {b}? Reply with only the number.", str(a + b), str(wrong)


def _subtraction(rng: random.Random) -> _Pair:
    a, b = sorted((rng.randrange(11, 90), rng.randrange(11, 90)), reverse=True)
    return (
        f"What is {a} - {b}? Reply with only the number.",
        str(a - b),
        f"Let me think about {a} and {b}. They are both numbers.",
    )


def _smaller(rng: random.Random) -> _Pair:
    a, b = rng.sample(range(100, 1000), 2)
    return f"Which number is smaller, {a} or {b}? Reply with only the number.", str(min(a, b)), str(max(a, b))


def _parity(rng: random.Random) -> _Pair:
    number = rng.randrange(100, 1000)
    right, wrong = ("even", "odd") if number % 2 == 0 else ("odd", "even")
    return f"Is {number} even or odd? Answer with one word.", right.capitalize(), f"The number {number} is {wrong}, I believe."


def _alphabet(rng: random.Random) -> _Pair:
    words = rng.sample(_WORDS, 3)
    ordered = sorted(words)
    wrong = [ordered[1], ordered[0], ordered[2]]
    return f"Put these words in alphabetical order: {', '.join(words)}.", ", ".join(ordered), ", ".join(wrong)


def _letters(rng: random.Random) -> _Pair:
    word = rng.choice(_WORDS)
    return f"How many letters does the word “{word}” have?", f"{len(word)}", f"Words have letters, and “{word}” is a nice word."


def _uppercase(rng: random.Random) -> _Pair:
    words = " ".join(rng.sample(_WORDS, 2))
    return f"Write this in capital letters: {words}", words.upper(), f"Sure! Here you go: {words}"


def _list(rng: random.Random) -> _Pair:
    words = rng.sample(_WORDS, 3)
    bullets = "\n".join(f"- {word}" for word in words)
    return f"Make a bullet list of: {', '.join(words)}.", bullets, f"{', '.join(words)} and many more things."


_KINDS: tuple[Callable[[random.Random], _Pair], ...] = (
    _addition,
    _subtraction,
    _smaller,
    _parity,
    _alphabet,
    _letters,
    _uppercase,
    _list,
)


def text() -> str:
    """The file's content: `PAIRS_PER_KIND` different pairs of each kind, the kinds in turn."""
    rng = random.Random(0)
    lines: list[str] = []
    seen: set[str] = set()
    for number in range(PAIRS_PER_KIND):
        for kind in _KINDS:
            prompt, chosen, rejected = kind(rng)
            while prompt in seen:
                prompt, chosen, rejected = kind(rng)
            seen.add(prompt)
            name = f"{kind.__name__[1:]}-{number:02d}"
            lines.append(json.dumps({"id": name, "prompt": prompt, "chosen": chosen, "rejected": rejected}, ensure_ascii=False))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
