"""CRUX: what does this Python function return for this input? (CRUXEval's output prediction)

Dataset: cruxeval-org/cruxeval, test (800 items; locally cruxeval.jsonl). Metric: the answer is the gold text, quotes at both ends
aside. Nothing is executed. Pattern: ZeroEval, zero-shot, JSON with reasoning and answer, greedy, 4096 tokens.
https://arxiv.org/abs/2401.03065
"""

from __future__ import annotations

import ast
import warnings

from evaluation.answers import parsing
from evaluation.benchmarks._items import code_fault
from evaluation.benchmarks._rows import Row, load_items
from evaluation.benchmarks._zeroeval import question_messages
from evaluation.types import Hub, Item, Message, Verdict

TITLE = "CRUX"
NUM_ITEMS = 800
ANSWERS_DIGEST = "990eb77ffd10f286"
MAX_NEW_TOKENS = 4096

HUB = Hub("cruxeval-org/cruxeval", [None])
_QUOTES = "'\""
_MAX_LITERAL_CHARACTERS = 10_000


def load(source: str | None, limit: int | None) -> list[Item]:
    """The items, with upstream's ids; an item's `answer` is the output's literal.

    Raises:
        FileNotFoundError: where the source is not there.
        ValueError: where it is not in upstream's format.
    """

    def to_item(row: Row) -> Item:
        names = {"id": "id", "code": "code", "input": "input", "answer": "output"}
        return {ours: row.get(theirs, kind=str) for ours, theirs in names.items()}

    return load_items("crux", source, limit, HUB, NUM_ITEMS, to_item)


item_fault = code_fault


def messages(item: Item) -> list[Message]:
    """One user turn: the chat template's own system text stays."""
    question = (
        "Below is a Python function and an assertion about it in which the right-hand side is left open. Run the function in your "
        "head on the given input, exactly as it is written, even where it looks wrong. Then say which literal has to stand in "
        "place of ?? for the assertion to hold: a plain value, with nothing left to compute and no calls in it.\n\n"
        f"[PYTHON]\n{item['code']}\nassert f({item['input']}) == ??\n[/PYTHON]"
    )
    return question_messages(question, answer="that literal alone")


def score(item: Item, completion: str, finish_reason: str, *, boxed: bool = False) -> Verdict:
    r"""Compares texts; the second metric `literal_match` compares the values that the texts stand for, and their types.

    `boxed` adds the `\boxed{…}` rule that upstream keeps for Llama 3.1.
    """
    found = parsing.extract_answer(completion, boxed=boxed)
    if found.rule == "none":
        return Verdict("no_answer", None, "none", {"literal_match": False})
    answer = str(found.value)
    right = _compared(answer) == item["answer"].strip(_QUOTES)
    metrics: dict[str, bool | float] = {"literal_match": _typed(_literal(item["answer"])) in map(_typed, _readings(answer))}
    return Verdict("correct" if right else "wrong", answer, found.rule, metrics)


def same_answer(one: str, other: str) -> bool:
    """Whether two answers are compared as the same text."""
    return _compared(one) == _compared(other)


def _compared(answer: str) -> str:
    return answer.strip(_QUOTES).replace("\n", "\\n")


def _readings(answer: str) -> list[object]:
    """The values that an answer may stand for: that of a literal, else that of a string without quotes, with or without escapes.

    A line break inside a literal is an escape that a JSON reader decoded.
    """
    value = _literal(answer)
    if value is not answer:
        return [value]
    escaped = answer.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    return [answer, _literal(escaped), *(_literal(f"{quote}{escaped}{quote}") for quote in _QUOTES)]


def _literal(text: str) -> object:
    """The value of a Python literal; any other text itself."""
    if len(text) <= _MAX_LITERAL_CHARACTERS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python warns of escapes that it doesn't know
                return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            pass
    return text


def _typed(value: object) -> object:
    """The value with its type at every depth, keys and members of sets too: 1, 1.0 and True are three values."""
    if isinstance(value, list | tuple):
        return type(value), tuple(map(_typed, value))
    if isinstance(value, set):
        return set, frozenset(map(_typed, value))
    if isinstance(value, dict):
        return dict, frozenset((_typed(key), _typed(member)) for key, member in value.items())
    return type(value), value
