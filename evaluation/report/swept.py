"""What the comparison of a sweep is made from: its runs with their results, and how settings were chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evaluation.records import Record
from evaluation.report.inputs import ByModel

# What `evaluation.report.sweeps.write` leaves in a sweep's folder, beside its tables in other formats.
RESULTS, PAGE = "results.csv", "report.html"


# The axis of named variants.
VARIANT = "variant"


@dataclass(frozen=True)
class SweptRun:
    """One run of a sweep: a point of its axes, and what came out of it.

    Attributes:
        run: its id in the home.
        name: the axes' values in words without the seed, such as `dpo lr1e-5`; runs with one name differ in their seed alone.
        settings: recipe key → value, of every axis; `seed` among them only where it is an axis.
        objective: that of its training; None where nothing is trained.
        seed: that of its recipe.
        folder: the run's own folder, with `recipe.yaml`, and of an evaluated run `summary.json` and `report.html`.
        scores: folders of scores by benchmark and model (`base`, `aligned`); empty where the run was trained only, to be chosen from.
        judges: folders of judgments by benchmark; by another protocol or judge than the first it is called `benchmark/variant`.
        train: the training's folder, with `train_summary.json` and `metrics.jsonl`.
        shifts: what the training did to the likelihood of its data: the folder of the stage `analyze`; None where it wasn't run.
        reference: the reference's log-probabilities of the training's data: the folder of the stage `reference`.
        dev: figures of its dev set by name (`eval_loss`, `eval_accuracy`), of the policy that the run gives; empty without a dev set.
        num_settings: how many settings this run's objective was tuned over; 1 where nothing was chosen.
        is_chosen: whether its settings were chosen on dev. True for all runs of a sweep without `select`.
        of_last_round: of a run of several rounds the figures that are of its last round alone, by their names in a study's columns.
    """

    run: str
    name: str
    settings: Mapping[str, object]
    objective: str | None
    seed: int
    folder: Path
    scores: ByModel = field(default_factory=dict)
    judges: Mapping[str, Path] = field(default_factory=dict)
    train: Path | None = None
    shifts: Path | None = None
    reference: Path | None = None
    dev: Mapping[str, float] = field(default_factory=dict)
    num_settings: int = 1
    is_chosen: bool = True
    of_last_round: frozenset[str] = frozenset()


@dataclass(frozen=True)
class FailedRun:
    """A run of a sweep that has no result: what it is as a `SweptRun` says it, and the error's message. `run` is None where it never
    began. `is_collapsed`: its training collapsed, by the rules of `bnf.training.collapse`. What a collapse is worth is for the page to
    say; any other failure says nothing of the settings. `is_cancelled`: somebody ended it.
    """

    name: str
    settings: Mapping[str, object]
    why: str
    run: str | None = None
    objective: str | None = None
    seed: int = 0
    num_settings: int = 1
    is_chosen: bool = True
    is_collapsed: bool = False
    is_cancelled: bool = False


@dataclass(frozen=True)
class Candidate:
    """Settings that could be chosen, with the dev value of each seed and their mean; `settings` are of the keys of `over`."""

    settings: Mapping[str, object]
    by_seed: Mapping[int, float]
    mean: float


@dataclass(frozen=True)
class Choice:
    """What was chosen for one combination of the other axes, such as one objective: `candidates` has the best first."""

    name: str
    settings: Mapping[str, object]
    candidates: Sequence[Candidate]

    @classmethod
    def from_json(cls, value: Record) -> Choice:
        """As it was read from JSON, where seeds are text."""
        candidates = [
            Candidate(one["settings"], {int(seed): number for seed, number in one["by_seed"].items()}, one["mean"])
            for one in value["candidates"]
        ]
        return cls(value["name"], value["settings"], candidates)


@dataclass(frozen=True)
class SweepFacts:
    """The sweep around its runs.

    Attributes:
        name: the sweep's.
        command: what runs it again, or goes on with it.
        axes: recipe key → values in the order of the sweep's file; of named variants `variant` → their names.
        by: the dev figure that settings were chosen by; None without `select`.
        over: the keys that were chosen over.
        choices: one for each combination of the other axes but the seed.
        failed: the runs without a result.
        variants: of named variants the recipe keys that each sets.
    """

    name: str
    command: str
    axes: Mapping[str, Sequence[object]]
    by: str | None = None
    over: Sequence[str] = ()
    choices: Sequence[Choice] = ()
    failed: Sequence[FailedRun] = ()
    variants: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
