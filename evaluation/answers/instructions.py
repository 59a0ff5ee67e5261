"""Which of IFEval's instructions a reply follows, by lm-eval's checkers. https://arxiv.org/abs/2311.07911

The checkers draw at random in two places, which would make a score another one at each run. A letter to count that is no letter (`#`, `!`)
is replaced by one that is drawn: here the sign itself is counted. langdetect draws while it guesses a language: here with a fixed seed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

import langdetect

from evaluation.answers.punkt import require_punkt

langdetect.DetectorFactory.seed = 0
# A checker that finds no language logs the whole text as an error, and counts the instruction as followed.
logging.getLogger("lm_eval.tasks.ifeval.instructions").setLevel(logging.CRITICAL)


class _Checker(Protocol):
    def check_following(self, value: str) -> bool: ...


def followed(
    instructions: Sequence[str], arguments: Sequence[Mapping[str, object]], reply: str
) -> tuple[list[bool], list[bool]]:
    """For each instruction, whether the reply follows it, and whether it does loosely.

    Loosely is upstream's upper bound: one of eight texts follows it, the reply with or without its first line, its last line, and
    all asterisks (an introduction, a farewell, emphasis). An empty text follows nothing.

    Raises:
        FileNotFoundError: where NLTK's sentence tokenizer is missing.
    """
    # First: without it lm-eval would fetch it while it is imported.
    require_punkt()
    lines = reply.split("\n")
    texts = [reply, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    texts = list(dict.fromkeys([*texts, *(text.replace("*", "") for text in texts)]))
    checkers = [_checker(name, given) for name, given in zip(instructions, arguments, strict=True)]
    strict = [_follows(checker, reply) for checker in checkers]
    return strict, [any(_follows(checker, text) for text in texts) for checker in checkers]


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
