"""Two models' scores on the same items: what `report` and `compare` say of their difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.records import Record, read_records
from evaluation.statistics import holm, paired_difference

# Differences below this many points are noise even where their interval says otherwise: the same weights, served on other
# hardware or in other batches, give other tokens on some items.
NOISE_POINTS = 1.0
ALPHA = 0.05


def read_scores(folder: Path) -> dict[str, Record]:
    """A score stage's records by item id, in the file's order, without the completions, which may be large.

    Raises:
        ValueError: where an item has two records.
    """
    scores: dict[str, Record] = {}
    for record in read_records(folder / "scores.jsonl"):
        if record["id"] in scores:
            raise ValueError(f"{folder / 'scores.jsonl'} must hold each item once, got {record['id']!r} twice; score it again")
        scores[record["id"]] = {key: value for key, value in record.items() if key != "completion"}
    return scores


def is_correct(record: Record) -> bool:
    return bool(record["outcome"] == "correct")


def compare_scores(first: Mapping[str, Record], second: Mapping[str, Record]) -> Record:
    """What changed from `first` to `second`, over the items both have.

    `delta` in points with its standard error and 95 % intervals (Tango's and bootstrap), clustered where items ask the same question;
    `delta_stderr_unpaired` is the standard error that different items would give. `mcnemar_p` is McNemar's exact p, and `flips` counts the
    items gained and lost. A number is None where it is undefined: without shared items, an interval from a single item, and a standard
    error where all items change alike, which proves nothing.
    """
    shared = [id for id in first if id in second]
    if not shared:
        none = dict.fromkeys(("delta", "delta_stderr", "delta_stderr_unpaired", "delta_ci", "delta_ci_bootstrap", "mcnemar_p"))
        return {"n_paired": 0, "n_clusters": 0, **none, "flips": {"gained": 0, "lost": 0}}
    clusters = [first[id].get("cluster", id) for id in shared]
    difference = paired_difference(
        [float(is_correct(first[id])) for id in shared], [float(is_correct(second[id])) for id in shared], clusters
    )
    several = len(set(clusters)) > 1
    return {
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


def correct_and_judge(comparisons: Sequence[Record]) -> None:
    """Adds to each comparison of one report `mcnemar_p_holm`, corrected for all of them, and its conclusion, as `verdict`.

    `gain` or `loss` where the interval excludes 0, the corrected p is below 0.05 and the difference is at least one point, else
    `noise`; None where nothing was compared.
    """
    tested = [comparison for comparison in comparisons if comparison["mcnemar_p"] is not None]
    corrected = iter(holm([comparison["mcnemar_p"] for comparison in tested]))
    for comparison in comparisons:
        comparison["mcnemar_p_holm"] = None if comparison["mcnemar_p"] is None else next(corrected)
        comparison["verdict"] = _conclusion(comparison)


def _conclusion(comparison: Record) -> str | None:
    delta, ci, p = comparison["delta"], comparison["delta_ci"], comparison["mcnemar_p_holm"]
    if delta is None:
        return None
    if ci is None or ci[0] <= 0 <= ci[1] or p >= ALPHA or abs(delta) < NOISE_POINTS:
        return "noise"
    return "gain" if delta > 0 else "loss"
