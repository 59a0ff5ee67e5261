"""How often the 95 % intervals of a paired difference hold the true one, by simulation: `python -m tests.performance.coverage`.

Items flip from wrong to right and back with the probabilities that head a row, in percent. In a cluster all items flip together with
the probability `together`, else each by itself. A cell is 10,000 simulated comparisons; its own standard error is 0.2 points at 95 %.
A star is where ten flips or more are expected: of clusters, as far as they flip together. The last table is of the bootstrap by
question that judged scores have.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import os
import platform
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from scipy.stats import multinomial

from evaluation.judging.aggregates.judgment import Judgment
from evaluation.judging.aggregates.win_rate import aggregate
from evaluation.statistics import Z_95, paired_interval, tango_interval

SIZES = (12, 24, 50, 100, 200, 400, 800, 1300)
CLUSTERED_SIZES = (12, 48, 100, 300, 1300)
RATES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
CLUSTERED_RATES = ((0.01, 0.0), (0.05, 0.0), (0.05, 0.05), (0.1, 0.01), (0.2, 0.0), (0.3, 0.3))
MIXED = (1, 1, 1, 1, 1, 1, 2, 4)
# Sizes of clusters, which repeat; and how often the items of one flip together.
CLUSTERS = (((2,), 0.0), ((2,), 0.5), ((2,), 1.0), ((4,), 0.0), ((4,), 0.5), ((4,), 1.0), (MIXED, 0.5), (MIXED, 1.0))
MANY_FLIPS = 10
EXACT_SIZES = (12, 20, 30, 40, 50, 75, 100, 150, 200)
NUM_QUESTIONS = (5, 12, 30, 100)
# Of the questions, the shares that are won in both orders and in one of them; the others are lost.
WON = ((0.3, 0.2), (0.02, 0.04))

Cell = tuple[float, float, float | None]  # coverage, expected flips, what Wald's interval covers


def independent_cell(n: int, gained: float, lost: float, repeats: int, seed: int) -> Cell:
    """Of items that have nothing in common; the interval depends on the counts alone."""
    counts = _generator(seed, n, gained, lost).multinomial(n, [gained, lost, 1 - gained - lost], size=repeats)[:, :2]
    found, times = np.unique(counts, axis=0, return_counts=True)
    true = 100 * (gained - lost)
    held = [_holds(tango_interval(*flips, n), true) for flips in found.tolist()]
    wald = [_holds(_wald(*flips, n), true) for flips in found.tolist()]
    return float(np.average(held, weights=times)), n * (gained + lost), float(np.average(wald, weights=times))


def exact_row(n: int) -> str:
    """The least of n independent items over rates in steps of 1 %, from all counts there can be, and the range where many flips are."""
    gained, lost = np.divmod(np.arange((n + 1) ** 2), n + 1)
    gained, lost = gained[gained + lost <= n], lost[gained + lost <= n]
    bounds = np.array([tango_interval(*counts, n) for counts in zip(gained.tolist(), lost.tolist(), strict=True)])
    found = []
    for p, q in itertools.combinations_with_replacement(range(31), 2):
        shares = np.array([p, q, 100 - p - q]) / 100
        likely = multinomial.pmf(np.stack([lost, gained, n - gained - lost], axis=1), n, shares)
        held = (bounds[:, 0] - 1e-9 <= q - p) & (q - p <= bounds[:, 1] + 1e-9)
        found.append((float(likely[held].sum()), n * (p + q) / 100 >= MANY_FLIPS, f"{q}, {p}"))
    least, _, rates = min(found)
    return f"| {n} | {100 * least:.1f} ({rates}) | {_range([share for share, many, _ in found if many])} |"


def clustered_cell(n: int, gained: float, lost: float, sizes: Sequence[int], together: float, repeats: int, seed: int) -> Cell:
    """Of items in clusters, by the function that comparisons use; samples that differ in the order of clusters alone have one interval."""
    owner = np.repeat(np.arange(n), [sizes[place % len(sizes)] for place in range(n)])[:n]
    sizes_of, names = np.bincount(owner), owner.tolist()
    rng = _generator(seed, n, gained, lost, together, *sizes)
    known: dict[tuple[tuple[int, int, int], ...], bool] = {}
    held = 0
    for _ in range(repeats):
        each, whole = (np.where(u < gained, 1, np.where(u < gained + lost, -1, 0)) for u in rng.random((2, n)))
        differences = np.where((rng.random(n) < together)[owner], whole[owner], each)
        flipped: dict[int, list[int]] = {}
        for place in np.flatnonzero(differences).tolist():
            flipped.setdefault(names[place], []).append(int(differences[place]))
        key = tuple(sorted((int(sizes_of[c]), found.count(1), found.count(-1)) for c, found in flipped.items()))
        if key not in known:
            known[key] = _holds(paired_interval(differences.tolist(), names), 100 * (gained - lost))
        held += known[key]
    effect = 1 + ((sizes_of**2).sum() / n - 1) * together
    return held / repeats, n * (gained + lost) / effect, None


def question_cell(num_questions: int, won: tuple[float, float], repeats: int, seed: int) -> float:
    """Of a win rate by question, under a judge without position bias."""
    both, one = won
    rng = _generator(seed, num_questions, both, one)
    verdicts = (("B>A", "A>B"), ("B>A", "B>A"), ("A>B", "B>A"))
    held = 0
    for _ in range(repeats):
        drawn = rng.choice(len(verdicts), size=num_questions, p=[both, one, 1 - both - one])
        judgments = [
            Judgment(str(number), order, verdict)
            for number, kind in enumerate(drawn)
            for order, verdict in enumerate(verdicts[kind], start=1)
        ]
        held += _holds(aggregate(judgments, num_expected=num_questions)["ci_clustered"], 100 * (both + one / 2))
    return held / repeats


def _generator(seed: int, *cell: float) -> np.random.Generator:
    """Each cell has its own random numbers."""
    return np.random.default_rng([seed, *(round(1000 * value) for value in cell)])


def _holds(interval: Sequence[float], true: float) -> bool:
    return interval[0] - 1e-9 <= true <= interval[1] + 1e-9


def _wald(gained: int, lost: int, n: int) -> tuple[float, float]:
    """The estimate ± 1.96 standard errors, which has no width without flips."""
    delta = (gained - lost) / n
    half = Z_95 * math.sqrt(max(0.0, gained + lost - n * delta * delta) / (n - 1) / n)
    return 100 * (delta - half), 100 * (delta + half)


def _table(
    name: str, sizes: Sequence[int], rates: Sequence[tuple[float, float]], cells: Sequence[Sequence[Cell]]
) -> Iterator[str]:
    """Rates by n, and below them the least and the greatest of each n; `cells` are by n."""
    yield f"\n**{name}**\n"
    yield f"| gained, lost | {' | '.join(f'n = {n}' for n in sizes)} |"
    yield "|---" * (len(sizes) + 1) + "|"
    for number, (gained, lost) in enumerate(rates):
        row = [cells[place][number] for place in range(len(sizes))]
        shown = [f"{100 * cell[0]:.1f}{'*' if cell[1] >= MANY_FLIPS else ''}" for cell in row]
        yield f"| {100 * gained:g}, {100 * lost:g} | {' | '.join(shown)} |"
    columns = [[cell[0] for cell in column] for column in cells]
    many = [[cell[0] for cell in column if cell[1] >= MANY_FLIPS] for column in cells]
    yield f"| all | {' | '.join(map(_range, columns))} |"
    yield f"| starred | {' | '.join(map(_range, many))} |"
    wald = [[cell[2] for cell in column if cell[2] is not None] for column in cells]
    if wald[0]:
        yield f"| Wald's, all | {' | '.join(map(_range, wald))} |"


def _range(values: Sequence[float]) -> str:
    return f"{100 * min(values):.1f} … {100 * max(values):.1f}" if values else "–"


def _tables(pool: ProcessPoolExecutor, repeats: int, seed: int) -> Iterator[str]:
    rates = [(gained, lost) for gained in RATES for lost in RATES if lost <= gained]
    cells = [
        list(pool.map(functools.partial(independent_cell, n, repeats=repeats, seed=seed), *zip(*rates, strict=True)))
        for n in SIZES
    ]
    yield from _table("independent items", SIZES, rates, cells)
    for sizes, together in CLUSTERS:
        run = functools.partial(clustered_cell, sizes=sizes, together=together, repeats=repeats, seed=seed)
        cells = [list(pool.map(functools.partial(run, n), *zip(*CLUSTERED_RATES, strict=True))) for n in CLUSTERED_SIZES]
        name = f"clusters of {'/'.join(map(str, sizes))}, together {100 * together:.0f} %"
        yield from _table(name, CLUSTERED_SIZES, CLUSTERED_RATES, cells)
    yield "\n**independent items, exactly, rates in steps of 1 %**\n"
    yield "| n | least (gained, lost) | ten flips or more |"
    yield "|---|---|---|"
    yield from pool.map(exact_row, EXACT_SIZES)
    yield "\n**win rate by question**\n"
    yield f"| questions | {' | '.join(f'won {100 * both:g} %, split {100 * one:g} %' for both, one in WON)} |"
    yield "|---" * (len(WON) + 1) + "|"
    for num_questions in NUM_QUESTIONS:
        held = pool.map(functools.partial(question_cell, num_questions, repeats=repeats // 5, seed=seed), WON)
        yield f"| {num_questions} | {' | '.join(f'{100 * share:.1f}' for share in held)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {os.cpu_count()} cores; {options.repeats} comparisons a cell, seed {options.seed}")
    with ProcessPoolExecutor() as pool:
        for line in _tables(pool, options.repeats, options.seed):
            print(line, flush=True)


if __name__ == "__main__":
    main()
