"""How often the 95 % intervals of several samples hold the truth: `python -m tests.performance.sample_coverage`.

Items have a chance of a right sample each, drawn from a Beta distribution, and 16 samples. An accuracy's interval should hold the mean of
the distribution, and that of the difference of two models that are equal 0. Where a tenth of the items got easier, the difference is known
too. Then come figures of right and wrong, as pass@16 and maj@16 are: items that only one of the models solves. Last an accuracy where one
item of twenty is never solved, and the others nearly always: in a fifth of the draws none of 30 items is such a one. About a minute of a
core.
"""

from __future__ import annotations

import numpy as np

from evaluation.samples import interval_around, mean_interval

KINDS = ((2.0, 2.0), (0.3, 0.7), (0.1, 0.9), (0.15, 3.0))
FLIPS = (0.02, 0.05, 0.12, 0.27)
UNSOLVED, NEARLY = 0.05, (1.0, 0.995, 0.97, 0.9)
NUM_SAMPLES, NUM_REPEATS = 16, 4000
EASIER, BY = 0.1, 0.3  # the share of items that get easier for the aligned model, and by how much


def main() -> None:
    rng = np.random.default_rng(0)
    for num_items in (12, 30, 198):
        for a, b in KINDS:
            large = rng.beta(a, b, size=1_000_000)
            gain = 100 * EASIER * float((np.minimum(1, large + BY) - large).mean())
            accuracies = equal = easier = 0
            for _ in range(NUM_REPEATS):
                chances = rng.beta(a, b, size=num_items)
                raised = np.where(rng.random(num_items) < EASIER, np.minimum(1, chances + BY), chances)
                one, other, better = (rng.binomial(NUM_SAMPLES, of) / NUM_SAMPLES for of in (chances, chances, raised))
                accuracies += _holds(mean_interval(one.tolist(), range(num_items)), 100 * a / (a + b))
                equal += _holds(interval_around((other - one).tolist(), range(num_items)), 0)
                easier += _holds(interval_around((better - one).tolist(), range(num_items)), gain)
            found = [f"{100 * count / NUM_REPEATS:.1f} %" for count in (accuracies, equal, easier)]
            print(
                f"{num_items} items, mean {100 * a / (a + b):.0f} %: accuracy {found[0]}, difference of equal models {found[1]}, "
                f"where items got easier {found[2]}"
            )
        for chance in FLIPS:
            drawn = [(rng.random(num_items) < chance).astype(float).tolist() for _ in range(NUM_REPEATS)]
            flips = sum(_holds(interval_around(values, range(num_items)), 100 * chance) for values in drawn)
            right = sum(_holds(mean_interval(values, range(num_items)), 100 * chance) for values in drawn)
            print(
                f"{num_items} items, right and wrong: accuracy of {100 * chance:.0f} % {100 * right / NUM_REPEATS:.1f} %, "
                f"{100 * chance:.0f} % of items gained and none lost {100 * flips / NUM_REPEATS:.1f} %"
            )
    for chance in NEARLY:
        held = 0
        for _ in range(NUM_REPEATS):
            chances = np.where(rng.random(30) < UNSOLVED, 0, chance)
            values = rng.binomial(NUM_SAMPLES, chances) / NUM_SAMPLES
            held += _holds(mean_interval(values.tolist(), range(30)), 100 * (1 - UNSOLVED) * chance)
        print(
            f"30 items, {100 * UNSOLVED:.0f} % never solved and the others with a chance of {100 * chance:g} %: "
            f"accuracy {100 * held / NUM_REPEATS:.1f} %"
        )


def _holds(interval: tuple[float, float] | None, truth: float) -> bool:
    return interval is None or interval[0] <= truth <= interval[1]


if __name__ == "__main__":
    main()
