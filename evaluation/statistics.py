"""Intervals and paired tests for benchmark results. Pure functions over per-item values, in percent and percentage points.

Every interval here covers the choice of items alone: one training run, one seed. Values are per item, for instance 1.0 for right and
0.0 for wrong; items of one cluster (a question they share) are not independent. Clustered errors: https://arxiv.org/abs/2411.00640
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

Z_95 = 1.959963984540054
_NUM_RESAMPLES = 10_000
Interval = tuple[float, float]


@dataclass(frozen=True)
class PairedDifference:
    """Aligned minus base over the same items, in percentage points."""

    n: int
    delta: float
    stderr: float  # clustered, where clusters were given
    stderr_unpaired: float  # as if the two had been measured on different items
    ci: Interval | None  # 95 %: Tango's of right and wrong, else normal; None where the values say nothing of their spread
    ci_bootstrap: Interval | None  # percentiles of resampled items or clusters, 95 %; None as above
    num_gained: int  # wrong in the base and right in the aligned model
    num_lost: int  # right in the base and wrong in the aligned model
    mcnemar_p: float


def percent(count: float, of: float) -> float | None:
    """The share in percent, unrounded; None where the whole is 0.

    In ZeroEval's order of operations: 439 of 800 shows as 54.87 there, and `100 * count / of` as 54.88.
    """
    return count / of * 100 if of else None


def wilson_interval(num_right: float, n: float) -> Interval:
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


def normal_interval(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Interval | None:
    """The mean ± 1.96 standard errors, in percent; None where the standard error is 0 or undefined, which proves nothing."""
    stderr = standard_error(values, clusters)
    if not stderr > 0:
        return None
    mean, half = 100 * math.fsum(values) / len(values), Z_95 * stderr
    return mean - half, mean + half


def unanimous_interval(value: float, n: int, lowest: float, highest: float) -> Interval:
    """The 95 % interval of a mean where all `n` items, or clusters of them, have one value on a scale, so that resampling gives no width.

    Of all there are, a share of at most z² / (n + z²) can be otherwise (Wilson's bound for 0 of n), by as much as the scale allows.
    For right and wrong this is Wilson's interval, for a paired difference Tango's.
    """
    share = Z_95**2 / (n + Z_95**2)
    return value - share * (value - lowest), value + share * (highest - value)


def bootstrap_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    scale: Interval | None = None,
    seed: int = 0,
) -> Interval | None:
    """The 2.5 and 97.5 percentiles of the mean over resampled items, or over resampled clusters, in percent.

    Where all clusters have one mean, it is `unanimous_interval` on `scale`, the least and the greatest value there can be. None of a
    single cluster, and of one mean without a scale.
    """
    import numpy as np

    members: dict[Hashable, list[float]] = {}
    for cluster, value in zip(range(len(values)) if clusters is None else clusters, values, strict=True):
        members.setdefault(cluster, []).append(value)
    sums = np.array([math.fsum(group) for group in members.values()])  # (C,)
    sizes = np.array([len(group) for group in members.values()])  # (C,)
    if len(sums) < 2:
        return None
    if np.allclose(sums / sizes, sums[0] / sizes[0], rtol=0, atol=1e-12):
        around = None if scale is None else unanimous_interval(float(sums[0] / sizes[0]), len(sums), *scale)
        return None if around is None else (100 * around[0], 100 * around[1])
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, _NUM_RESAMPLES, 500):  # in parts: the whole table of draws would be large
        drawn = rng.integers(len(sums), size=(min(500, _NUM_RESAMPLES - start), len(sums)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return 100 * float(low), 100 * float(high)


def tango_interval(num_gained: float, num_lost: float, n: int, *, z: float = Z_95) -> Interval:
    """Tango's score interval of the difference of two paired proportions, in percentage points: it has a width without flips too.

    The interval holds every δ that the score test does not reject: with g gained, l lost, and q(δ) the likeliest share of losses were
    the difference δ, the roots of (g − l − nδ)² = z² · n · (2q(δ) + δ(1 − δ)).
    Tango 1998, Statistics in Medicine 17:891, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B

    Args:
        z: The normal quantile; of 95 % by default.

    Raises:
        ValueError: where the counts are negative, or more than a positive n.
    """
    if n <= 0 or min(num_gained, num_lost) < 0 or num_gained + num_lost > n:
        raise ValueError(
            f"num_gained and num_lost must be counts of flips among a positive n, got {num_gained} and {num_lost} of {n}; "
            "pass counts of one set of items"
        )
    return 100 * _tango_lower(num_gained, num_lost, n, z), -100 * _tango_lower(num_lost, num_gained, n, z)


def _tango_lower(gained: float, lost: float, n: int, z: float) -> float:
    from scipy.optimize import brentq

    def excess(delta: float) -> float:
        b = -gained - lost + (2 * n - gained + lost) * delta
        q = (math.sqrt(max(0.0, b * b + 8 * n * lost * delta * (1 - delta))) - b) / (4 * n)
        return gained - lost - n * delta - z * math.sqrt(max(0.0, n * (2 * q + delta * (1 - delta))))

    estimate = (gained - lost) / n
    if estimate == -1:
        return -1.0
    # Just below the estimate: at a difference of 1 the equation has a second root, the estimate itself.
    return float(brentq(excess, -1.0, estimate - 1e-12, xtol=1e-12))


def paired_interval(differences: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Interval:
    """Tango's 95 % interval of differences in right and wrong (1 gained, −1 lost, 0 neither), in points; by cluster where they are given.

    Clustered counts are divided by their design effect, as if there were so many fewer items (Rao and Scott 1992, Biometrics 48:577):
    how many times the clusters raise the variance of the mean, and at least 1. A few flips estimate it badly. So the estimate, with the
    number of flips as its weight, is averaged with the effect of clusters that flip as a whole, with half the size of the largest cluster
    as its weight: the least with which simulated intervals hold 93 % (`python -m tests.performance.coverage`).

    Raises:
        ValueError: where there are no differences.
    """
    n, gained, lost = len(differences), sum(d == 1 for d in differences), sum(d == -1 for d in differences)
    effect = 1.0 if clusters is None or not n else design_effect(differences, clusters, gained + lost)
    # The equation's counts divided by a number are its z multiplied by the number's root.
    return tango_interval(gained, lost, n, z=Z_95 * math.sqrt(effect))


def design_effect(differences: Sequence[float], clusters: Sequence[Hashable], num_flips: int) -> float:
    sizes = Counter(clusters).values()
    together = sum(size * size for size in sizes) / len(differences)
    if together == 1:
        return 1.0
    alone = standard_error(differences)
    estimated = (standard_error(differences, clusters) / alone) ** 2 if alone > 0 and len(sizes) > 1 else together
    weight = max(sizes) / 2
    return max(1.0, (num_flips * estimated + weight * together) / (num_flips + weight))


def mcnemar_exact(num_gained: int, num_lost: int) -> float:
    """McNemar's exact two-sided p: the chance of flips at least this uneven if both directions are equally likely; 1 without flips."""
    from scipy.stats import binomtest

    flips = num_gained + num_lost
    return float(binomtest(num_gained, flips, 0.5).pvalue) if flips else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values corrected for testing all of them (Holm, step-down), in the order given; one below α is significant at α."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def paired_difference(
    base: Sequence[float], aligned: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> PairedDifference:
    """Compares two models item by item; `base[i]` and `aligned[i]` are the same item.

    The intervals of values other than 0 and 1, of which no scale is known, are None where no two items differ. McNemar's test and
    the flips count items that are 1 in one vector and not in the other; they take no account of clusters.

    Raises:
        ValueError: where the vectors are empty or differ in length.
    """
    lengths = {len(base), len(aligned), len(base if clusters is None else clusters)}
    if len(lengths) != 1 or not base:
        raise ValueError(
            f"base, aligned and clusters must have one value per item, got lengths {sorted(lengths)}; pair the items first"
        )
    differences = [after - before for before, after in zip(base, aligned, strict=True)]
    binary = {*base, *aligned} <= {0.0, 1.0}
    num_gained = sum(before != 1 and after == 1 for before, after in zip(base, aligned, strict=True))
    num_lost = sum(before == 1 and after != 1 for before, after in zip(base, aligned, strict=True))
    return PairedDifference(
        n=len(base),
        delta=100 * math.fsum(differences) / len(base),
        stderr=standard_error(differences, clusters),
        stderr_unpaired=math.hypot(standard_error(base, clusters), standard_error(aligned, clusters)),
        ci=paired_interval(differences, clusters) if binary else normal_interval(differences, clusters),
        ci_bootstrap=bootstrap_interval(differences, clusters, scale=(-1.0, 1.0) if binary else None),
        num_gained=num_gained,
        num_lost=num_lost,
        mcnemar_p=mcnemar_exact(num_gained, num_lost),
    )
