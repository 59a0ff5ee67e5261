"""Intervals and paired tests for benchmark results. Pure functions over per-item values, in percent and percentage points.

Every interval here covers the choice of items alone: one training run, one seed. Values are per item, for instance 1.0 for right and
0.0 for wrong; items of one cluster (a question they share) are not independent. Clustered errors: https://arxiv.org/abs/2411.00640
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

Z_95 = 1.959963984540054
Interval = tuple[float, float]


@dataclass(frozen=True)
class PairedDifference:
    """Aligned minus base over the same items, in percentage points."""

    n: int
    delta: float
    stderr: float  # clustered, where clusters were given
    stderr_unpaired: float  # as if the two had been measured on different items
    ci: Interval  # normal, 95 %
    ci_bootstrap: Interval  # percentiles of resampled items or clusters, 95 %
    num_gained: int  # wrong in the base and right in the aligned model
    num_lost: int  # right in the base and wrong in the aligned model
    mcnemar_p: float


def percent(count: float, of: int) -> float | None:
    """The share in percent, unrounded; None of nothing.

    In ZeroEval's order of operations: 439 of 800 shows as 54.87 there, and `100 * count / of` as 54.88.
    """
    return count / of * 100 if of else None


def wilson_interval(num_right: int, n: int) -> Interval:
    """Wilson's 95 % interval of a share, in percent; sound for small n and for shares near 0 and 100.

    Raises:
        ValueError: where n is not positive or num_right is outside 0…n.
    """
    if n <= 0 or not 0 <= num_right <= n:
        raise ValueError(
            f"num_right must be between 0 and a positive n, got {num_right} of {n}; pass counts of one set of items"
        )
    share, z2 = num_right / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At the ends the interval reaches them exactly; rounding would leave 1e-16 between.
    return 0.0 if num_right == 0 else 100 * (centre - half), 100.0 if num_right == n else 100 * (centre + half)


def standard_error(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> float:
    """Of the mean, in percentage points: sample standard deviation over √n, as lm-eval gives it, or clustered; NaN where it is undefined.

    With one item per cluster both are the same.
    """
    n = len(values)
    mean = math.fsum(values) / n if n else math.nan
    sums: dict[Hashable, float] = {}
    for cluster, value in zip(range(n) if clusters is None else clusters, values, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value - mean
    if len(sums) < 2:
        return math.nan
    correction = len(sums) / (len(sums) - 1)
    return 100 * math.sqrt(correction * math.fsum(total * total for total in sums.values())) / n


def normal_interval(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Interval:
    """The mean ± 1.96 standard errors, in percent."""
    mean, half = 100 * math.fsum(values) / len(values), Z_95 * standard_error(values, clusters)
    return mean - half, mean + half


def bootstrap_interval(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None, *, seed: int = 0, num_resamples: int = 10_000
) -> Interval:
    """The 2.5 and 97.5 percentiles of the mean over resampled items, or over resampled clusters, in percent."""
    import numpy as np

    members: dict[Hashable, list[float]] = {}
    for cluster, value in zip(range(len(values)) if clusters is None else clusters, values, strict=True):
        members.setdefault(cluster, []).append(value)
    sums = np.array([math.fsum(group) for group in members.values()])  # (C,)
    sizes = np.array([len(group) for group in members.values()])  # (C,)
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, num_resamples, 500):  # in parts: the whole table of draws would be large
        drawn = rng.integers(len(sums), size=(min(500, num_resamples - start), len(sums)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return 100 * float(low), 100 * float(high)


def mcnemar_exact(num_gained: int, num_lost: int) -> float:
    """The two-sided p of flips at least as uneven as these, were either direction as likely; 1 where nothing flipped."""
    from scipy.stats import binomtest

    flips = num_gained + num_lost
    return float(binomtest(num_gained, flips, 0.5).pvalue) if flips else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for testing all of them (Holm, step-down), in the order given: below α is significant at α."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def paired_difference(
    base: Sequence[float],
    aligned: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    num_resamples: int = 10_000,
) -> PairedDifference:
    """Compares two models item by item; `base[i]` and `aligned[i]` are the same item.

    McNemar's test and the flips count items that are 1 in one vector and not in the other; they take no account of clusters.

    Raises:
        ValueError: where the vectors are empty or differ in length.
    """
    lengths = {len(base), len(aligned), len(base if clusters is None else clusters)}
    if len(lengths) != 1 or not base:
        raise ValueError(
            f"base, aligned and clusters must have one value per item, got lengths {sorted(lengths)}; pair the items first"
        )
    differences = [after - before for before, after in zip(base, aligned, strict=True)]
    num_gained = sum(before != 1 and after == 1 for before, after in zip(base, aligned, strict=True))
    num_lost = sum(before == 1 and after != 1 for before, after in zip(base, aligned, strict=True))
    return PairedDifference(
        n=len(base),
        delta=100 * math.fsum(differences) / len(base),
        stderr=standard_error(differences, clusters),
        stderr_unpaired=math.hypot(standard_error(base, clusters), standard_error(aligned, clusters)),
        ci=normal_interval(differences, clusters),
        ci_bootstrap=bootstrap_interval(differences, clusters, seed=seed, num_resamples=num_resamples),
        num_gained=num_gained,
        num_lost=num_lost,
        mcnemar_p=mcnemar_exact(num_gained, num_lost),
    )
