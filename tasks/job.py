"""What a stage's `run` is given, and what a stage says of its output. Small, as it is part of every stage's key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnf.progress import Progress

# A part of a recipe as plain JSON: the stage that reads it knows what is in it.
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """The part of the recipe a stage reads, its inputs' folders by role, its own folder, and whom to tell of its progress.

    `fingerprints` are those of the inputs' content; `refresh` says that nothing from before is to be taken.
    """

    settings: Settings
    inputs: Mapping[str, Path]
    output: Path
    progress: Progress
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    refresh: bool = False


@dataclass(frozen=True)
class Identity:
    """What a stage's output is, where the bytes of its content files don't say it; its manifest has the same fields.

    Attributes:
        fingerprint: of a model: its digest, the same wherever the model comes from.
        model_path: the model's folder, where it lies outside the store.
        model_folder: the model's folder within the artifact.
        is_linked: whether that folder links to files outside the store, which then never come into a shared one.
        open: how many of its requests failed; another run asks them again.
    """

    fingerprint: str | None = None
    model_path: str | None = None
    model_folder: str | None = None
    is_linked: bool | None = None
    open: int | None = None
