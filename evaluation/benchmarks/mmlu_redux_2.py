"""MMLU-Redux 2.0: 100 questions of each of MMLU's 57 subjects, without those that annotators found to be faulty.

Dataset: edinburgh-dawg/mmlu-redux-2.0 (5700 rows; its authors don't say how many of them are free of faults). It is another set than
ZeroEval's (`mmlu_redux`), and scores on the two can't be compared. Metric: the letter. Pattern: ZeroEval, zero-shot, JSON with
reasoning and answer, greedy, 4096 tokens. https://arxiv.org/abs/2406.04127
"""

from __future__ import annotations

from evaluation.benchmarks._annotated import annotated_item
from evaluation.benchmarks._choices import choice_row, letter_verdict, same_letter
from evaluation.benchmarks._items import choice_fault
from evaluation.benchmarks._rows import id_prefix, load_items
from evaluation.benchmarks._zeroeval import choice_messages
from evaluation.types import Hub, Item, Message

TITLE = "MMLU-Redux 2.0"
NUM_ITEMS = None
MAX_NEW_TOKENS = 4096
GROUPS = ("subject",)
# The filter and the metric are the same for each of its subjects.
LM_EVAL_TASKS = ("mmlu-redux/generative/mmlu_redux_anatomy_generative",)
LM_EVAL_MAIN = ("mmlu_redux_anatomy_generative", "default", "exact_match")

# MMLU's 57 subjects.
_SUBJECTS = """
    abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry college_computer_science
    college_mathematics college_medicine college_physics computer_security conceptual_physics econometrics electrical_engineering
    elementary_mathematics formal_logic global_facts high_school_biology high_school_chemistry high_school_computer_science
    high_school_european_history high_school_geography high_school_government_and_politics high_school_macroeconomics
    high_school_mathematics high_school_microeconomics high_school_physics high_school_psychology high_school_statistics
    high_school_us_history high_school_world_history human_aging human_sexuality international_law jurisprudence
    logical_fallacies machine_learning management marketing medical_genetics miscellaneous moral_disputes moral_scenarios
    nutrition philosophy prehistory professional_accounting professional_law professional_medicine professional_psychology
    public_relations security_studies sociology us_foreign_policy virology world_religions
"""
HUB = Hub("edinburgh-dawg/mmlu-redux-2.0", _SUBJECTS.split(), config_field="subject")


def load(source: str | None, limit: int | None) -> list[Item]:
    """The items without faults, and those with a wrong gold answer whose corrected letter is known; the others are left out, counted.

    Raises:
        FileNotFoundError: where the source is not there.
        ValueError: where it is not in the annotators' format.
    """
    prefix = id_prefix("mmlu_redux_2", source)
    return load_items("mmlu_redux_2", source, limit, HUB, NUM_ITEMS, lambda row: annotated_item(row, prefix))


item_fault = choice_fault


def messages(item: Item) -> list[Message]:
    """One user turn: the chat template's own system text stays."""
    return choice_messages(item["question"], item["choices"])


score = letter_verdict
same_answer = same_letter
lm_eval_document = choice_row
