"""A judgment: what a judge said of one comparison of two answers, or of one answer that it rated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evaluation.records import Record

# The label that a judge chose for a comparison, or its rating of an answer.
Verdict = str | float
# Counts of an answer by feature: `evaluation.judging.aggregates.style_control.style`.
Style = Mapping[str, int]

# The finish reason of a judgment that was decided without the judge.
NOT_ASKED = "not_asked"


@dataclass(frozen=True)
class Output:
    """What WildBench's scores need of an answer; `missing` where a recorded judgment lacks it."""

    characters: int
    empty: bool
    cut: bool
    missing: bool = False

    @property
    def is_void(self) -> bool:
        """Whether a comparison with it is worth nothing, whatever the judge says. A missing one is a fault of the record instead."""
        return self.empty or self.cut

    @property
    def is_left_out(self) -> bool:
        """Whether it leaves WB-Reward's numerator and the mean lengths."""
        return self.is_void or self.missing

    @classmethod
    def from_json(cls, record: Record) -> Output:
        return cls(record["characters"], record["empty"], record["cut"], record.get("missing", False))

    def to_json(self) -> Record:
        return {"characters": self.characters, "empty": self.empty, "cut": self.cut}


@dataclass(frozen=True)
class Facts:
    """What is known of the answers besides the judge's verdict.

    Attributes:
        verdict: The verdict where the protocol decides without a judge, as on an empty answer.
    """

    candidate_style: Style | None = None
    baseline_style: Style | None = None
    output: Output | None = None
    baseline_output: Output | None = None
    verdict: Verdict | None = None

    @classmethod
    def from_json(cls, record: Record) -> Facts:
        output, baseline_output = (
            Output.from_json(record[side]) if record.get(side) else None for side in ("output", "baseline_output")
        )
        return cls(record.get("candidate_style"), record.get("baseline_style"), output, baseline_output)

    def to_json(self) -> Record:
        styles = {"candidate_style": self.candidate_style, "baseline_style": self.baseline_style}
        outputs = {"output": self.output, "baseline_output": self.baseline_output}
        return {
            **{side: dict(style) for side, style in styles.items() if style is not None},
            **{side: output.to_json() for side, output in outputs.items() if output is not None},
            **({} if self.verdict is None else {"verdict": self.verdict}),
        }


@dataclass(frozen=True)
class Judgment:
    """One comparison in one order, or one rated answer, with its verdict: a line of games.jsonl, or of a benchmark's recorded judgments.

    Attributes:
        number: For a comparison 1 where the baseline is A, and 2 where it is B; for a rated answer its turn. `game` in files.
        verdict: None where the judge gave none that counts.
        category: The question's category; for rated answers alone.
        asked: Whether a judge was asked. A judgment that was decided without one counts for the score and tells nothing of the judge.
        choice_mass: The probability of both letters together, where the verdict is the likelier letter. `letter_mass` in files.
        null_reason: Why there is no verdict, where that is known.
        left_out: The verdict that the judge gave, where it doesn't count for the score.
    """

    question_id: str
    number: int
    verdict: Verdict | None
    facts: Facts = Facts()
    candidate: str = ""
    category: str | None = None
    asked: bool = True
    choice_mass: float | None = None
    null_reason: str | None = None
    left_out: Verdict | None = None

    @property
    def given(self) -> Verdict | None:
        """What the judge said, whether it counts or not."""
        return self.left_out if self.verdict is None else self.verdict

    @property
    def place(self) -> tuple[str, int]:
        """Question and number: they tell a model's comparisons, or its rated answers, apart."""
        return self.question_id, self.number

    @property
    def label(self) -> str | None:
        """The verdict of a comparison."""
        assert self.verdict is None or isinstance(self.verdict, str)
        return self.verdict

    @property
    def rating(self) -> float | None:
        """The verdict of a rated answer."""
        assert not isinstance(self.verdict, str)
        return self.verdict

    @property
    def outputs(self) -> tuple[Output, Output]:
        """The candidate's and the baseline's, of a protocol that records them."""
        assert self.facts.output is not None and self.facts.baseline_output is not None
        return self.facts.output, self.facts.baseline_output

    @classmethod
    def from_json(cls, record: Record) -> Judgment:
        """The judgment of a line of games.jsonl; a line that doesn't say otherwise is of a judge that was asked."""
        return cls(
            record["question_id"],
            record["game"],
            record["verdict"],
            Facts.from_json(record),
            record.get("candidate", ""),
            record.get("category"),
            record.get("finish_reason") != NOT_ASKED,
            record.get("letter_mass"),
            record.get("null_reason"),
        )


def null_reasons(judgments: Iterable[Judgment]) -> dict[str, int]:
    """How many judgments that a judge was asked for have no verdict, by reason."""
    found = Counter(one.null_reason or "unknown" for one in judgments if one.asked and one.verdict is None)
    return dict(found.most_common())
