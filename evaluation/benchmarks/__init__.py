"""Benchmarks: what a model is asked and how its answer is scored. One file per benchmark, whose name is its name in a recipe.

The contracts of a benchmark (`Benchmark`; `Conversation` of several turns; `ZeroEvalBenchmark`, which ZeroEval has too) and their kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from bnf.plugins import Kind, default
from evaluation.benchmarks._published import PublishedJudge
from evaluation.types import Hub, Item, Message, Progress, Verdict


class Benchmark(Protocol):
    """What a benchmark's file has. One that a rule scores has `score`, one that a judge scores has `FORMS`.

    Attributes:
        TITLE: What the report calls it.
        NUM_ITEMS: How many items the published benchmark has; None where nobody says.
        MAX_NEW_TOKENS: The most tokens of a completion by its protocol.
        MAX_NEW_TOKENS_WITH_THOUGHT: As many of a model that thinks, where its protocol gives such a model more. A recipe asks for them.
        HUB: Its data set on the hub; None where no hub has it.
        MAKES_ITS_ITEMS: Whether it makes its items itself, so that there is nothing to fetch.
        GROUPS: Fields of its items by which results are shown apart.
        FORMS: The judge protocols that it can be judged in, the first by default, each with the judges of the published figures, the
            official one first (none: there are no such figures).
        ENSEMBLE: Whether the published figures are of all these judges' verdicts together, and not of each one's.
        BASELINE: The model whose answers are compared with in the published figures.
        BASELINE_FILE: Where upstream has that model's answers.
        NUM_TURNS: How many turns the model answers. A benchmark of more than one keeps the contract `Conversation`.
        ANSWERS_DIGEST: `answers_digest` of all of the benchmark's items, where its rows have been at hand: so that another year's paper or
            another version isn't taken for them.
        HAS_MAJORITY: Whether completions of an item can have the same answer, so that the one that most have is its answer.
        LM_EVAL_TASKS: lm-evaluation-harness's tasks that can read its completions, as `folder/task`. A benchmark with some has
            `lm_eval_document`.
        LM_EVAL_MAIN: The (task, filter, metric) among these that reads them best: of lm-eval's filters most look for phrases that our
            prompts don't ask for.
    """

    TITLE: str
    NUM_ITEMS: int | None
    MAX_NEW_TOKENS: int
    MAX_NEW_TOKENS_WITH_THOUGHT: int | None = None
    HUB: Hub | None = None
    MAKES_ITS_ITEMS: bool = False
    GROUPS: Sequence[str] = ()
    FORMS: Mapping[str, Sequence[PublishedJudge]] = {}
    ENSEMBLE: bool = False
    BASELINE: str | None = None
    BASELINE_FILE: str | None = None
    NUM_TURNS: int = 1
    ANSWERS_DIGEST: str | None = None
    HAS_MAJORITY: bool = True
    LM_EVAL_TASKS: Sequence[str] = ()
    LM_EVAL_MAIN: tuple[str, str, str] | None = None

    def load(self, source: str | None, limit: int | None) -> list[Item]:
        """The first `limit` items.

        Args:
            source: None for the benchmark's own place, `hub_source` for its data set at a commit, "sample" for the project's own items,
                else a local file.

        Raises:
            FileNotFoundError: where the source is not there.
            ValueError: where it does not hold the benchmark's items.
        """
        ...

    def messages(self, item: Item) -> list[Message]:
        """The conversation that the model is to go on with."""
        ...

    @default
    def check(self) -> None:
        """Raises FileNotFoundError where this machine lacks what scoring needs and no package brings; before anything is generated."""

    @default
    def score(self, item: Item, completion: str, finish_reason: str) -> Verdict:
        """Whether the completion is right, by a rule. `finish_reason` is empty where nobody knows how the completion ended."""
        raise ValueError(f"benchmark must be scored by a rule, got {self.TITLE}, which a judge scores; use its judge")

    @default
    def item_fault(self, item: Item) -> str | None:
        """What is wrong with a field of the item, such as `have answer as str, got 5`; None where it can be one of the benchmark's."""
        return None

    @default
    def same_answer(self, one: str, other: str) -> bool:
        """Whether two answers, as verdicts have them, are one to the rule: as a gold answer's equal it would take either for the other."""
        return one == other

    @default
    def second_metrics(
        self, items: Sequence[Item], answers: Sequence[str | None], progress: Progress | None = None
    ) -> list[dict[str, bool | float]]:
        """Metrics that stand beside the accuracy, for each item and the answer found in its completion (None: none was found)."""
        return [{} for _ in items]

    @default
    def lm_eval_document(self, item: Item) -> dict[str, object]:
        """The item as a row of the data set of its lm-eval tasks."""
        raise ValueError(f"{self.TITLE} must have LM_EVAL_TASKS for a cross-check, got none; leave the cross-check out")

    @default
    def read_references(self, path: str) -> dict[str, list[str]]:
        """Reference answers for the judge, by the item's id, from a file of their own.

        Raises:
            FileNotFoundError, ValueError: where there is no such file, or the benchmark takes none.
        """
        raise ValueError(f"must be left out for {self.TITLE}, which takes no reference answers, got {path}; remove it")


class Conversation(Benchmark, Protocol):
    """A benchmark of several turns: each follows the model's own earlier answers."""

    def messages(self, item: Item, answers: Sequence[str] = ()) -> list[Message]:
        """The conversation up to the turn that follows `answers`."""
        ...

    def temperature(self, item: Item) -> float:
        """The temperature at which the item's answers are sampled."""
        ...


class ZeroEvalBenchmark(Benchmark, Protocol):
    """A benchmark whose completions may have been recorded by ZeroEval."""

    def score(self, item: Item, completion: str, finish_reason: str, *, boxed: bool = False) -> Verdict:
        r"""As `Benchmark.score`; `boxed` adds the `\boxed{…}` rule, which ZeroEval has for Llama 3.1 alone."""
        ...


def most_new_tokens(benchmark: Benchmark, asked: int | None) -> int:
    """The most tokens of a completion: as many as a recipe asks for, but no more than the protocol has; left out, those of a model that
    doesn't think.
    """
    if asked is None:
        return benchmark.MAX_NEW_TOKENS
    return min(asked, benchmark.MAX_NEW_TOKENS_WITH_THOUGHT or benchmark.MAX_NEW_TOKENS)


BENCHMARKS = Kind("benchmark", "evaluation.benchmarks", Benchmark)
CONVERSATIONS = Kind("benchmark", "evaluation.benchmarks", Conversation)
ZEROEVAL_BENCHMARKS = Kind("benchmark", "evaluation.benchmarks", ZeroEvalBenchmark)
