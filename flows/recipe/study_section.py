"""The section `study` of a sweep's file, which makes it a study: what its page says beside the results."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from evaluation.report.study_facts import ColumnName, StudyFacts
from flows.recipe.section import Section

_Text = Annotated[str, Field(min_length=1)]


class Study(Section):
    """What a study asks, how it was designed before its results, and the columns of its table."""

    title: _Text
    question: _Text
    design: Annotated[list[_Text], Field(min_length=1)]
    columns: Annotated[list[ColumnName], Field(min_length=1)]
    # What of the design was changed once it had begun, and why.
    changed: list[_Text] = Field(default_factory=list)

    @field_validator("columns")
    @classmethod
    def _each_once(cls, value: list[ColumnName]) -> list[ColumnName]:
        twice = next((name for number, name in enumerate(value) if name in value[:number]), None)
        if twice is not None:
            raise ValueError(f"must have each column once, got {twice!r} twice; remove one")
        return value

    def facts(self) -> StudyFacts:
        return StudyFacts(self.title, self.question, self.design, self.columns, self.changed)
