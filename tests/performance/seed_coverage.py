"""How often 95 % intervals over items and seeds hold the true mean, by simulation: `python -m tests.performance.seed_coverage`.

A model has an item right where the sum of four normal numbers is above 0: its strength, the item's ease, the training's luck (one number
for each seed) and the answer's own. The mean of a setting is its accuracy less the base model's; of two settings that were trained
with the same seeds, the accuracies' difference. Both are over all items and seeds that there could be, so the truth is known exactly.
`seeds` is the spread of the training's luck in points of accuracy: 0 where a training is as good as any other.

Compared: the interval of `evaluation.crossed`; the two-way bootstrap, which with few seeds sees too little of their spread; the interval
over items alone; and the pooled one, which counts an item once for each seed. A cell is 300 simulated comparisons; its own
standard error is 1.3 points at 95 %. The last table is of a seeds' part whose variance would be pooled over several settings, of which the
first has a spread that is so many times that of the others.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

from evaluation.crossed import Block, crossed_mean
from evaluation.statistics import paired_interval

ITEMS = (12, 128, 500)
SEEDS = (2, 3, 5, 10)
SPREADS = (0.0, 2.0, 5.0, 10.0)  # points
METHODS = ("items and seeds", "two-way bootstrap", "items alone", "pooled")
# Accuracies of the base model and of the two settings, in percent.
BASE, FIRST, SECOND = 30.0, 60.0, 55.0
_EASE, _OWN = 1.0, 0.5  # standard deviations of an item's ease, which all models share, and of an answer's own number


class Cell(NamedTuple):
    """How often each method of METHODS held the truth, and the mean width of its interval in points, where it has one."""

    held: tuple[float, ...]
    width: tuple[float, ...]


def simulate(
    num_items: int,
    num_seeds: int,
    spread: float,
    repeats: int,
    seed: int,
    *,
    between: bool = False,
    accuracies: Sequence[float] = (BASE, FIRST, SECOND),
) -> Cell:
    """Of one setting against the base model, or of the first setting against the second (`between`)."""
    rng = np.random.default_rng([seed, num_items, num_seeds, round(100 * spread), between])
    base, first, second = (value / 100 for value in accuracies)
    luck = [_luck(value, spread) for value in (first, second)]
    held, width = np.zeros((len(METHODS), repeats)), np.zeros((len(METHODS), repeats))
    true = first - (second if between else base)
    for repeat in range(repeats):
        ease = _EASE * rng.standard_normal(num_items)
        right = [_answers(rng, ease, value, of_seed, num_seeds) for value, of_seed in zip((first, second), luck, strict=True)]
        start = _answers(rng, ease, base, 0.0, 1)
        values = right[0] - (right[1] if between else start)
        for method, ci in enumerate(_intervals(values)):
            held[method, repeat] = math.nan if ci is None else ci[0] - 1e-9 <= true <= ci[1] + 1e-9
            width[method, repeat] = math.nan if ci is None else 100 * (ci[1] - ci[0])
    return Cell(tuple(np.nanmean(held, axis=1).tolist()), tuple(np.nanmean(width, axis=1).tolist()))


def _intervals(values: np.ndarray) -> list[tuple[float, float] | None]:
    block = Block(values.tolist(), right_or_wrong=True)
    found = crossed_mean([block], with_p=False)
    low, high = paired_interval([value for of_seed in block.values for value in of_seed])
    return [found.ci, found.ci_bootstrap, found.ci_items, (low / 100, high / 100)]


def _luck(accuracy: float, spread: float) -> float:
    """The standard deviation of the training's luck that spreads the accuracies of seeds by `spread` points."""
    if not spread:
        return 0.0
    low, high = 0.0, 5.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _spread(accuracy, middle) < spread else (low, middle)
    return low


def _spread(accuracy: float, luck: float) -> float:
    own = math.hypot(_EASE, _OWN)
    draws = norm.ppf((np.arange(2000) + 0.5) / 2000)
    return 100 * float(np.std(norm.cdf((norm.ppf(accuracy) * math.hypot(own, luck) + luck * draws) / own)))


def _answers(rng: np.random.Generator, ease: np.ndarray, accuracy: float, luck: float, num_seeds: int) -> np.ndarray:
    """1.0 where an item is right, (S, I)."""
    strength = norm.ppf(accuracy) * math.sqrt(_EASE**2 + _OWN**2 + luck**2)
    of_seed = luck * rng.standard_normal((num_seeds, 1))
    own = _OWN * rng.standard_normal((num_seeds, len(ease)))
    return (strength + of_seed + ease + own > 0).astype(float)


def pooled_variance(num_settings: int, num_seeds: int, ratio: float, repeats: int, seed: int) -> tuple[float, float]:
    """How often Student's interval of the first setting's mean holds the truth: with the setting's own variance, and with all settings'."""
    rng = np.random.default_rng([seed, num_settings, num_seeds, round(10 * ratio)])
    spreads = np.array([ratio] + [1.0] * (num_settings - 1))
    values = rng.standard_normal((repeats, num_seeds, num_settings)) * spreads
    means, variances = values.mean(axis=1)[:, 0], values.var(axis=1, ddof=1)
    held = [
        np.mean(np.abs(means) <= t.isf(0.025, degrees) * np.sqrt(variance / num_seeds))
        for variance, degrees in (
            (variances[:, 0], num_seeds - 1),
            (variances.mean(axis=1), num_settings * (num_seeds - 1)),
        )
    ]
    return float(held[0]), float(held[1])


def _tables(pool: ProcessPoolExecutor, repeats: int, seed: int) -> Iterator[str]:
    run = functools.partial(simulate, repeats=repeats, seed=seed)
    for between, name in ((False, "a setting against the base model"), (True, "two settings")):
        cells = list(itertools.product(SEEDS, ITEMS, SPREADS))
        found = dict(zip(cells, pool.map(functools.partial(run_cell, run, between), cells), strict=True))
        yield f"\n**{name}: % of intervals that hold the truth (mean width, points)**\n"
        yield f"| seeds | items | spread of seeds | {' | '.join(METHODS)} |"
        yield "|---" * (len(METHODS) + 3) + "|"
        for (num_seeds, num_items, spread), cell in found.items():
            shown = [f"{100 * held:.1f} ({width:.0f})" for held, width in zip(*cell, strict=True)]
            yield f"| {num_seeds} | {num_items} | {spread:g} | {' | '.join(shown)} |"
        for num_seeds in SEEDS:
            ranges = [
                [100 * cell.held[place] for (seeds, *_), cell in found.items() if seeds == num_seeds]
                for place in range(len(METHODS))
            ]
            shown = [f"{min(values):.1f} … {max(values):.1f}" for values in ranges]
            yield f"| {num_seeds} | all | all | {' | '.join(shown)} |"
    yield "\n**variance pooled over settings: % of the first one's intervals that hold the truth**\n"
    yield "| settings | seeds | its spread is | its own variance | pooled |"
    yield "|---" * 5 + "|"
    for num_settings, num_seeds, ratio in itertools.product((2, 5, 8), (3, 5), (1.0, 2.0, 5.0)):
        own, pooled = pooled_variance(num_settings, num_seeds, ratio, 20_000, seed)
        yield f"| {num_settings} | {num_seeds} | {ratio:g} times the others' | {100 * own:.1f} | {100 * pooled:.1f} |"


def run_cell(run: Callable[..., Cell], between: bool, cell: tuple[int, int, float]) -> Cell:
    num_seeds, num_items, spread = cell
    return run(num_items, num_seeds, spread, between=between)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {os.cpu_count()} cores; {options.repeats} comparisons a cell, seed {options.seed}")
    with ProcessPoolExecutor() as pool:
        for line in _tables(pool, options.repeats, options.seed):
            print(line, flush=True)


if __name__ == "__main__":
    main()
