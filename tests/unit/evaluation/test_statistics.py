"""Statistics against numbers worked out by hand, and properties that hold whatever the data."""

import math
import random

import pytest

from evaluation.statistics import (
    bootstrap_interval,
    holm,
    mcnemar_exact,
    normal_interval,
    paired_difference,
    percent,
    standard_error,
    tango_interval,
    wilson_interval,
)


@pytest.mark.parametrize("num_items", [1319, 721, 800, 2778])
def test_every_share_of_a_protocols_items_shows_as_upstreams(num_items):
    shown = [f"{percent(count, num_items):.2f}" for count in range(num_items + 1)]
    assert shown == [f"{count / num_items * 100:.2f}" for count in range(num_items + 1)]
    assert percent(0, 0) is None


def test_wilson_interval():
    assert wilson_interval(8, 10) == pytest.approx((49.0162, 94.3318), abs=1e-3)
    assert wilson_interval(0, 10) == pytest.approx((0, 100 * 3.841459 / 13.841459), abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((100 * 10 / 13.841459, 100), abs=1e-4)


@pytest.mark.parametrize(("num_right", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_counts_that_cannot_be(num_right, n):
    with pytest.raises(ValueError, match=f"{num_right} of {n}"):
        wilson_interval(num_right, n)


def test_standard_error_is_the_samples_and_clusters_add_up():
    assert standard_error([1, 0, 1, 1]) == pytest.approx(25)
    assert standard_error([1, 1, 0, 0]) == pytest.approx(100 * math.sqrt(1 / 3) / 2)
    # Two clusters with deviations +1 and −1 of four items: sqrt(2/1 · 2) / 4.
    assert standard_error([1, 1, 0, 0], ["a", "a", "b", "b"]) == pytest.approx(50)
    # Clusters in which the deviations cancel carry no uncertainty.
    assert standard_error([1, 0, 1, 0], ["a", "a", "b", "b"]) == pytest.approx(0)
    assert math.isnan(standard_error([1]))
    assert math.isnan(standard_error([1, 0], ["a", "a"]))


def test_one_item_per_cluster_is_no_clustering():
    values = [random.Random(0).random() for _ in range(50)]
    assert standard_error(values, list(range(50))) == pytest.approx(standard_error(values))
    assert bootstrap_interval(values, list(range(50))) == bootstrap_interval(values)


def test_a_copy_of_every_item_adds_nothing_once_it_is_clustered():
    rng = random.Random(1)
    values = [float(rng.random() < 0.4) for _ in range(300)]
    twice, clusters = values * 2, [*range(300), *range(300)]
    assert standard_error(twice, clusters) == pytest.approx(standard_error(values))
    assert standard_error(twice) < 0.75 * standard_error(values)
    assert bootstrap_interval(twice, clusters) == pytest.approx(bootstrap_interval(values))


def test_normal_and_bootstrap_intervals_agree_on_many_items():
    rng = random.Random(2)
    values = [float(rng.random() < 0.3) for _ in range(2000)]
    assert bootstrap_interval(values, seed=3) == pytest.approx(normal_interval(values), abs=0.15)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
    assert bootstrap_interval([1.0] * 20) is None, "where all say the same, resampling says nothing"
    assert bootstrap_interval([1.0] * 20, scale=(0, 1)) == pytest.approx(wilson_interval(20, 20))
    assert bootstrap_interval([1.0, 0.0], ["a", "a"], scale=(0, 1)) is None, "one cluster"


def test_mcnemar_is_the_binomial_tail_of_the_flips():
    assert mcnemar_exact(0, 0) == 1
    assert mcnemar_exact(3, 3) == 1
    assert mcnemar_exact(0, 5) == pytest.approx(2 / 32)
    assert mcnemar_exact(9, 1) == mcnemar_exact(1, 9) == pytest.approx(2 * (1 + 10) / 1024)


def test_holm_steps_down_and_never_decreases():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1, 1])
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_paired_difference():
    result = paired_difference([1, 0, 0, 1], [1, 1, 1, 0])
    assert (result.n, result.delta, result.num_gained, result.num_lost, result.mcnemar_p) == (4, 25, 2, 1, 1)
    assert result.stderr == pytest.approx(100 * math.sqrt(2.75 / 3) / 2)
    assert result.stderr_unpaired == pytest.approx(100 * math.sqrt(1 / 12 + 1 / 16))
    assert result.ci == tango_interval(2, 1, 4)
    assert result.ci_bootstrap[0] < 25 < result.ci_bootstrap[1]


def test_swapping_the_models_mirrors_the_comparison():
    rng = random.Random(5)
    base, aligned = ([float(rng.random() < share) for _ in range(200)] for share in (0.4, 0.5))
    there, back = paired_difference(base, aligned), paired_difference(aligned, base)
    assert there.delta == -back.delta and there.mcnemar_p == back.mcnemar_p
    assert (there.num_gained, there.num_lost) == (back.num_lost, back.num_gained)
    assert there.ci == pytest.approx((-back.ci[1], -back.ci[0]))
    same = paired_difference(base, base)
    assert same.delta == 0 and same.mcnemar_p == 1
    bound = 100 * 3.841459 / 203.841459
    assert same.ci == pytest.approx((-bound, bound), abs=1e-4) and same.ci_bootstrap == pytest.approx(same.ci)


@pytest.mark.parametrize(("base", "aligned", "clusters"), [([], [], None), ([1], [1, 0], None), ([1, 0], [1, 0], ["a"])])
def test_vectors_that_do_not_pair_are_refused(base, aligned, clusters):
    with pytest.raises(ValueError, match="one value per item"):
        paired_difference(base, aligned, clusters)
