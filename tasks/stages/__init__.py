"""The stages of a run. One file per stage: what it reads, writes and needs, where it comes in a run, and `run(job)`, which does it.

Here stands what such a file may say (`Stage`), the kind that `bnf.plugins.load` takes (`STAGES`), and the stages in the order of a run
(`in_order`, `evaluation_stages`).
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

from bnf.plugins import Kind, default, load, names
from tasks.job import Identity, Job, Settings

# What a role of `READS` is, where it is no output of a stage: a model's folder, a file or folder from outside, any output.
MODEL, FILE, ANY = "model", "file", "any"


class Stage(Protocol):
    """What a stage's file says of the stage.

    Attributes:
        ORDER: its place among the stages, for `--from` and in lists. A run executes its nodes in the order of the DAG.
        CONTENT: patterns of the files it writes whose bytes are its output; logs, times and metrics are none.
        READS: what it reads by role: the stage whose output it is, `model`, `file` or `any`. A role that ends in `*` stands for several.
        EVALUATES: whether `bnf evaluate` executes it for models that are there.
        REPORT: the section of the report that gets its folders, a field of `ReportInputs`; None: the report doesn't show it.
        LEAVES_OUT: patterns of files among its inputs that it doesn't read, and that are not brought from a shared store for it.
        ACCELERATOR: whether it needs the machine's accelerator. A stage with an `engine` in its settings needs it without saying so,
            unless the engine is an endpoint.
        RAY: whether it can share its work out over Ray. Where the recipe has an address, a node that does has it as `ray` in its settings,
            which no key has.
        MEMORY_REMEDY: what to do where memory doesn't suffice.
    """

    ORDER: int
    CONTENT: tuple[str, ...]
    READS: Mapping[str, str]
    EVALUATES: bool = False
    REPORT: str | None = None
    LEAVES_OUT: tuple[str, ...] = ()
    ACCELERATOR: bool = False
    RAY: bool = False
    MEMORY_REMEDY: str = "close other programs"

    def run(self, job: Job) -> None:
        """Does the work in `job.output`, going on from what an earlier try left there."""

    @default
    def disk_bytes(self, inputs: Mapping[str, Path], settings: Settings) -> int:
        """How much room its output needs, where that is much."""
        return 0

    @default
    def identity(self, output: Path) -> Identity:
        """What the output is, where the bytes of its content files don't say it."""
        return Identity()

    @default
    def outcome(self, output: Path) -> str | None:
        """A line about the output that everybody should see."""
        return None

    @default
    def not_done_again(self, settings: Settings, output: Path) -> str | None:
        """What the settings outside the key ask for and a cached output lacks, in words; None where it lacks nothing."""
        return None


STAGES = Kind("stage", "tasks.stages", Stage)


def in_order() -> list[str]:
    """The names of the stages in the order of a run."""
    return sorted(names(STAGES), key=lambda name: load(STAGES, name).ORDER)


def evaluation_stages() -> list[str]:
    """Those that evaluate a model, however it was made, in the order of a run."""
    return [name for name in in_order() if load(STAGES, name).EVALUATES]


def kind_of_input(stage: str, role: str) -> str:
    """What a stage reads under a role: the name of the stage whose output it is, `model`, `file` or `any`.

    Raises:
        ValueError: the stage's `READS` doesn't have the role.
    """
    reads = load(STAGES, stage).READS
    found = next((kind for pattern, kind in reads.items() if fnmatch(role, pattern)), None)
    if found is None:
        raise ValueError(f"READS must have every role that {stage} reads, got {role}; add it in tasks/stages/{stage}.py")
    return found
