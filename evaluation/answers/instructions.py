"""Which of IFEval's instructions a reply follows, by lm-eval's checkers. https://arxiv.org/abs/2311.07911

The checkers draw at random in two places, which would make a score another one at each run. A letter to count that is no letter (`#`, `!`)
is replaced by one that is drawn: here the sign itself is counted. langdetect draws while it guesses a language: here with a fixed seed.

They search replies with expressions whose time grows with the square of the text, and take keywords of the items for expressions, some of
which would never end. So they run in a child process, which is killed where a reply takes too long.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

from evaluation.answers.punkt import require_punkt
from evaluation.records import Record
from evaluation.sandbox import BoundedCalls

# Of the child's own work, for all instructions of one reply. A long reply takes less than a second.
LIMIT_S = 30.0


class _Checker(Protocol):
    def check_following(self, value: str) -> bool: ...


# The child, by the folders of NLTK's data: what it imports reads them.
_children: dict[tuple[str, ...], BoundedCalls] = {}
_one_at_a_time = threading.Lock()


def followed(
    instructions: Sequence[str], arguments: Sequence[Mapping[str, object]], reply: str
) -> tuple[list[bool], list[bool]] | None:
    """For each instruction, whether the reply follows it, and whether it does loosely; None where the checkers failed on it, or took too
    long.

    Loosely is upstream's upper bound: one of eight texts follows it, the reply with or without its first line, its last line, and
    all asterisks (an introduction, a farewell, emphasis). An empty text follows nothing.

    Raises:
        FileNotFoundError: where NLTK's sentence tokenizer is missing.
        ValueError: where a checker can't read an argument, such as a keyword that is no expression.
    """
    import nltk

    # First: without it lm-eval would fetch it while it is imported.
    require_punkt()
    with _one_at_a_time:
        asked = {"instructions": list(instructions), "arguments": list(arguments), "reply": reply}
        found = cast("Record | None", _calls(tuple(map(str, nltk.data.path)))(asked, limit_s=LIMIT_S))
    if found is None:
        return None
    if "refused" in found:
        raise ValueError(
            f"the arguments of {', '.join(instructions)} must be what lm-eval's checkers take, got {list(arguments)} ({found['refused']}); "
            "correct the item"
        )
    return found["strict"], found["loose"]


def _calls(nltk_path: tuple[str, ...]) -> BoundedCalls:
    if nltk_path not in _children:
        close()
        setup = {"nltk_path": nltk_path}
        _children[nltk_path] = BoundedCalls("evaluation.answers.instructions:make_followed", setup, limit_s=LIMIT_S)
    return _children[nltk_path]


@atexit.register
def close() -> None:
    """Ends the child; a further call starts another."""
    while _children:
        _children.popitem()[1].close()


def make_followed(nltk_path: Sequence[str]) -> Callable[[Record], Record]:
    """In the child: what gives the instructions that a reply follows."""
    import logging
    import re

    import langdetect
    import nltk

    nltk.data.path[:] = nltk_path
    # Here, as the child's calls have less memory than an import takes.
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    assert INSTRUCTION_DICT
    langdetect.DetectorFactory.seed = 0
    # A checker that finds no language logs the whole text as an error, and counts the instruction as followed.
    logging.getLogger("lm_eval.tasks.ifeval.instructions").setLevel(logging.CRITICAL)

    def found(asked: Record) -> Record:
        reply = asked["reply"]
        lines = reply.split("\n")
        texts = [reply, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
        texts = list(dict.fromkeys([*texts, *(text.replace("*", "") for text in texts)]))
        try:
            checkers = [_checker(*pair) for pair in zip(asked["instructions"], asked["arguments"], strict=True)]
            strict = [_follows(checker, reply) for checker in checkers]
            return {"strict": strict, "loose": [any(_follows(checker, text) for text in texts) for checker in checkers]}
        except re.error as error:
            return {"refused": str(error)}

    return found


def _checker(instruction: str, arguments: Mapping[str, object]) -> _Checker:
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    checker = INSTRUCTION_DICT[instruction](instruction)
    checker.build_description(**arguments)
    if "letter" in arguments:
        checker._letter = str(arguments["letter"]).lower()
    found: _Checker = checker
    return found


def _follows(checker: _Checker, text: str) -> bool:
    try:
        return bool(text.strip()) and bool(checker.check_following(text))
    except RecursionError:  # JSON of thousands of brackets
        return False
