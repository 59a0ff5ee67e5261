"""What a sweep found: for each setting gain, tax, dev figure, KL and length over items and seeds, and its difference from BNF."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from evaluation.crossed import Block, CrossedMean, crossed_mean, seeds_interval
from evaluation.paired import ALPHA, NOISE_POINTS
from evaluation.records import read_json
from evaluation.report.swept import VARIANT, SweepFacts, SweptRun
from evaluation.report.swept_judges import Judged, judged_results
from evaluation.report.swept_scores import Setting, SweptScores, read_scores
from evaluation.statistics import Interval, holm

REFERENCE = "bnf"
# Keys in which the settings that are compared may differ, beside those that were chosen over.
_OBJECTIVE_KEYS = (VARIANT, "seed", "train.objective", "train.objective_options", "train.label_weighting")

# The least and the most that a training's figure can be. An estimate of the KL may lie below 0.
LIMITS: Mapping[str, tuple[float, float]] = {
    **{"eval_accuracy": (0.0, 1.0), "gini": (0.0, 1.0)},
    **{"grad_norm": (0.0, math.inf), "grad_norm_max": (0.0, math.inf), "loss_std": (0.0, math.inf)},
}


@dataclass(frozen=True)
class Tested:
    """A difference in points, with its p corrected for its table, and what follows: `gain`, `loss` or `noise`."""

    of: CrossedMean
    p_holm: float | None
    verdict: str


@dataclass(frozen=True)
class OfSeeds:
    """A figure that a training has once: its mean over seeds and Student's interval of it; None of one seed."""

    mean: float
    ci: Interval | None
    num_seeds: int


@dataclass(frozen=True)
class Against:
    """A setting's gain and tax less those of another, whose title it is, in points, over the seeds that both have."""

    title: str
    seeds: Sequence[int]
    gain: Tested | None
    tax: Tested | None


@dataclass(frozen=True)
class Row:
    """A setting in the headline table.

    Attributes:
        setting: The runs and their scores.
        title: The objective, or where several settings have it or variants have names, all settings in words.
        gain, tax: Points on targets, and on the other benchmarks; each benchmark counts alike. None where there are none.
        by_benchmark: Points against the base model; Holm's correction is over the setting's benchmarks, as in its runs' reports.
        dev: The figure that settings are chosen by.
        kl: To the reference, in nats, of samples of dev prompts.
        length, base_length: Mean tokens of a completion, over all benchmarks; None where some aren't known.
        against: None of the setting that others are compared with.
    """

    setting: Setting
    title: str
    gain: CrossedMean | None
    tax: CrossedMean | None
    by_benchmark: Mapping[str, Tested]
    dev: OfSeeds | None
    kl: OfSeeds | None
    length: CrossedMean | None
    base_length: float | None
    against: Against | None

    @property
    def num_settings(self) -> int:
        return self.setting.first.num_settings


@dataclass(frozen=True)
class SweepResults:
    """Everything that the page says, before it is put into words.

    Attributes:
        rows: One for each setting that was evaluated.
        dev_figure: Its name: `eval_accuracy` or `eval_loss`; None where no training has it.
        num_compared: Comparisons between settings, the family that Holm's correction is over.
        judged: What judges say, with intervals and without tests, as in the runs' reports.
    """

    scores: SweptScores
    rows: Sequence[Row]
    dev_figure: str | None
    num_compared: int
    judged: Sequence[Judged] = ()


def find_results(runs: Sequence[SweptRun], facts: SweepFacts) -> SweepResults:
    """The results of a sweep's runs.

    Raises:
        ValueError: where a file of a run is ill-formed.
    """
    scores = read_scores(runs)
    figure = facts.by or next((name for name in ("eval_accuracy", "eval_loss") if any(name in run.dev for run in runs)), None)
    opponents = {setting.name: _opponent(setting, scores.settings, facts) for setting in scores.settings}
    pairs = [(setting, other) for setting in scores.settings if (other := opponents[setting.name]) is not None]
    differences = [difference(setting, other, scores, kind) for setting, other in pairs for kind in ("gain", "tax")]
    tested = iter(_tested(differences))
    against = {
        setting.name: Against(_title(other, scores, facts), _common(setting, other), next(tested), next(tested))
        for setting, other in pairs
    }
    rows = [
        _row(setting, _title(setting, scores, facts), scores, figure, against.get(setting.name)) for setting in scores.settings
    ]
    num_compared = sum(found is not None and found.p is not None for found in differences)
    judged = judged_results(scores.settings, opponents, lambda setting: _title(setting, scores, facts))
    return SweepResults(scores, rows, figure, num_compared, judged)


def _row(
    setting: Setting,
    title: str,
    scores: SweptScores,
    figure: str | None,
    against: Against | None,
) -> Row:
    names, runs = list(scores.labels), list(setting.runs.values())
    to_base = _tested([_mean(scores, [name], _changes(setting, setting.runs)) for name in names])
    length, base_length = _lengths(setting, scores)
    return Row(
        setting=setting,
        title=title,
        gain=_mean(scores, _of_kind(setting, names, "gain"), _changes(setting, setting.runs)),
        tax=_mean(scores, _of_kind(setting, names, "tax"), _changes(setting, setting.runs)),
        by_benchmark={name: found for name, found in zip(names, to_base, strict=True) if found is not None},
        dev=_of_seeds([run.dev.get(figure) for run in runs], figure) if figure else None,
        kl=_of_seeds([_kl(run) for run in runs]),
        length=length,
        base_length=base_length,
        against=against,
    )


def _lengths(setting: Setting, scores: SweptScores) -> tuple[CrossedMean | None, float | None]:
    """Tokens of the policies' completions and of the base model's; None where some aren't known."""
    of_seeds = [setting.scores[seed] for seed in setting.runs]
    after = {name: [found for one in of_seeds if (found := one[name].tokens) is not None] for name in scores.labels}
    before = {name: [found for one in of_seeds if (found := one[name].base_tokens) is not None] for name in scores.labels}
    if not after or any(len(found) < len(of_seeds) for found in (*after.values(), *before.values())):
        return None, None
    base = [sum(values) / len(values) for found in before.values() for values in found]
    return _mean(scores, list(after), after.__getitem__, factor=1.0, right_or_wrong=False), sum(base) / len(base)


def _title(setting: Setting, scores: SweptScores, facts: SweepFacts) -> str:
    """A variant is called as the sweep's file calls it."""
    same = [other for other in scores.settings if other.objective == setting.objective]
    return setting.objective if len(same) == 1 and VARIANT not in facts.axes else setting.name


def _opponent(setting: Setting, settings: Sequence[Setting], facts: SweepFacts) -> Setting | None:
    """Whom a setting is compared with; None for those that others are compared with.

    It is BNF with the same other settings, or else the first BNF. Where no setting is BNF, or all are, it is the first.
    """
    references = [one for one in settings if one.objective == REFERENCE]
    if references and len(references) < len(settings):
        if setting.objective == REFERENCE:
            return None
        own = other_settings(setting.first.settings, facts)
        alike = [one for one in references if other_settings(one.first.settings, facts) == own]
        return (alike or references)[0]
    return settings[0] if setting is not settings[0] else None


def other_settings(of: Mapping[str, object], facts: SweepFacts) -> dict[str, str]:
    """What is the same of settings that differ in their objective and in what was chosen for it; of a variant, what it sets."""
    settings = {**facts.variants.get(str(of.get("variant")), {}), **of}
    free = {*_OBJECTIVE_KEYS, *facts.over}
    return {
        key: repr(value)
        for key, value in settings.items()
        if key not in free and not key.startswith("train.objective_options.")
    }


def _common(one: Setting, other: Setting) -> list[int]:
    return [seed for seed in one.runs if seed in other.runs]


def _of_kind(setting: Setting, names: Sequence[str], kind: str) -> list[str]:
    return [name for name in names if (name in setting.targets) == (kind == "gain")]


# A share in points.
_POINTS = 100.0
# The values of a benchmark, by seed and item.
_Values = Callable[[str], Sequence[Sequence[float]]]


def _changes(setting: Setting, seeds: Iterable[int]) -> _Values:
    return lambda name: [setting.scores[seed][name].changes for seed in seeds]


def difference(setting: Setting, other: Setting, scores: SweptScores, kind: str) -> CrossedMean | None:
    """The setting's `gain`, `tax` or `tokens` less the other's. None where the two have other targets or no seed in common, or some lengths
    aren't known.
    """
    seeds = _common(setting, other)
    if setting.targets != other.targets or not seeds:
        return None
    if kind == "tokens":
        lengths = [{name: _tokens(one, seeds, name) for name in scores.labels} for one in (setting, other)]
        if any(found is None for of_one in lengths for found in of_one.values()):
            return None
        return _mean(
            scores,
            list(scores.labels),
            lambda name: _less(lengths[0][name] or (), lengths[1][name] or ()),
            factor=1.0,
            right_or_wrong=False,
        )
    ours, theirs = _changes(setting, seeds), _changes(other, seeds)

    def values(name: str) -> list[list[float]]:
        return _less(ours(name), theirs(name))

    names = _of_kind(setting, list(scores.labels), kind)
    # Of one base model the difference of two changes is that of two answers. Of two it may be up to 2.
    same_base = all(setting.scores[seed][name].base == other.scores[seed][name].base for seed in seeds for name in names)
    return _mean(scores, names, values, right_or_wrong=same_base)


def _less(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> list[list[float]]:
    """By seed and item."""
    return [[a - b for a, b in zip(mine, its, strict=True)] for mine, its in zip(ours, theirs, strict=True)]


def _tokens(setting: Setting, seeds: Sequence[int], name: str) -> list[Sequence[float]] | None:
    found = [tokens for seed in seeds if (tokens := setting.scores[seed][name].tokens) is not None]
    return found if len(found) == len(seeds) else None


def _mean(
    scores: SweptScores, names: Sequence[str], values: _Values, factor: float = _POINTS, *, right_or_wrong: bool = True
) -> CrossedMean | None:
    if not names:
        return None
    most = 1.0 if right_or_wrong else 2.0
    blocks = [
        Block(
            values(name),
            scores.clusters[name],
            right_or_wrong=right_or_wrong and name not in scores.sampled,
            scale=(-most, most) if factor == _POINTS else None,
        )
        for name in names
    ]
    return crossed_mean(blocks).times(factor)


def _tested(means: Sequence[CrossedMean | None]) -> list[Tested | None]:
    """With Holm's correction over all that have a p."""
    corrected = iter(holm([found.p for found in means if found is not None and found.p is not None]))
    tested: list[Tested | None] = []
    for found in means:
        if found is None:
            tested.append(None)
            continue
        p = None if found.p is None else next(corrected)
        tested.append(Tested(found, p, _verdict(found, p)))
    return tested


def _verdict(found: CrossedMean, p: float | None) -> str:
    if p is None or p >= ALPHA or abs(found.mean) < NOISE_POINTS:
        return "noise"
    return "gain" if found.mean > 0 else "loss"


def _of_seeds(values: Sequence[float | None], figure: str = "") -> OfSeeds | None:
    """None where a seed has no such figure: the mean would be of other seeds than the row's."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return OfSeeds(sum(known) / len(known), seeds_interval(known, *LIMITS.get(figure, ())), len(known))


def _kl(run: SweptRun) -> float | None:
    if run.train is None:
        return None
    dev = read_json(run.train / "train_summary.json").get("dev") or {}
    value = dev.get("after", {}).get("eval_samples/kl")
    return None if value is None else float(value)
