"""The section `study` of a sweep's file, which makes it a study: what its page says beside the results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from evaluation.report.study_facts import DEFAULT_TESTS, ColumnName, StudyFacts, TestName
from flows.recipe.section import Section

_Text = Annotated[str, Field(min_length=1)]
_Pair = Annotated[list[_Text], Field(min_length=2, max_length=2)]


class Study(Section):
    """What a study asks, how it was designed before its results, the columns of its table, and what of these is tested."""

    title: _Text
    question: _Text
    design: Annotated[list[_Text], Field(min_length=1)]
    columns: Annotated[list[ColumnName], Field(min_length=1)]
    # The columns in which settings are compared. All comparisons of a study are one family of Holm's correction.
    tests: Annotated[list[TestName], Field(min_length=1)] = Field(default_factory=lambda: list(DEFAULT_TESTS))
    # The variants that are compared, each with its opponent: [dpo-noisy, bnf-noisy]. Left out: by the rule of docs/sweeps.md.
    compare: list[_Pair] = Field(default_factory=list)
    # What of the design was changed once it had begun, and why.
    changed: list[_Text] = Field(default_factory=list)

    @field_validator("columns", "tests", "compare")
    @classmethod
    def _each_once(cls, value: list[object]) -> list[object]:
        twice = next((name for number, name in enumerate(value) if name in value[:number]), None)
        if twice is not None:
            what = "pair" if isinstance(twice, list) else "column"
            raise ValueError(f"must have each {what} once, got {twice!r} twice; remove one")
        return value

    @model_validator(mode="after")
    def _shows_what_it_tests(self) -> Self:
        hidden = next((name for name in self.tests if name not in self.columns), None)
        if hidden is not None and "tests" in self.model_fields_set:
            raise ValueError(f"tests must be among the columns, got {hidden!r}; add it to columns, or remove it")
        return self

    def check_variants(self, variants: Iterable[str]) -> None:
        """Refuse pairs of what are no variants of the sweep.

        Raises:
            ValueError: with the rule, the value and the remedy.
        """
        known = list(variants)
        for pair in self.compare:
            for name in pair:
                if name not in known:
                    has = (
                        f"names of sweep.variant ({', '.join(known)})"
                        if known
                        else "left out where the sweep has no axis variant"
                    )
                    raise ValueError(f"study.compare must be {has}, got {name!r}; correct it")
            if pair[0] == pair[1]:
                raise ValueError(f"study.compare must have two variants in a pair, got {pair[0]!r} twice; name its opponent")

    def facts(self) -> StudyFacts:
        pairs = [(setting, opponent) for setting, opponent in self.compare]
        return StudyFacts(self.title, self.question, self.design, self.columns, self.changed, tests=self.tests, compare=pairs)
