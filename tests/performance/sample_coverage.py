"""How often the 95 % intervals of several samples hold the truth: `python -m tests.performance.sample_coverage`.

Items have a chance of a right sample each, drawn from a Beta distribution, and 16 samples. An accuracy's interval should hold the mean of
the distribution, and that of the difference of two models that are equal 0. About ten seconds of a core.
"""

from __future__ import annotations

import numpy as np

from evaluation.samples import interval_around, mean_interval

KINDS = ((2.0, 2.0), (0.3, 0.7), (0.1, 0.9), (0.15, 3.0))
NUM_SAMPLES, NUM_REPEATS = 16, 4000


def main() -> None:
    rng = np.random.default_rng(0)
    for num_items in (30, 198):
        for a, b in KINDS:
            accuracies = differences = 0
            for _ in range(NUM_REPEATS):
                chances = rng.beta(a, b, size=num_items)
                one, other = (rng.binomial(NUM_SAMPLES, chances) / NUM_SAMPLES for _ in range(2))
                low, high = mean_interval(one.tolist(), range(num_items))
                accuracies += low <= 100 * a / (a + b) <= high
                ends = interval_around((one - other).tolist(), range(num_items))
                differences += ends is None or ends[0] <= 0 <= ends[1]
            shares = (100 * count / NUM_REPEATS for count in (accuracies, differences))
            print(
                f"{num_items} items, mean {100 * a / (a + b):.0f} %: "
                + "accuracy {:.1f} %, difference {:.1f} %".format(*shares)
            )


if __name__ == "__main__":
    main()
