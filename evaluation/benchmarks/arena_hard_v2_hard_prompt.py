"""Arena-Hard v2.0, hard prompts: open-ended questions, answered in one turn and judged against o3-mini-2025-01-31's answers.

Dataset: the `hard_prompt` questions of lmarena/arena-hard-auto's v2.0 (500 of 750). Metric: win rate by a judge
(`evaluation/judging/protocols/pairwise_hard_prompt.py`). Pattern: the question as the user's turn, greedy. https://arxiv.org/abs/2406.11939
"""

from __future__ import annotations

from evaluation.benchmarks._arena_hard_v2 import GEMINI, GPT, load_category
from evaluation.benchmarks._arena_hard_v2 import MAX_NEW_TOKENS as MAX_NEW_TOKENS
from evaluation.benchmarks._arena_hard_v2 import MAX_NEW_TOKENS_WITH_THOUGHT as MAX_NEW_TOKENS_WITH_THOUGHT
from evaluation.benchmarks._arena_hard_v2 import messages as messages
from evaluation.types import Item

TITLE = "Arena-Hard v2.0, hard prompts"
NUM_ITEMS = 500
# Gemini's table is the official one.
FORMS = {"pairwise_hard_prompt": (GEMINI, GPT)}
BASELINE = "o3-mini-2025-01-31"
BASELINE_FILE = "data/arena-hard-v2.0/model_answer/o3-mini-2025-01-31.jsonl"


def load(source: str | None, limit: int | None) -> list[Item]:
    """The category's questions of upstream's question.jsonl.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the source is no file, or a line is no question of v2.0.
    """
    return load_category("arena_hard_v2_hard_prompt", "hard_prompt", NUM_ITEMS, source, limit)
