r"""MATH-L5: the hardest problems of MATH whose answer is a whole number.

Dataset: MATH's test split (EleutherAI/hendrycks_math, seven subjects), Level 5, where Python's `int()` accepts the last boxed
answer (721 items). Metric: the first number of the answer equals the gold one. Pattern: ZeroEval, zero-shot, JSON with reasoning
and answer, greedy, 4096 tokens. https://arxiv.org/abs/2103.03874
"""

from __future__ import annotations

from evaluation._types import Item, Message, Verdict
from evaluation.benchmarks._numbers import number_verdict
from evaluation.benchmarks._rows import Hub, Row, id_prefix, load_items
from evaluation.benchmarks._zeroeval import question_messages

TITLE = "MATH-L5"
NUM_ITEMS = 721
MAX_NEW_TOKENS = 4096

_HUB = Hub(
    "EleutherAI/hendrycks_math",
    [
        "algebra",
        "counting_and_probability",
        "geometry",
        "intermediate_algebra",
        "number_theory",
        "prealgebra",
        "precalculus",
    ],
)
_BOX = "\\boxed"


def load(source: str | None, limit: int | None) -> list[Item]:
    """The Level 5 items with a whole number as answer; other rows of the source are passed over.

    A row has `problem` (or `question`), `level`, and a `solution` (or `answer`) that boxes its answer or is nothing but the answer.

    Raises:
        FileNotFoundError: where the source is not there.
        ValueError: where it is not in upstream's format.
    """
    prefix = id_prefix("math_l5", source)

    def to_item(row: Row) -> Item | None:
        problem = row.get("problem", "question", kind=str)
        level = row.get("level", kind=str)
        solution = row.get("solution", "answer", kind=str)
        answer = last_boxed(solution) if _BOX in solution else solution
        if level != "Level 5" or answer is None or not is_whole_number(answer):
            return None
        return {"id": f"{prefix}-{row.number}", "question": problem, "answer": answer}

    return load_items("math_l5", source, limit, _HUB, NUM_ITEMS, to_item)


def messages(item: Item) -> list[Message]:
    """One user turn: the chat template's own system text stays."""
    return question_messages(item["question"], answer="the final number alone")


def score(item: Item, completion: str, finish_reason: str, *, boxed: bool = False) -> Verdict:
    r"""Compares the first numbers as floats. `boxed` adds the `\boxed{…}` rule that upstream keeps for Llama 3.1."""
    return number_verdict(item["answer"], completion, boxed=boxed)


def last_boxed(solution: str) -> str | None:
    r"""What the last `\boxed{…}` holds, or what follows a last `\boxed 5` up to the `$`; None where braces are not balanced."""
    content = solution[solution.rindex(_BOX) + len(_BOX) :].lstrip()
    if not content.startswith("{"):
        return content.partition("$")[0]
    depth = 0
    for position, character in enumerate(content):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return content[1:position]
    return None


def is_whole_number(answer: str) -> bool:
    """The rule of the 721: Python's int() reads the text. It also reads `11_2`, a number in base two."""
    try:
        int(answer)
    except ValueError:
        return False
    return True
