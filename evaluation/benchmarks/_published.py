"""Who judged the published figures of a judged benchmark."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedJudge:
    """A judge of published figures.

    Attributes:
        name: The model's name at its endpoint.
        called: What upstream's files and tables call it, where that is another name.
        temperature: At which its replies were sampled.
        max_judgment_tokens: The most tokens of its replies. None: as many as a recipe allows by default.
    """

    name: str
    called: str | None = None
    temperature: float = 0.0
    max_judgment_tokens: int | None = None

    def is_named(self, name: str) -> bool:
        return name in (self.name, self.called)
