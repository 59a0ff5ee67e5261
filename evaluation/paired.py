"""Two models' scores on the same items: what `report` and `compare` say of their difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.item_files import score_lines
from evaluation.records import Record
from evaluation.samples import SAMPLE, error_of_mean, interval_around, merged, p_of_mean
from evaluation.statistics import holm, paired_difference

# Differences below this many points are noise even where their interval says otherwise: the same weights, served on other
# hardware or in other batches, give other tokens on some items.
NOISE_POINTS = 1.0
ALPHA = 0.05


def read_scores(folder: Path) -> dict[str, Record]:
    """A score stage's records by item id, in the file's order, without the completions, which may be large.

    The samples of an item, where there are several, are one record (`evaluation.samples.merged`).

    Raises:
        ValueError: where an item, or a sample of one, has two records, a record lacks what a score stage writes, or there is none.
    """
    file = folder / "scores.jsonl"
    found: dict[str, dict[int | None, Record]] = {}
    for line, record in score_lines(file, "score it again"):
        samples, number = found.setdefault(record["id"], {}), record.get(SAMPLE)
        if number in samples or (samples and None in (number, *samples)):
            of = "each item once" if number is None else f"each {SAMPLE} of an item once"
            raise ValueError(f"{file} must hold {of}, got {record['id']!r} twice, again on line {line}; score it again")
        samples[number] = {key: value for key, value in record.items() if key != "completion"}
    return {id: samples[None] if None in samples else merged(list(samples.values())) for id, samples in found.items()}


def is_correct(record: Record) -> bool:
    """Whether an item is right; of several samples, whether more than half of them are."""
    return bool(record["outcome"] == "correct")


def share_right(record: Record) -> float:
    """The share of an item's samples that are right; of one completion 1 or 0."""
    return float(record["share"]) if "share" in record else float(is_correct(record))


def has_samples(scores: Mapping[str, Record]) -> bool:
    """Whether some item has several samples, so that values are shares and not right or wrong."""
    return any("share" in record for record in scores.values())


def compare_scores(first: Mapping[str, Record], second: Mapping[str, Record]) -> Record:
    """What changed from `first` to `second`, over the items both have.

    `delta` in points with its standard error and 95 % intervals (Tango's and bootstrap), clustered where items ask the same question;
    `delta_stderr_unpaired` is the standard error that different items would give. `mcnemar_p` is McNemar's exact p, and `flips` counts the
    items gained and lost. A number is None where it is undefined: without shared items, an interval from a single item, and a standard
    error where all items change alike, which proves nothing.

    Of several samples `delta` is of the items' shares of right ones, its intervals are over items, and in the place of McNemar's test,
    which is for right and wrong, `paired_p` is Student's p of the paired differences. `flips` are of `is_correct`.
    """
    shared = [id for id in first if id in second]
    if not shared:
        none = dict.fromkeys(("delta", "delta_stderr", "delta_stderr_unpaired", "delta_ci", "delta_ci_bootstrap", "mcnemar_p"))
        return {"n_paired": 0, "n_clusters": 0, **none, "flips": {"gained": 0, "lost": 0}}
    clusters = [first[id].get("cluster", id) for id in shared]
    difference = paired_difference(
        [share_right(first[id]) for id in shared], [share_right(second[id]) for id in shared], clusters
    )
    several = len(set(clusters)) > 1
    compared = {
        "n_paired": difference.n,
        "n_clusters": len(set(clusters)),
        "delta": difference.delta,
        "delta_stderr": difference.stderr or None if several else None,
        "delta_stderr_unpaired": difference.stderr_unpaired or None if several else None,
        "delta_ci": list(difference.ci) if several and difference.ci else None,
        "delta_ci_bootstrap": list(difference.ci_bootstrap) if several and difference.ci_bootstrap else None,
        "mcnemar_p": difference.mcnemar_p,
        "flips": {"gained": difference.num_gained, "lost": difference.num_lost},
    }
    if has_samples(first) or has_samples(second):
        gained = sum(is_correct(second[id]) and not is_correct(first[id]) for id in shared)
        lost = sum(is_correct(first[id]) and not is_correct(second[id]) for id in shared)
        # All shares may be 0 or 1: they are no less shares for that.
        changes = [share_right(second[id]) - share_right(first[id]) for id in shared]
        error, ci = error_of_mean(changes, clusters), interval_around(changes, clusters)
        compared |= {
            "delta_stderr": error or None,
            "delta_ci": list(ci) if ci else None,
            "mcnemar_p": None,
            "paired_p": p_of_mean(changes, clusters),
            "flips": {"gained": gained, "lost": lost},
        }
    return compared


def own_p(comparison: Record) -> float | None:
    """The p of a comparison's test, without correction."""
    p: float | None = comparison.get("paired_p", comparison.get("mcnemar_p"))
    return p


def holm_p(comparison: Record) -> float | None:
    """The p of a comparison's test after Holm's correction."""
    p: float | None = comparison.get("paired_p_holm", comparison.get("mcnemar_p_holm"))
    return p


def correct_and_judge(comparisons: Sequence[Record]) -> None:
    """Adds to each comparison of one report `mcnemar_p_holm`, corrected for all of them, and its conclusion, as `verdict`.

    Of several samples the former is None, and `paired_p_holm` is the corrected p.

    `gain` or `loss` where the interval excludes 0, the corrected p is below 0.05 and the difference is at least one point, else
    `noise`; None where nothing was compared.
    """
    corrected = iter(holm([p for comparison in comparisons if (p := own_p(comparison)) is not None]))
    for comparison in comparisons:
        p = None if own_p(comparison) is None else next(corrected)
        comparison["mcnemar_p_holm"] = None if "paired_p" in comparison else p
        if "paired_p" in comparison:
            comparison["paired_p_holm"] = p
        comparison["verdict"] = _conclusion(comparison)


def _conclusion(comparison: Record) -> str | None:
    delta, ci, p = comparison["delta"], comparison["delta_ci"], holm_p(comparison)
    if delta is None:
        return None
    if ci is None or p is None or ci[0] <= 0 <= ci[1] or p >= ALPHA or abs(delta) < NOISE_POINTS:
        return "noise"
    return "gain" if delta > 0 else "loss"
