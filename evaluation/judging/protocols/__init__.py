"""The judge protocols: what a judge is shown, how it is asked, how its reply is read, and what its verdicts add up to.

pairwise: Arena-Hard v0.1's, two answers compared by five labels
pairwise_hard_prompt, pairwise_creative_writing: Arena-Hard v2.0's, one for each category
checklist_score: WildBench's WB-Score, one answer rated with a checklist
checklist_pairwise: WildBench's WB-Reward, two answers compared with a checklist
turn_score: MT-bench's, each turn's answer rated

A file here is a protocol. Its name is the protocol's in a recipe, under `judge.benchmarks.NAME.forms`; `JudgeProtocol` says what it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from bnf.plugins import Kind, default
from evaluation.judging.aggregates.judgment import Facts, Judgment, Verdict
from evaluation.records import Record
from evaluation.types import Item

# Whether two answers are compared in one order, or in both.
Orders = Literal["one", "both"]


class JudgeProtocol(Protocol):
    """What a protocol's file holds.

    Attributes:
        COMPARES: Whether two answers are compared, or one is rated.
        LABELS: The replies that a constrained judge chooses from, each with its verdict.
        LETTERS: The verdict of each letter, where a verdict can be the likelier of two letters.
        REASONS: The names of the reasons in a structured reply. They come before the verdict, so that they can lead to it.
        VERDICT: The name of the verdict in a structured reply.
        TASK: What the judge is told to do, in words of this project.
        ASK_TEXT: How free text is asked for.
        ASK_AGAIN: How a judge is asked to go on whose free text has no verdict. None: it is not asked.
        MAX_WORDS: The most words of each text that the judge is shown.
        ORDERS: The orders of the published figures. None: they say nothing of orders.
        HIDES_THOUGHTS: Whether the judge is shown an answer without what its model thought before it.
    """

    __name__: str
    COMPARES: bool
    LABELS: Mapping[str, Verdict]
    LETTERS: Mapping[str, str] | None = None
    REASONS: Sequence[str]
    VERDICT: str
    TASK: str
    ASK_TEXT: str
    ASK_AGAIN: str | None = None
    MAX_WORDS: int | None = None
    ORDERS: Orders | None = None
    HIDES_THOUGHTS: bool = False

    def texts(self, item: Item, turn: int) -> list[tuple[str, str]]:
        """What the judge reads before the answers, as (heading, text)."""
        ...

    def parse(self, reply: str) -> Verdict | None:
        """The verdict of a reply in free text; None where it has none that counts."""
        ...

    @default
    def wants_more(self, reply: str) -> bool:
        """Whether a judge that replied this in free text is asked to go on."""
        return False

    def facts(self, answer: str, baseline: str | None) -> Facts:
        """What a judgment records of the answers. With a `verdict` in it no judge is asked."""
        ...

    def aggregate(
        self,
        judgments: Sequence[Judgment],
        *,
        num_expected: int,
        orders: str,
        demonstration: bool,
        questions: Sequence[Item],
    ) -> Record:
        """One model's result. It has `trusted` and `untrusted_reason`, and the counts of judgments by what became of them."""
        ...

    @default
    def across(self, results: Mapping[str, Record], judgments: Mapping[str, Sequence[Judgment]]) -> Record:
        """What is said of several models together, by the judgments of each; it may add to their results."""
        return {}


PROTOCOLS = Kind("judge protocol", "evaluation.judging.protocols", JudgeProtocol)
