"""GPQA-Diamond: graduate-level questions in biology, chemistry and physics, each with four choices.

Dataset: Idavidrein/gpqa, configuration gpqa_diamond, train (198 items; locally its gpqa_diamond.csv). The data set is gated: its terms,
which ask not to publish the questions, are accepted on the hub. Upstream has the right answer first, so the choices are put into an
order of their own: that of the sha256 of a fixed seed, the question and the choice. It is the same everywhere, whatever a row's place.
Metric: the letter that a reply states last; `upstream_rule` beside it has the one that upstream's expressions find first
(`evaluation/answers/letters.py`). Results by field, as subjects. Pattern: zero-shot reasoning that ends in "The answer is (X)", greedy,
32,768 tokens. https://arxiv.org/abs/2311.12022, https://github.com/idavidrein/gpqa
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from evaluation.answers.letters import gpqa_letter, last_letter
from evaluation.benchmarks._items import choice_fault
from evaluation.benchmarks._lettered import lettered_verdict
from evaluation.benchmarks._reasoning import REASONING_TOKENS, lettered_messages
from evaluation.benchmarks._rows import Row, id_prefix, load_items
from evaluation.benchmarks._zeroeval import LETTERS
from evaluation.types import Hub, Item, Message, Verdict

TITLE = "GPQA-Diamond"
NUM_ITEMS = 198
MAX_NEW_TOKENS = REASONING_TOKENS
GROUPS = ("subject",)

HUB = Hub("Idavidrein/gpqa", ["gpqa_diamond"], split="train")
_RIGHT = "Correct Answer"
_WRONG = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
# Fixed for good: another seed is another order of choices, and other items.
_ORDER_SEED = "gpqa_diamond-0"


def load(source: str | None, limit: int | None) -> list[Item]:
    """The items with their choices in a fixed order; `answer` is the right one's letter, and upstream's `Record ID` the id.

    Raises:
        FileNotFoundError: where the source is not there.
        ValueError: where it is not in upstream's format.
    """
    prefix = id_prefix("gpqa_diamond", source)

    def to_item(row: Row) -> Item | str:
        question = row.get("Question", kind=str).strip()
        texts = [row.get(name, kind=str).strip() for name in (_RIGHT, *_WRONG)]
        record, subject = row.get("Record ID", kind=str), row.get("High-level domain", kind=str)
        if not all((question, *texts)):
            raise row.error("have a question and four answers that are not empty", [question, *texts])
        if any(" ".join(wrong.split()) == " ".join(texts[0].split()) for wrong in texts[1:]):
            return "the right answer is one of the wrong ones, too"
        order = sorted(range(len(texts)), key=lambda place: _rank(question, texts[place]))
        return {
            "id": f"{prefix}-{record}",
            "question": question,
            "choices": [texts[place] for place in order],
            "answer": LETTERS[order.index(0)],
            "subject": subject,
        }

    return load_items("gpqa_diamond", source, limit, HUB, NUM_ITEMS, to_item, counts_rows=True)


def item_fault(item: Item) -> str | None:
    """As the contract has it: four choices."""
    return choice_fault(item, 4, 4)


def messages(item: Item) -> list[Message]:
    """One user turn: the chat template's own system text stays."""
    return lettered_messages(item["question"], item["choices"])


def score(item: Item, completion: str, finish_reason: str) -> Verdict:
    """Compares the letter that the reply states last, and for `upstream_rule` the one that upstream's expressions find."""
    upstream = lettered_verdict(item, completion, gpqa_letter)
    return replace(lettered_verdict(item, completion, last_letter), metrics={"upstream_rule": upstream.outcome == "correct"})


def _rank(question: str, choice: str) -> str:
    return hashlib.sha256("\0".join((_ORDER_SEED, question, choice)).encode()).hexdigest()
