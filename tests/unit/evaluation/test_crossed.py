"""Means over items crossed with seeds: numbers worked out by hand, what must not change them, what one seed says, and what they hold."""

import functools
import math
import random

import pytest

from evaluation import crossed
from evaluation.crossed import crossed_mean, seeds_interval, two_way_bootstrap
from evaluation.statistics import Z_95, paired_interval, tango_interval, unanimous_interval
from tests.performance.seed_coverage import METHODS, simulate

Block = functools.partial(crossed.Block, right_or_wrong=True)
Measures = functools.partial(crossed.Block, right_or_wrong=False)
T_1, T_2 = 12.706205, 4.302653  # Student's 97.5 % quantiles of one and two degrees of freedom


def flips(seed, num_seeds=3, num_items=40, gained=0.3, lost=0.1):
    rng = random.Random(seed)
    draw = lambda: 1.0 if (u := rng.random()) < gained else -1.0 if u < gained + lost else 0.0  # noqa: E731
    return [[draw() for _ in range(num_items)] for _ in range(num_seeds)]


def test_by_hand():
    """Two seeds with means 0.3 and 0.7, two items with means 0.4 and 0.6."""
    found = crossed_mean([Measures([[0.2, 0.4], [0.6, 0.8]])])
    items = Z_95 * math.sqrt(2 * (0.2**2 + 0.2**2)) / 4  # the items' sums lie 0.2 off twice the mean
    seeds = T_1 * math.sqrt(0.2**2 + 0.2**2) / math.sqrt(2)
    assert found.mean == pytest.approx(0.5) and found.seed_sd == pytest.approx(math.sqrt(0.08))
    assert found.ci_items == pytest.approx((0.5 - items, 0.5 + items))
    half = math.hypot(items, seeds)
    assert found.ci == pytest.approx((0.5 - half, 0.5 + half), rel=1e-5)
    assert (found.num_seeds, found.num_items) == (2, 2)
    points = found.times(100)
    assert points.mean == pytest.approx(50) and points.ci == pytest.approx((50 - 100 * half, 50 + 100 * half), rel=1e-5)
    assert points.p == found.p


def test_changes_of_shares_that_are_all_alike_are_not_known_exactly():
    """As those of right and wrong: one such benchmark makes no mean of several more certain than it is."""
    shares = functools.partial(Measures, scale=(-1.0, 1.0))
    share = Z_95**2 / (12 + Z_95**2)
    alike = [[0.0] * 12] * 3
    assert crossed_mean([shares(alike)]).ci == pytest.approx((-share, share))
    assert crossed_mean([Measures(alike)]).ci is None
    moved = [[-1.0, -1.0, -0.5, -1.0]] * 3
    alone, both = crossed_mean([shares(moved)]), crossed_mean([shares(moved), shares(alike)])
    assert alone.ci[0] == -1.0, "less there is not"
    assert both.ci[1] - both.mean == pytest.approx(math.hypot(alone.ci[1] - alone.mean, share) / 2)


def test_one_seed_is_the_interval_of_a_run_over_items_alone():
    values = flips(1, num_seeds=1)
    clusters = [place // 2 for place in range(40)]
    for given in (None, clusters):
        found = crossed_mean([Block(values, given)])
        assert found.ci == found.ci_items and found.seed_sd is None and found.ci_bootstrap is None
        assert [100 * end for end in found.ci] == pytest.approx(paired_interval(values[0], given), abs=1e-6)


def test_seeds_are_not_pooled():
    """Three seeds that flip the same items say no more of the items than one."""
    values = flips(2, num_seeds=1, num_items=200)
    one, three = crossed_mean([Block(values)]), crossed_mean([Block(values * 3)])
    assert three.ci == pytest.approx(one.ci, abs=0.004), "the variance of the clusters has its own sample correction"
    assert three.seed_sd == 0 and three.ci == three.ci_items
    pooled = tango_interval(3 * values[0].count(1), 3 * values[0].count(-1), 600)
    assert pooled[1] - pooled[0] < 0.6 * 100 * (three.ci[1] - three.ci[0])


def test_nothing_flipped_is_no_certainty():
    found = crossed_mean([Block([[0.0] * 12] * 3)])
    assert found.ci == pytest.approx(unanimous_interval(0.0, 12, -1.0, 1.0)) and found.p == 1 and found.ci_bootstrap is None
    everything = crossed_mean([Block([[1.0] * 12] * 3)])
    assert everything.ci[1] == 1 and everything.ci[0] < 0.6 and everything.p < 0.01
    # Of values whose scale isn't known, nothing can be said; nor of one item.
    assert crossed_mean([Measures([[5.5, 5.5], [5.5, 5.5]])]).ci is None
    single = crossed_mean([Block([[1.0], [0.0]])])
    assert single.ci is None and single.p is None and single.mean == 0.5


def test_lengths_that_happen_to_be_0_and_1_are_no_right_and_wrong_answers():
    """Two items of one seed, 0 and 1 tokens longer: mean 0.5, variance 0.5, standard error √(0.5 / 2). No end is cut off at 1."""
    half = Z_95 * 0.5
    assert crossed_mean([Measures([[0.0, 1.0]])]).ci == pytest.approx((0.5 - half, 0.5 + half))
    assert crossed_mean([Measures([[0.0, 1.0]])]).times(100).ci == pytest.approx(crossed_mean([Measures([[0.0, 100.0]])]).ci)
    assert crossed_mean([Block([[0.0, 1.0]])]).ci[1] <= 1
    with pytest.raises(ValueError, match=r"values must be -1, 0 or 1 where they are of right and wrong answers, got 0\.5"):
        crossed_mean([Block([[0.5, 1.0]])])


def test_what_must_not_change_it():
    blocks = [Block(flips(3)), Block(flips(4, num_items=25), [place // 5 for place in range(25)])]
    found = crossed_mean(blocks)
    order = list(range(40))
    random.Random(5).shuffle(order)
    turned = [
        Block([[of_seed[place] for place in order] for of_seed in reversed(blocks[0].values)]),
        Block(list(reversed(blocks[1].values)), blocks[1].clusters),
    ]
    assert crossed_mean(turned[::-1]).ci == pytest.approx(found.ci)
    mirrored = crossed_mean(
        [Block([[-value for value in of_seed] for of_seed in block.values], block.clusters) for block in blocks]
    )
    assert mirrored.mean == -found.mean and mirrored.p == pytest.approx(found.p)
    assert mirrored.ci == pytest.approx((-found.ci[1], -found.ci[0]))


def test_each_block_counts_alike():
    few, many = Block([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]), Block([[0.0] * 100] * 3)
    found = crossed_mean([few, many])
    assert found.mean == pytest.approx((2 / 3 + 0) / 2) and found.num_items == 102
    parts = [crossed_mean([block]) for block in (few, many)]
    below = [part.mean - part.ci_items[0] for part in parts]
    assert found.mean - found.ci_items[0] == pytest.approx(math.hypot(*below) / 2)
    # Half of few's spread, since many has none.
    assert found.seed_sd == pytest.approx(parts[0].seed_sd / 2)


def test_p_is_where_the_interval_ends_at_zero():
    for number in range(15):
        found = crossed_mean([Block(flips(number, num_items=30, gained=0.15, lost=0.05))])
        assert (found.p < 0.05) == (not found.ci[0] <= 0 <= found.ci[1])
    even = crossed_mean([Block([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])])
    assert even.mean == 0 and even.p == 1


def test_it_stays_on_the_scale():
    wild = crossed_mean([Block([[1.0] * 20, [-1.0] * 20])])
    assert wild.ci == (-1, 1)


@pytest.mark.parametrize(
    "blocks",
    [
        [],
        [Block([])],
        [Block([[]])],
        [Block([[1.0, 0.0], [1.0]])],
        [Block([[1.0, 0.0]], ["a"])],
        [Block([[1.0]]), Block([[1.0], [1.0]])],
    ],
)
def test_values_that_are_not_crossed_are_refused(blocks):
    with pytest.raises(ValueError, match="pair seeds and items first"):
        crossed_mean(blocks)


def test_the_bootstrap_resamples_seeds_and_items():
    # Items alone vary: as a bootstrap of items; seeds alone: two seeds give their means and the middle.
    items = Block([[1.0, 0.0] * 50] * 2)
    low, high = two_way_bootstrap([items])
    assert (low, high) == pytest.approx((0.4, 0.6), abs=0.02)
    assert two_way_bootstrap([Measures([[0.25] * 30, [0.75] * 30])]) == (0.25, 0.75)
    assert two_way_bootstrap([items], seed=1) == two_way_bootstrap([items], seed=1)
    # A cluster is drawn as a whole.
    clustered = two_way_bootstrap([Block(items.values, [place % 2 for place in range(100)])])
    assert clustered == (0, 1)


def test_figures_that_a_seed_has_once():
    assert seeds_interval([1.0]) is None
    half = T_2 * 1.0 / math.sqrt(3)
    assert seeds_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - half, 2 + half), rel=1e-5)
    assert seeds_interval([1.0, 2.0, 3.0], 0.0, 3.5) == (0.0, 3.5), "a share is never above 1"


def test_with_three_seeds_it_holds_the_truth_and_the_others_do_not():
    """`python -m tests.performance.seed_coverage` has all cells, with more repeats."""
    held = dict(zip(METHODS, simulate(30, 3, 10.0, repeats=90, seed=1, between=True).held, strict=True))
    assert held["items and seeds"] >= 0.93
    assert held["two-way bootstrap"] < 0.93 and held["items alone"] < 0.85 and held["pooled"] < 0.8
    assert simulate(30, 3, 0.0, repeats=50, seed=1).held[0] >= 0.93
