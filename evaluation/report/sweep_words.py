"""A sweep's answer in words: where BNF loses, where it wins, and what keeps this from being known. A loss is told first.

Settings are compared with BNF (or, without it, with the sweep's first setting), which is called the reference here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from evaluation.crossed import CrossedMean
from evaluation.formats import difference, interval, number, p_value, signed
from evaluation.paired import ALPHA, NOISE_POINTS
from evaluation.report.answer import Answer, Point
from evaluation.report.sweep_results import Row, SweepResults, Tested
from evaluation.report.swept import SweepFacts

_MOST_NAMES = 3
# What settings are compared in that are evaluated: differences of answers, of which some flip by chance.
_ANSWERS = ("gain", "tax")


class Compared(NamedTuple):
    """A setting's difference from the reference, in a column of which more is better: `kind` is gain, tax or another's words, `unit` that
    of the difference.
    """

    title: str
    reference: str
    kind: str
    found: Tested
    unit: str = "points"
    digits: int = 1

    @property
    def shown(self) -> str:
        """`+4.1 [+1.0, +7.2]`."""
        of = self.found.of
        return f"{signed(of.mean, self.digits)} {interval(of.ci, self.digits, with_sign=True)}".rstrip()

    @property
    def words(self) -> str:
        """`dpo: +4.1 points of gain [+1.0, +7.2], p 0.012`."""
        return f"{self.title}: {self.shown} {self.unit} of {self.kind} against {self.reference}, p (Holm) {p_value(self.found.p_holm)}"

    @property
    def is_large(self) -> bool:
        """Whether it is more than answers flip by chance."""
        return abs(self.found.of.mean) >= NOISE_POINTS or self.kind not in _ANSWERS


def answer(results: SweepResults, facts: SweepFacts) -> Answer:
    """What the page says first."""
    compared = [
        Compared(row.title, row.against.title, kind, found)
        for row in results.rows
        if row.against is not None
        for kind, found in (("gain", row.against.gain), ("tax", row.against.tax))
        if found is not None
    ]
    return answer_of(compared, results, facts)


def answer_of(
    compared: Sequence[Compared],
    results: SweepResults,
    facts: SweepFacts,
    *,
    name: str | None = None,
    kinds: Sequence[str] = _ANSWERS,
    seeds: Mapping[str, int] | None = None,
) -> Answer:
    """What these comparisons with a reference say.

    Args:
        name: the reference's; left out: the one of the sweep.
        kinds: what settings were compared in, in words.
        seeds: how many seeds each setting has, where it isn't the evaluated ones that were compared.
    """
    if not results.rows and not compared:
        return Answer(_nothing(facts), (), _points(("Can I believe it?", _doubts(results, facts, seeds))))
    lost, won, open_ = ([one for one in compared if one.found.verdict == verdict] for verdict in ("gain", "loss", "noise"))
    name = name or reference_of(results)
    worse = _worse_than_base(results)
    return Answer(
        _sentence(name, lost, won, open_, worse, results, kinds),
        _verdicts(name, lost, won, open_),
        _points(
            (f"Where does {name} lose?", [*(f"{one.words}." for one in lost), *worse, *_behind(open_), *_below_base(results)]),
            (f"Where does {name} win?", [f"{one.words}." for one in won]),
            ("What do judges say?", _judged(results)),
            ("Can I believe it?", _doubts(results, facts, seeds)),
        ),
    )


def _judged(results: SweepResults) -> list[str]:
    """Of each judged benchmark the settings whose score differs from that which they are compared with by more than its interval."""
    said = []
    for one in results.judged:
        apart = [
            f"{row.title} {signed(found.mean)} {interval(found.ci, with_sign=True)} against {title}"
            for row in one.rows
            if row.against is not None
            for title, found in (row.against,)
            if found.ci is not None and not found.ci[0] <= 0 <= found.ci[1]
        ]
        scores = (
            f"{_names([f'{row.title} {number(row.score.mean)}' for row in one.rows])} ({one.metric.unit})" if one.rows else ""
        )
        if scores:
            untrusted = " Not all of it is to be trusted, see there." if any(row.doubts for row in one.rows) else ""
            which = f" {_names(apart)}, without correction." if apart else ""
            said.append(f"{one.label}, {one.metric.words} by {one.judge}: {scores}.{which}{untrusted}")
    return said


def reference_of(results: SweepResults) -> str:
    """What the settings are compared with: the title of one, or where several are, the objective of these."""
    rows = [row for row in results.rows if row.against is None]
    return rows[0].title if len(rows) == 1 else rows[0].setting.objective if rows else "the reference"


def notes(results: SweepResults) -> list[str]:
    """How the numbers are to be read."""
    few = min((len(row.setting.runs) for row in results.rows), default=0)
    found = [
        "Δ is aligned minus base, in points, paired by item. Gain is its mean over the targets (benchmarks whose own prompts were "
        "trained on), tax its mean over the others, where below 0 is a loss; each benchmark counts alike.",
        "Intervals are 95 %, over items and seeds. Items are crossed with seeds: an item that three trainings answered is still one "
        "item. An interval adds a part for items (Tango's, with an item's answers as a cluster) and a part for seeds (Student's, of the "
        "seeds' means).",
        "p is the α at which the interval ends at 0. Holm's correction is "
        + (f"over all comparisons between settings ({results.num_compared}), and " if results.num_compared else "")
        + "against the base model over each setting's benchmarks, as in its runs' reports. Noise: p after it is 0.05 or more, or the "
        "difference is below one point.",
    ]
    if few > 1:
        found.append(
            ("Differences between settings are paired by item and seed. " if results.num_compared else "")
            + "The two-way bootstrap beside a gain and a tax resamples items and "
            "seeds; with few seeds it is too narrow, and nothing follows from it here."
        )
    return [*found, *results.scores.notes]


def _sentence(
    name: str,
    lost: Sequence[Compared],
    won: Sequence[Compared],
    open_: Sequence[Compared],
    worse: Sequence[str],
    results: SweepResults,
    kinds: Sequence[str],
) -> str:
    ahead, behind = _left_open(open_, 1), _left_open(open_, -1)
    parts = []
    if lost:
        parts.append(f"{name} loses to {_list(lost)}")
    elif worse:
        parts.append(worse[0].rstrip("."))
    if ahead:
        parts.append(
            f"{'it' if parts else name} is behind {_list(ahead, with_p=True)}, though Holm's correction leaves this open"
        )
    if won:
        parts.append(f"{'it' if parts else name} beats {_list(won)}")
    if behind:
        parts.append(
            f"{'it' if parts else name} is ahead of {_list(behind, with_p=True)}, though Holm's correction leaves this open"
        )
    if not parts:
        if not open_:
            if len(results.rows) > 1:
                if not results.scores.labels and results.judged:
                    return "No benchmark that a rule scores was evaluated: there are judges' scores alone."
                return f"Nothing can be compared with {name}: the others have other targets, or no seed in common with it."
            row = results.rows[0]
            kinds_found = [(kind, found) for kind, found in (("gain", row.gain), ("tax", row.tax)) if found is not None]
            parts = [f"{difference(found.mean, found.ci)} points of {kind}" for kind, found in kinds_found]
            return (
                f"{row.title} alone: {' and '.join(parts)} against the base model."
                if parts
                else f"{row.title} alone, on {'what judges scored' if results.judged else 'no benchmark'}."
            )
        which = f"No setting can be told from {name} in {' or '.join(kinds)}"
        # Of several units the largest is that which is least like chance.
        units = {one.unit for one in open_}
        most = max(open_, key=lambda one: abs(one.found.of.mean) if len(units) == 1 else -(one.found.of.p or 1.0))
        if not most.found.of.mean:
            return f"{which}: every difference is 0."
        said = "the largest difference is" if len(units) == 1 else "the least like chance is"
        return f"{which}; {said} {most.title}'s {most.shown} {most.unit} of {most.kind}."
    others = sorted({one.title for one in open_} - {one.title for one in (*lost, *ahead, *won, *behind)})
    if others:
        parts.append(f"{_names(others)} can't be told from it")
    return "; ".join(parts) + "."


def _left_open(open_: Sequence[Compared], sign: int) -> list[Compared]:
    """Differences of that sign whose own interval excludes 0, and which the correction for the number of comparisons calls noise."""
    return [
        one
        for one in open_
        if one.found.of.p is not None and one.found.of.p < ALPHA and sign * one.found.of.mean > 0 and one.is_large
    ]


def _list(compared: Sequence[Compared], *, with_p: bool = False) -> str:
    return _names(
        [
            f"{one.title} ({one.shown} {one.unit} of {one.kind}{f', p {p_value(one.found.p_holm)}' if with_p else ''})"
            for one in compared
        ]
    )


def _names(names: Sequence[str]) -> str:
    shown = list(names[:_MOST_NAMES])
    if len(names) > _MOST_NAMES:
        shown.append(f"{len(names) - _MOST_NAMES} more")
    return ", ".join(shown[:-1]) + " and " + shown[-1] if len(shown) > 1 else shown[0]


def _verdicts(name: str, lost: Sequence[Compared], won: Sequence[Compared], open_: Sequence[Compared]) -> list[tuple[str, str]]:
    if not (lost or won or open_):
        return []
    return [
        ("loss" if lost else "none", f"{name} loses {len(lost)}"),
        ("gain" if won else "none", f"wins {len(won)}"),
        ("noise", f"{len(open_)} within noise"),
    ]


def _worse_than_base(results: SweepResults) -> list[str]:
    """Losses of the settings that others are compared with."""
    return [
        f"{row.title} loses {number(-found.of.mean)} points {_ci(found.of)} on {results.scores.labels[name]} against the base model."
        for row, name, found in _references(results)
        if found.verdict == "loss"
    ]


def _below_base(results: SweepResults) -> list[str]:
    """Where they are below the base model, within noise."""
    below = [
        f"{row.title} on {results.scores.labels[name]} ({difference(found.of.mean, found.of.ci)})"
        for row, name, found in _references(results)
        if found.verdict == "noise" and found.of.mean < 0
    ]
    return [f"Below the base model within noise: {_names(below)}."] if below else []


def _references(results: SweepResults) -> list[tuple[Row, str, Tested]]:
    return [(row, name, found) for row in results.rows if row.against is None for name, found in row.by_benchmark.items()]


def _behind(open_: Sequence[Compared]) -> list[str]:
    """Who is ahead of the reference, within noise; the furthest first."""
    ahead = sorted((one for one in open_ if one.found.of.mean > 0), key=lambda one: -one.found.of.mean)
    if not ahead:
        return []
    shown = _names(
        [f"{one.title} ({one.shown}{'' if one.unit == 'points' else f' {one.unit}'} of {one.kind})" for one in ahead]
    )
    return [f"Ahead of it within noise: {shown}."]


def _ci(found: CrossedMean) -> str:
    return difference(found.mean, found.ci).partition(" ")[2]


def _points(*found: tuple[str, list[str]]) -> list[Point]:
    return [Point(question, sentences) for question, sentences in found if sentences]


def _nothing(facts: SweepFacts) -> str:
    return f"No run of {facts.name} was evaluated: there is nothing to compare."


def _doubts(results: SweepResults, facts: SweepFacts, counts: Mapping[str, int] | None) -> list[str]:
    rows, found = results.rows, []
    over = "items" if counts is None else "the seeds"
    counts = {row.title: len(row.setting.runs) for row in rows} if counts is None else counts
    seeds = sorted(set(counts.values()))
    if seeds == [1]:
        covers = "intervals are over items alone" if over == "items" else "there are no intervals"
        found.append(f"Every setting has one seed: {covers}, and another seed may train to another place.")
    elif seeds:
        fewest = seeds[0]
        shown = f"{fewest}" if len(seeds) == 1 else f"{fewest} to {seeds[-1]}"
        both = "items and seeds" if over == "items" else over
        found.append(f"{shown} seeds a setting; intervals are over {both}.{_few(fewest, results.num_compared)}")
    if len(seeds) > 1:
        less = ", ".join(f"{title} {number}" for title, number in counts.items())
        found.append(f"Settings have different numbers of seeds ({less}); differences are over the seeds that both have.")
    tuned = {row.num_settings for row in rows}
    if len(tuned) > 1:
        shown = ", ".join(f"{row.title} {row.num_settings}" for row in rows)
        found.append(f"They were not tuned over equally many settings: {shown}.")
    if facts.failed:
        count, collapsed = len(facts.failed), sum(one.is_collapsed for one in facts.failed)
        how = f" ({collapsed} collapsed)" if collapsed else ""
        found.append(
            f"{count} run{'s have' if count > 1 else ' has'} no result{how} and count{'' if count > 1 else 's'} nowhere: a setting whose "
            "trainings fail looks better than it is."
        )
    if rows and not any(row.setting.targets for row in rows):
        found.append("No benchmark is a target of the training, so that all changes stand under tax.")
    samples = [name for name in results.scores.labels.values() if name.endswith("(sample)")]
    if samples:
        found.append(
            f"{_names(samples)}: items that this project generated in the benchmark's format; not comparable with published figures."
        )
    return found


def _few(num_seeds: int, num_compared: int) -> str:
    """What Student's quantile does to small numbers of seeds."""
    if num_seeds < 2 or num_seeds >= 10:
        return ""
    from scipy.stats import t

    factor = float(t.isf(0.025, num_seeds - 1))
    corrected = float(t.isf(0.025 / max(num_compared, 1), num_seeds - 1))
    most = f", and {number(corrected)} for the first of {num_compared} comparisons" if num_compared > 1 else ""
    return f" So few seeds say little of their own spread: its standard error counts {number(factor)} times{most}. More seeds say more."
