"""What a stage's `run` is given. Apart from the process that runs it, which is no part of any stage's key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """The part of the recipe a stage reads, its inputs' folders by role, its own folder, and whom to tell of its progress.

    `fingerprints` are those of the inputs' content; `refresh` says that nothing from before is to be taken.
    """

    settings: dict[str, Any]
    inputs: dict[str, Path]
    output: Path
    progress: Callable[[int, int, str], None]
    fingerprints: dict[str, str] = field(default_factory=dict)
    refresh: bool = False
