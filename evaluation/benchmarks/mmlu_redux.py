"""MMLU-redux: multiple choice over 30 subjects, without the questions that annotators found to be faulty.

Dataset: yuchenlin/zero-eval, configuration mmlu-redux (2778 items, already filtered), or rows of the first MMLU-Redux as
edinburgh-dawg publishes them with an error type. Metric: the letter. Pattern: ZeroEval, zero-shot, JSON with reasoning and answer,
greedy, 4096 tokens. https://arxiv.org/abs/2406.04127
"""

from __future__ import annotations

from evaluation.benchmarks._annotated import annotated_item, item_of
from evaluation.benchmarks._choices import choice_row, letter_verdict, same_letter
from evaluation.benchmarks._items import choice_fault
from evaluation.benchmarks._rows import Row, id_prefix, load_items
from evaluation.benchmarks._zeroeval import LETTERS, choice_messages
from evaluation.types import Hub, Item, Message

TITLE = "MMLU-redux"
NUM_ITEMS = 2778
MAX_NEW_TOKENS = 4096
GROUPS = ("subject",)
# The filter and the metric are the same for each of its subjects.
LM_EVAL_TASKS = ("mmlu-redux/generative/mmlu_redux_anatomy_generative",)
LM_EVAL_MAIN = ("mmlu_redux_anatomy_generative", "default", "exact_match")

# The first MMLU-Redux's; 2.0 has all 57 of MMLU's.
_SUBJECTS = """
    anatomy astronomy business_ethics clinical_knowledge college_chemistry college_computer_science college_mathematics
    college_medicine college_physics conceptual_physics econometrics electrical_engineering formal_logic global_facts
    high_school_chemistry high_school_geography high_school_macroeconomics high_school_mathematics high_school_physics
    high_school_statistics high_school_us_history human_aging logical_fallacies machine_learning miscellaneous philosophy
    professional_accounting professional_law public_relations virology
"""
HUB = Hub("yuchenlin/zero-eval", ["mmlu-redux"])


def load(source: str | None, limit: int | None) -> list[Item]:
    """The items without faults, and those with a wrong gold answer whose corrected letter is known; `answer` is the letter.

    A row is either ZeroEval's (`choices` and the right one's text as `correct_answer`) or the annotators' (`error_type`, the right
    choice's number as `groundtruth_answer` or `answer`, and the corrected letter as `correct_answer`).

    Raises:
        FileNotFoundError: where the source is not there.
        ValueError: where it is in neither format, or has other subjects or more items than the protocol, as MMLU-Redux 2.0 has
            (`mmlu_redux_2`). Rows of 2.0 in the first set's subjects alone can't be told from the first set's.
    """
    prefix, subjects = id_prefix("mmlu_redux", source), set(_SUBJECTS.split())

    def to_item(row: Row) -> Item | str:
        subject = row.values.get("subject") or row.values.get("config")
        # The project's own items have subjects of their own.
        if source != "sample" and subject is not None and subject not in subjects:
            raise row.error(f"have the first MMLU-Redux's {len(subjects)} subjects (mmlu_redux_2 has all of MMLU's)", subject)
        if "error_type" in row.values:
            return annotated_item(row, prefix)
        choices = row.get("choices", kind=list)
        if row.get("correct_answer", kind=str) not in choices:
            raise row.error("have the right answer among its choices", row.values["correct_answer"])
        return item_of(row, prefix, LETTERS[choices.index(row.values["correct_answer"])])

    return load_items("mmlu_redux", source, limit, HUB, NUM_ITEMS, to_item)


item_fault = choice_fault


def messages(item: Item) -> list[Message]:
    """One user turn: the chat template's own system text stays."""
    return choice_messages(item["question"], item["choices"])


score = letter_verdict
same_answer = same_letter
lm_eval_document = choice_row
