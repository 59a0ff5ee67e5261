"""Means over items that are crossed with seeds: every training of one setting, one for each seed, answered the same items.

Items and seeds are two samples, and a mean over both is as uncertain as either makes it. Pooled, 128 items of three seeds would count as
384, though a fourth seed may train to another place. So an interval here has a part for each:

- items, with the seeds that there are: the interval of one run, in which the answers of all seeds to one item are a cluster. Tango's of
  differences between right and wrong, else the normal one (`evaluation/statistics.py`);
- seeds, with the items that there are: Student's interval of the seeds' means, with one degree of freedom less than there are seeds.

Their half-widths are squared and added, each side by itself: MOVER, Zou and Donner 2008, Statistics in Medicine 27:1693,
https://doi.org/10.1002/sim.3095. How often it holds the truth: `python -m tests.performance.seed_coverage`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evaluation.statistics import Interval, design_effect, standard_error, tango_interval

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_ALPHA = 0.05
# Percentiles at 2.5 % of so many resamples vary by a twentieth of a standard error.
_NUM_RESAMPLES = 2000
# The least p that is worked out: normal and Student's tails below it mean nothing. Above the greatest, which is given as 1, intervals are
# too narrow to be solved for.
_LEAST_P, _GREATEST_P = 1e-12, 0.99
# Differences of equal figures, such as 75 − 71.875 %, may be apart by this share of them.
_ROUNDING = 1e-9
# An error of shares that is nothing but rounding: 2/3 − 1/3 and 1 − 2/3 are apart by less.
_NO_ERROR = 1e-11


@dataclass(frozen=True)
class Block:
    """One benchmark's values: `values[s][i]` is of seed s and item i. Items of one cluster are not independent.

    Attributes:
        right_or_wrong: Whether the values are differences between right and wrong: −1, 0 or 1. Others may happen to be such numbers.
        scale: The least and the greatest value there can be, of others that have one.
    """

    values: Sequence[Sequence[float]]
    clusters: Sequence[Hashable] | None = None
    right_or_wrong: bool = field(kw_only=True)
    scale: Interval | None = field(default=None, kw_only=True)

    @property
    def ends(self) -> Interval | None:
        """Where the values end."""
        return (-1.0, 1.0) if self.right_or_wrong else self.scale


@dataclass(frozen=True)
class CrossedMean:
    """A mean over items and seeds, in the unit of the values.

    Attributes:
        mean: Of several blocks the mean of their means.
        num_seeds, num_items: What it is over; items of all blocks together, and 0 of a figure that a training has once.
        ci: The 95 % interval over items and seeds; of one seed over items alone. None of a single item, and where nothing varies on a scale
            that isn't known.
        ci_items: The 95 % interval over items, with these seeds.
        ci_bootstrap: The percentiles of a two-way bootstrap; None of one seed, and where nothing varies. Too narrow with few seeds.
        seed_sd: The standard deviation of the seeds' means; None of one seed.
        p: Of the mean being 0: the α at which the interval ends at 0. None where there is no interval.
    """

    mean: float
    num_seeds: int
    num_items: int
    ci: Interval | None
    ci_items: Interval | None
    ci_bootstrap: Interval | None
    seed_sd: float | None
    p: float | None

    def times(self, factor: float) -> CrossedMean:
        """In another unit: shares times 100 are points."""

        def scaled(interval: Interval | None) -> Interval | None:
            return None if interval is None else (factor * interval[0], factor * interval[1])

        return CrossedMean(
            factor * self.mean,
            self.num_seeds,
            self.num_items,
            scaled(self.ci),
            scaled(self.ci_items),
            scaled(self.ci_bootstrap),
            None if self.seed_sd is None else factor * self.seed_sd,
            self.p,
        )


def crossed_mean(blocks: Sequence[Block], *, seed: int = 0, with_p: bool = True) -> CrossedMean:
    """The mean over items and seeds, and of several blocks the mean of their means: each benchmark counts alike.

    Args:
        seed: Of the bootstrap's random numbers.
        with_p: Whether `p` is worked out.

    Raises:
        ValueError: where there are no values, blocks or seeds have different numbers of them, or values are no differences between right
            and wrong that should be.
    """
    num_seeds = _checked(blocks)
    by_seed = [math.fsum(_mean(block.values[s]) for block in blocks) / len(blocks) for s in range(num_seeds)]
    mean = math.fsum(by_seed) / num_seeds
    ends = [block.ends or (-math.inf, math.inf) for block in blocks]
    lowest, highest = (math.fsum(side) / len(blocks) for side in zip(*ends, strict=True))
    items = [_items_interval(block) for block in blocks]
    known = [interval for interval in items if interval is not None]
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in by_seed) / (num_seeds - 1)) if num_seeds > 1 else None
    error = 0.0 if spread is None else spread / math.sqrt(num_seeds)

    def around(alpha: float, of_seeds: float) -> Interval:
        from scipy.stats import norm, t

        z = float(norm.isf(alpha / 2))
        seeds = float(t.isf(alpha / 2, num_seeds - 1)) * of_seeds if of_seeds else 0.0
        parts = [interval(z) for interval in known]
        low, high = (math.hypot(seeds, *(end / len(blocks) for end in side)) for side in zip(*parts, strict=True))
        return max(mean - low, lowest), min(mean + high, highest)

    whole = len(known) == len(blocks)
    ci = around(_ALPHA, error) if whole else None
    if ci is None or not ci[1] > ci[0]:
        return CrossedMean(mean, num_seeds, sum(len(block.values[0]) for block in blocks), None, None, None, spread, None)
    return CrossedMean(
        mean=mean,
        num_seeds=num_seeds,
        num_items=sum(len(block.values[0]) for block in blocks),
        ci=ci,
        ci_items=around(_ALPHA, 0.0),
        ci_bootstrap=two_way_bootstrap(blocks, seed=seed) if num_seeds > 1 else None,
        seed_sd=spread,
        p=_p_value(mean, lambda alpha: around(alpha, error)) if with_p else None,
    )


def two_way_bootstrap(blocks: Sequence[Block], *, seed: int = 0) -> Interval | None:
    """The 2.5 and 97.5 percentiles of the mean over resampled seeds and resampled items (or clusters), each by itself.

    Blocks share their seeds. None where both are one number: that nothing varied in the sample proves nothing.
    Owen 2007, The pigeonhole bootstrap, Annals of Applied Statistics 1:386, https://arxiv.org/abs/0712.1111
    """
    import numpy as np

    num_seeds = _checked(blocks)
    rng = np.random.default_rng(seed)
    tables = [_by_cluster(block) for block in blocks]
    means = []
    for start in range(0, _NUM_RESAMPLES, 250):  # in parts: the whole table of draws would be large
        number = min(250, _NUM_RESAMPLES - start)
        seeds = rng.multinomial(num_seeds, [1 / num_seeds] * num_seeds, size=number) / num_seeds  # (R, S)
        total = np.zeros(number)
        for sums, sizes in tables:
            drawn = rng.integers(len(sizes), size=(number, len(sizes)))  # (R, C)
            total += (sums[drawn].sum(axis=1) * seeds).sum(axis=1) / sizes[drawn].sum(axis=1)
        means.append(total / len(blocks))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return (float(low), float(high)) if low < high else None


def _by_cluster(block: Block) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Each cluster's sum for every seed, (C, S), and its number of items, (C,)."""
    import numpy as np

    values = np.asarray(block.values, dtype=float).T  # (I, S)
    if block.clusters is None:
        return values, np.ones(len(values))
    numbers: dict[Hashable, int] = {}
    place = [numbers.setdefault(cluster, len(numbers)) for cluster in block.clusters]
    sums = np.zeros((len(numbers), values.shape[1]))
    np.add.at(sums, place, values)
    return sums, np.bincount(place).astype(float)


def _items_interval(block: Block) -> Callable[[float], Interval] | None:
    """How far the interval over items goes below and above the mean, for a normal quantile z; None of a single item or cluster."""
    values = [value for of_seed in block.values for value in of_seed]
    of_item = list(range(len(block.values[0])) if block.clusters is None else block.clusters)
    clusters = of_item * len(block.values)
    if len(set(of_item)) < 2:
        return None
    mean = _mean(values)
    if block.right_or_wrong:
        gained, lost = values.count(1.0), values.count(-1.0)
        root = math.sqrt(design_effect(values, clusters, gained + lost))

        def tango(z: float) -> Interval:
            low, high = tango_interval(gained, lost, len(values), z=z * root)
            return max(0.0, mean - low / 100), max(0.0, high / 100 - mean)

        return tango
    error = standard_error(values, clusters) / 100
    if block.scale is None or error > _NO_ERROR:
        return lambda z: (z * error, z * error)
    lowest, highest = block.scale
    number = len(set(of_item))

    def unanimous(z: float) -> Interval:
        """As `evaluation.statistics.unanimous_interval`: that all items are alike doesn't say that all others are."""
        share = z**2 / (number + z**2)
        return share * (mean - lowest), share * (highest - mean)

    return unanimous


def _p_value(mean: float, around: Callable[[float], Interval]) -> float:
    from scipy.optimize import brentq

    if mean == 0:
        return 1.0

    def beyond(log_alpha: float) -> float:
        """How far the interval is beyond 0: positive where it does not hold it."""
        low, high = around(math.exp(log_alpha))
        return low if mean > 0 else -high

    least, greatest = math.log(_LEAST_P), math.log(_GREATEST_P)
    if beyond(least) >= 0:
        return _LEAST_P
    return math.exp(brentq(beyond, least, greatest, xtol=1e-9)) if beyond(greatest) > 0 else 1.0


def _checked(blocks: Sequence[Block]) -> int:
    """The number of seeds, which all blocks share."""
    seeds = {len(block.values) for block in blocks}
    sizes = [
        {len(of_seed) for of_seed in block.values} | ({len(block.clusters)} if block.clusters is not None else set())
        for block in blocks
    ]
    if len(seeds) != 1 or seeds == {0} or any(len(found) != 1 or found == {0} for found in sizes):
        raise ValueError(
            f"blocks must have the same seeds, and their seeds one value for each item, got {sorted(seeds)} seeds with "
            f"{[sorted(found) for found in sizes]} items; pair seeds and items first"
        )
    for block in blocks:
        others = {value for of_seed in block.values for value in of_seed} - {-1.0, 0.0, 1.0}
        if block.right_or_wrong and others:
            raise ValueError(
                f"values must be -1, 0 or 1 where they are of right and wrong answers, got {min(others)}; say right_or_wrong=False"
            )
    return seeds.pop()


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def seeds_interval(values: Sequence[float], least: float = -math.inf, most: float = math.inf) -> Interval | None:
    """Student's 95 % interval of the mean of one figure of each seed, cut at the `least` and the `most` that the figure can be; None of a
    single one.
    """
    if len(values) < 2:
        return None
    from scipy.stats import t

    mean = _mean(values)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = float(t.isf(_ALPHA / 2, len(values) - 1)) * spread / math.sqrt(len(values))
    return max(least, mean - half), min(most, mean + half)


def seeds_mean(values: Sequence[float]) -> CrossedMean:
    """The mean of one figure of each seed, such as its difference between two settings: Student's interval, and the t test's p.

    Of differences this is the paired t test. Of one seed, and where all seeds have the same value but for rounding, there are neither
    interval nor p: three equal numbers prove nothing.
    """
    mean, number = _mean(values), len(values)
    if number < 2 or max(values) - min(values) <= _ROUNDING * max(map(abs, values)):
        return CrossedMean(mean, number, 0, None, None, None, 0.0 if number > 1 else None, None)
    from statistics import stdev

    from scipy.stats import ttest_1samp

    p = float(ttest_1samp(values, 0.0).pvalue)
    return CrossedMean(mean, number, 0, seeds_interval(values), None, None, stdev(values), p)
