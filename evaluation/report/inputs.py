"""What a report is made from: folders of a run's stages, by the section of the report that they feed.

A stage names its section as the field of `ReportInputs` that takes its folders. A new one is a field here, what `summarize` reads of
it, and an entry of `evaluation/report/sections.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

from evaluation.records import Record

MODELS = ("base", "aligned")
# benchmark (or lm-eval task) → model → folder
ByModel = Mapping[str, Mapping[str, Path]]


class CheckpointFolders(NamedTuple):
    """A policy of the training's way: its name, its folder, and its scores by benchmark."""

    name: str
    policy: Path
    scores: Mapping[str, Path]


@dataclass(frozen=True)
class ReportInputs:
    """A run's results.

    Attributes:
        recipe: With every default.
        models: What each model is, in words; `digests` are their contents' hashes.
        stages: One entry per task, as summary.json has it: with `stage`, `model`, `benchmark`, `key`, `fingerprint`, `seconds`,
            `other_code`.
        versions: Of packages.
        machine: What the last stage ran on.
        scores: Scores by benchmark and model. One model alone is evaluated without differences.
        generations: Completions by benchmark and model, for the examples.
        cross_checks: lm-eval's reading of the same completions, by benchmark and model.
        lm_eval: lm-eval's own tasks, by task and model.
        judges: Judgments by benchmark; by another protocol or judge it is called `benchmark/variant`.
        contamination: What of a benchmark the training data hold.
        train, shifts, data: Training, what it did to the likelihood of its data, and these data; None where there is none.
        reference: The reference's values of these data, token by token, and their pairs' CHES scores.
        checkpoints: Policies of the training's way, evaluated as the aligned model.
        rounds: Per on-policy round its folders by stage.
    """

    name: str
    recipe: Record
    models: Mapping[str, str]
    digests: Mapping[str, str]
    stages: Sequence[Record]
    versions: Mapping[str, str]
    machine: Record
    scores: ByModel = field(default_factory=dict)
    generations: ByModel = field(default_factory=dict)
    cross_checks: ByModel = field(default_factory=dict)
    lm_eval: ByModel = field(default_factory=dict)
    judges: Mapping[str, Path] = field(default_factory=dict)
    contamination: Mapping[str, Path] = field(default_factory=dict)
    train: Path | None = None
    shifts: Path | None = None
    data: Path | None = None
    reference: Path | None = None
    checkpoints: Sequence[CheckpointFolders] = ()
    rounds: Sequence[Mapping[str, Path]] = ()


# What a stage's `REPORT` may be; `rounds` and `checkpoints` are put together from several stages, and the reference has no section.
SECTIONS = tuple(
    one.name
    for one in fields(ReportInputs)
    if one.name not in ("checkpoints", "rounds", "reference")
    and (one.default is not MISSING or one.default_factory is not MISSING)
)
