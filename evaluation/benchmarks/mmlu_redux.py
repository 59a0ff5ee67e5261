"""MMLU-redux: multiple choice over 30 subjects, without the questions that annotators found to be faulty.

Dataset: yuchenlin/zero-eval, configuration mmlu-redux (2778 items, already filtered), or rows of the first MMLU-Redux as
edinburgh-dawg publishes them with an error type. Metric: the letter. Pattern: ZeroEval, zero-shot, JSON with reasoning and answer,
greedy, 4096 tokens. https://arxiv.org/abs/2406.04127
"""

from __future__ import annotations

from typing import Any

from evaluation._types import Item, Message, Verdict
from evaluation.benchmarks._annotated import annotated_item, item_of
from evaluation.benchmarks._choices import choice_row, letter_verdict
from evaluation.benchmarks._rows import Hub, Row, id_prefix, load_items
from evaluation.benchmarks._zeroeval import LETTERS, choice_messages

TITLE = "MMLU-redux"
NUM_ITEMS = 2778
MAX_NEW_TOKENS = 4096
GROUPS = ("subject",)
# The filter and the metric are the same for each of its subjects.
LM_EVAL_TASKS = ("mmlu-redux/generative/mmlu_redux_anatomy_generative",)
LM_EVAL_MAIN = ("mmlu_redux_anatomy_generative", "default", "exact_match")

_HUB = Hub("yuchenlin/zero-eval", ["mmlu-redux"])


def load(source: str | None, limit: int | None) -> list[Item]:
    """The items without faults, and those with a wrong gold answer whose corrected letter is known; `answer` is the letter.

    A row is either ZeroEval's (`choices` and the right one's text as `correct_answer`) or the annotators' (`error_type`, the right
    choice's number as `groundtruth_answer` or `answer`, and the corrected letter as `correct_answer`).

    Raises:
        FileNotFoundError: where the source is not there.
        ValueError: where it is in neither format, or has more items than the protocol, as MMLU-Redux 2.0 has (`mmlu_redux_2`).
    """
    prefix = id_prefix("mmlu_redux", source)

    def to_item(row: Row) -> Item | str:
        if "error_type" in row.values:
            return annotated_item(row, prefix)
        choices = row.get("choices", kind=list)
        if row.get("correct_answer", kind=str) not in choices:
            raise row.error("have the right answer among its choices", row.values["correct_answer"])
        return item_of(row, prefix, LETTERS[choices.index(row.values["correct_answer"])])

    return load_items("mmlu_redux", source, limit, _HUB, NUM_ITEMS, to_item)


def messages(item: Item) -> list[Message]:
    """One user turn: the chat template's own system text stays."""
    return choice_messages(item["question"], item["choices"])


def score(item: Item, completion: str, finish_reason: str, *, boxed: bool = False) -> Verdict:
    r"""Right is the gold letter, or an answer that contains it before a parenthesis; a null or empty answer is none.

    `boxed` adds the `\boxed{…}` rule that upstream keeps for Llama 3.1.
    """
    return letter_verdict(item, completion, boxed=boxed)


def lm_eval_document(item: Item) -> dict[str, Any]:
    """The item as a row of MMLU."""
    return choice_row(item)
