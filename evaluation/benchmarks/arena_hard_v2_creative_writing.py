"""Arena-Hard v2.0, creative writing: open-ended questions, answered in one turn and judged against gemini-2.0-flash-001's answers.

Dataset: the `creative_writing` questions of lmarena/arena-hard-auto's v2.0 (250 of 750). Metric: win rate by a judge
(`evaluation/judging/protocols/pairwise_creative_writing.py`). Pattern: the question as the user's turn, greedy. https://arxiv.org/abs/2406.11939
"""

from __future__ import annotations

from evaluation.benchmarks._arena_hard_v2 import GEMINI, GPT, load_category
from evaluation.benchmarks._arena_hard_v2 import MAX_NEW_TOKENS as MAX_NEW_TOKENS
from evaluation.benchmarks._arena_hard_v2 import MAX_NEW_TOKENS_WITH_THOUGHT as MAX_NEW_TOKENS_WITH_THOUGHT
from evaluation.benchmarks._arena_hard_v2 import messages as messages
from evaluation.types import Item

TITLE = "Arena-Hard v2.0, creative writing"
NUM_ITEMS = 250
# Of both judges' verdicts together: `bnf judge-score` adds up two judges' games.
FORMS = {"pairwise_creative_writing": (GPT, GEMINI)}
ENSEMBLE = True
BASELINE = "gemini-2.0-flash-001"
BASELINE_FILE = "data/arena-hard-v2.0/model_answer/gemini-2.0-flash-001.jsonl"


def load(source: str | None, limit: int | None) -> list[Item]:
    """The category's questions of upstream's question.jsonl.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the source is no file, or a line is no question of v2.0.
    """
    return load_category("arena_hard_v2_creative_writing", "creative_writing", NUM_ITEMS, source, limit)
