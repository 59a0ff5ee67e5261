"""The scores of a sweep's runs, item by item: for each benchmark the items that all of them have, in one order."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.paired import has_samples, share_right
from evaluation.records import Record, read_json
from evaluation.report.compare import scores_by_content
from evaluation.report.inputs import MODELS
from evaluation.report.summary import label
from evaluation.report.swept import SweptRun
from evaluation.report.targets import is_target


@dataclass(frozen=True)
class Scored:
    """A benchmark's values of one run over the shared items.

    Attributes:
        changes: Aligned minus base, 1 for right and 0 for wrong; of several samples of an item the share of right ones.
        base: The base model's, alike.
        tokens, base_tokens: Lengths of the completions; None where one isn't known.
    """

    changes: Sequence[float]
    base: Sequence[float]
    tokens: Sequence[float] | None
    base_tokens: Sequence[float] | None


@dataclass(frozen=True)
class Setting:
    """Runs that differ in their seed alone, by seed, with their scores by benchmark.

    Attributes:
        targets: Benchmarks whose own prompts the policy was trained on. What changes on them is the gain, on others the tax.
    """

    name: str
    runs: Mapping[int, SweptRun]
    scores: Mapping[int, Mapping[str, Scored]]
    targets: frozenset[str]

    @property
    def first(self) -> SweptRun:
        return next(iter(self.runs.values()))

    @property
    def objective(self) -> str:
        return self.first.objective or "none"


@dataclass(frozen=True)
class SweptScores:
    """The evaluated settings of a sweep.

    Attributes:
        settings: In the order of the sweep.
        labels: The benchmarks that all runs have, and their names as they are shown: `gsm8k (sample)`.
        clusters: By benchmark, of each shared item; items of one cluster ask the same question.
        notes: What was left out.
        sampled: The benchmarks with several samples of an item, whose values are shares.
    """

    settings: Sequence[Setting]
    labels: Mapping[str, str]
    clusters: Mapping[str, Sequence[Hashable]]
    notes: Sequence[str]
    sampled: frozenset[str] = frozenset()


def read_scores(runs: Sequence[SweptRun]) -> SweptScores:
    """The scores of the runs that were evaluated and whose settings were chosen; without any, no settings.

    Raises:
        ValueError: where a score file is ill-formed or says nothing of its items' content.
    """
    evaluated = [run for run in runs if run.is_chosen and (run.scores or run.judges)]
    complete = [{name for name, models in run.scores.items() if set(MODELS) <= models.keys()} for run in evaluated]
    shared = [name for run in evaluated[:1] for name in run.scores if all(name in names for names in complete)]
    notes = [
        f"{run.run} has no scores of both models on {name}, which is left out."
        for run, names in zip(evaluated, complete, strict=True)
        for name in sorted(set().union(*complete) - names)
    ]
    known: dict[Path, dict[str, Record]] = {}
    labels: dict[str, str] = {}
    clusters: dict[str, Sequence[Hashable]] = {}
    scores: dict[str, dict[str, Scored]] = {run.run: {} for run in evaluated}
    for name in shared:
        folders = [run.scores[name][model] for run in evaluated for model in MODELS]
        for folder in folders:
            if folder not in known:
                known[folder] = scores_by_content(folder)
        first = known[folders[0]]
        items = [item for item in first if all(item in known[folder] for folder in folders)]
        most = max(len(known[folder]) for folder in folders)
        labels[name] = label(name, read_json(folders[0] / "summary.json"))
        if len(items) < most:
            lacking = [run.run for run in evaluated if any(len(known[run.scores[name][model]]) < most for model in MODELS)]
            which = f": {', '.join(lacking)} lacks some" if lacking else ""
            notes.append(f"{labels[name]}: everything is over the {len(items)} items that all runs have, of {most}{which}.")
        if not items:
            del labels[name]
            continue
        clusters[name] = [first[item].get("cluster", item) for item in items]
        for run in evaluated:
            base, aligned = ([known[run.scores[name][model]][item] for item in items] for model in MODELS)
            scores[run.run][name] = Scored(
                [share_right(after) - share_right(before) for before, after in zip(base, aligned, strict=True)],
                [share_right(before) for before in base],
                _tokens(aligned),
                _tokens(base),
            )
    notes += _of_base(labels, scores)
    by_name: dict[str, dict[int, SweptRun]] = {}
    for run in evaluated:
        of_seed = by_name.setdefault(run.name, {})
        assert run.seed not in of_seed, "runs of one name must differ in their seed"
        of_seed[run.seed] = run
    settings = [
        Setting(name, of_seed, {seed: scores[run.run] for seed, run in of_seed.items()}, _targets(of_seed.values(), labels))
        for name, of_seed in by_name.items()
    ]
    sampled = frozenset(
        name for name in labels if any(has_samples(known[run.scores[name][model]]) for run in evaluated for model in MODELS)
    )
    return SweptScores(settings, labels, clusters, notes, sampled)


def _of_base(labels: Mapping[str, str], scores: Mapping[str, Mapping[str, Scored]]) -> list[str]:
    """How much the base model has right: that is the most that a policy can lose, and where it is nothing, a tax of 0 says nothing."""
    said = []
    for name, shown in labels.items():
        counts = sorted({round(sum(of_run[name].base), 1) for of_run in scores.values()})
        number = f"{counts[0]:g}" if len(counts) == 1 else f"{counts[0]:g} to {counts[-1]:g}"
        said.append(f"{number} of {len(next(iter(scores.values()))[name].base)} on {shown}")
    return [f"The base model has right: {', '.join(said)}. More than that can't be lost."] if said else []


def _tokens(records: Sequence[Record]) -> list[float] | None:
    lengths = [record.get("num_completion_tokens") for record in records]
    known = [float(length) for length in lengths if length is not None]
    return known if len(known) == len(lengths) else None


def _targets(runs: Iterable[SweptRun], benchmarks: Iterable[str]) -> frozenset[str]:
    recipes = [read_json(run.folder / "summary.json")["recipe"] for run in runs]
    return frozenset(name for name in benchmarks if any(is_target(name, recipe) for recipe in recipes))
