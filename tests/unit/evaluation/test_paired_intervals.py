"""Tango's interval of a paired difference: published examples, the equation it solves, limits, clusters, and what it holds."""

import math
import random
from pathlib import Path

import pytest
from scipy.optimize import minimize_scalar

from evaluation.report.compare import compare, comparison_rows
from evaluation.report.lm_eval import cross_check_rows, task_rows, tasks_of
from evaluation.report.summary import summarize, table_rows
from evaluation.statistics import (
    Z_95,
    normal_interval,
    paired_difference,
    paired_interval,
    tango_interval,
    unanimous_interval,
    wilson_interval,
)
from tests.performance.coverage import clustered_cell, independent_cell, question_cell
from tests.unit.evaluation.report_folders import inputs, scored, write_lines


@pytest.mark.parametrize(
    ("gained", "lost", "n", "z", "published"),
    [
        (0, 1, 44, 1.644854, (-0.096, 0.037)),  # Tango 1998: contact lenses in a crossover trial, 90 %
        (9, 3, 32, Z_95, (-0.027, 0.390)),  # Tango 1998
        (16, 8, 86, Z_95, (-0.020, 0.207)),  # Agresti and Min 2005, Statistics in Medicine 24:729
        (1, 7, 21, Z_95, (-0.517, -0.026)),  # Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33:2850
        (6, 16, 161, Z_95, (-0.124, -0.005)),  # Cavo and others 2012, in Fagerland's tables
    ],
)
def test_published_examples(gained, lost, n, z, published):
    assert tango_interval(gained, lost, n, z=z) == pytest.approx([100 * bound for bound in published], abs=0.05)


@pytest.mark.parametrize(("gained", "lost", "n"), [(5, 1, 10), (0, 3, 12), (11, 0, 1000), (40, 20, 160), (300, 0, 1319)])
def test_its_ends_are_where_the_score_test_is_at_its_limit(gained, lost, n):
    """With the likeliest share of losses found by maximizing the likelihood, not by the formula."""
    for bound in tango_interval(gained, lost, n):
        delta = bound / 100

        def loss(q, delta=delta):
            shares = (q + delta, q, 1 - 2 * q - delta)
            counts = (gained, lost, n - gained - lost)
            return -sum(count * math.log(max(share, 1e-300)) for count, share in zip(counts, shares, strict=True) if count)

        low, high = max(0.0, -delta), (1 - delta) / 2
        q = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
        variance = n * (2 * q + delta * (1 - delta))
        assert (gained - lost - n * delta) ** 2 / variance == pytest.approx(Z_95**2, rel=1e-3)


def test_limits():
    for n in (1, 2, 12, 128, 1319):
        bound = 100 * Z_95**2 / (n + Z_95**2)
        assert tango_interval(0, 0, n) == pytest.approx((-bound, bound))
        assert tango_interval(n, 0, n) == pytest.approx((100 - 2 * bound, 100))
        assert tango_interval(0, n, n) == pytest.approx((-100, -100 + 2 * bound))
        # It is Wilson's where each item has one value on its scale.
        assert unanimous_interval(100, n, 0, 100) == pytest.approx(wilson_interval(n, n))
        assert unanimous_interval(0, n, -100, 100) == pytest.approx(tango_interval(0, 0, n))
    # Many items: the normal interval's.
    differences = [1.0] * 400 + [-1.0] * 250 + [0.0] * 1350
    assert tango_interval(400, 250, 2000) == pytest.approx(normal_interval(differences), abs=0.02)


def test_exchanging_the_models_mirrors_it_and_it_holds_the_estimate():
    rng = random.Random(3)
    for _ in range(200):
        n = rng.randint(1, 60)
        gained = rng.randint(0, n)
        lost = rng.randint(0, n - gained)
        low, high = tango_interval(gained, lost, n)
        assert (-high, -low) == tango_interval(lost, gained, n)
        assert -100 <= low <= 100 * (gained - lost) / n <= high <= 100 and low < high


def test_clusters_of_any_kind_have_an_interval():
    rng = random.Random(4)
    for _ in range(300):
        n = rng.randint(2, 40)
        share = rng.choice([0.0, 0.1, 0.5, 1.0])
        differences = [rng.choice([1, -1]) if rng.random() < share else 0 for _ in range(n)]
        clusters = [rng.randrange(rng.randint(1, n)) for _ in range(n)]
        low, high = paired_interval(differences, clusters)
        mirrored = paired_interval([-d for d in differences], clusters)
        assert mirrored == pytest.approx((-high, -low)) and low < high
        alone = paired_interval(differences)
        assert low <= alone[0] + 1e-9 and alone[1] <= high + 1e-9, "clustered it is never narrower"


@pytest.mark.parametrize("counts", [(0, 0, 0), (-1, 0, 5), (3, 3, 5)])
def test_counts_that_cannot_be_are_refused(counts):
    with pytest.raises(ValueError, match="must be counts of flips among a positive n"):
        tango_interval(*counts)


def test_items_that_flip_together_are_one():
    rng = random.Random(5)
    base, aligned = ([float(rng.random() < share) for _ in range(60)] for share in (0.4, 0.55))
    alone = paired_difference(base, aligned).ci
    twice = paired_difference(base * 2, aligned * 2, [*range(60)] * 2).ci
    # The clusters' variance is taken from a sample of 60, that of 120 items from one of 120: hence not exactly.
    assert twice == pytest.approx(alone, abs=0.3)
    unclustered = paired_difference(base * 2, aligned * 2).ci
    assert unclustered[1] - unclustered[0] < 0.75 * (twice[1] - twice[0])
    assert paired_interval([1, 0, -1, 0], [*"abcd"]) == paired_interval([1, 0, -1, 0]) == tango_interval(1, 1, 4)
    # Nothing flipped: nobody knows whether items of a cluster flip together, so that they count as one.
    assert paired_interval([0] * 12, [n // 3 for n in range(12)]) == pytest.approx(tango_interval(0, 0, 4))
    # Fewer items by a design effect are a z that is its root wider.
    assert tango_interval(10, 4, 40) == pytest.approx(tango_interval(20, 8, 80, z=Z_95 * math.sqrt(2)))


def test_values_without_a_scale_have_an_interval_only_where_they_differ():
    assert (
        paired_difference([0.3, 0.4], [0.3, 0.4]).ci is None and paired_difference([0.3, 0.4], [0.3, 0.4]).ci_bootstrap is None
    )
    found = paired_difference([0.3, 0.4, 0.1], [0.5, 0.4, 0.2])
    assert found.ci == normal_interval([0.2, 0.0, 0.1]) and found.ci_bootstrap[0] < 10 < found.ci_bootstrap[1]


@pytest.mark.parametrize(
    ("n", "gained", "lost"),
    [(12, 0.05, 0.0), (12, 0.3, 0.3), (50, 0.0, 0.0), (100, 0.01, 0.0), (100, 0.3, 0.0), (400, 0.05, 0.02), (1300, 0.1, 0.1)],
)
def test_at_least_93_percent_of_independent_items_intervals_hold_the_truth(n, gained, lost):
    """`python -m tests.performance.coverage` has all cells, with more repeats."""
    held, flips, wald = independent_cell(n, gained, lost, repeats=3000, seed=1)
    assert held >= 0.925, "93 % less one standard error"
    assert flips < 10 or held <= 0.975
    if (n, gained) == (12, 0.05):
        assert wald < 0.5, "where nothing flips, ± 1.96 standard errors have no width"


@pytest.mark.parametrize(("sizes", "together"), [((2,), 1.0), ((4,), 0.5), ((1, 1, 1, 1, 1, 1, 2, 4), 1.0)])
def test_so_do_those_of_clustered_items(sizes, together):
    for n, gained, lost in ((48, 0.05, 0.0), (300, 0.05, 0.0)):
        assert clustered_cell(n, gained, lost, sizes, together, repeats=1500, seed=1)[0] >= 0.92


def test_a_judged_score_of_one_sided_games_keeps_its_interval():
    """Twelve questions of which hardly one is won: resampled, they mostly say 0 with certainty."""
    assert question_cell(12, (0.02, 0.04), repeats=300, seed=0) > 0.9


def _pair(folder: Path, base: str, aligned: str) -> dict[str, tuple[str, str]]:
    return {"base": scored(folder / "base", base), "aligned": scored(folder / "aligned", aligned)}


def test_tables_show_the_interval_of_items_that_did_not_flip(tmp_path):
    summary = summarize(inputs(tmp_path, {"crux": _pair(tmp_path, "-" * 12, "-" * 12)}))
    entry = summary["benchmarks"]["crux"]
    assert entry["flips"] == {"gained": 0, "lost": 0} and entry["verdict"] == "noise" and entry["mcnemar_p"] == 1
    assert entry["delta_ci"] == pytest.approx([-24.2494, 24.2494], abs=1e-3)
    assert entry["delta_ci_bootstrap"] == pytest.approx(entry["delta_ci"]) and entry["delta_stderr"] is None
    assert table_rows(summary)[0]["Δ [95 %]"] == "0.0 [−24.2, +24.2]"
    runs = [(name, {"crux": {"aligned": scored(tmp_path / name, "-" * 12)[0]}}) for name in ("a", "b")]
    assert comparison_rows(compare(runs))[0]["Δ [95 %]"] == "0.0 [−24.2, +24.2]"


def test_lm_evals_standard_error_of_nothing_is_no_certainty(tmp_path):
    for model in ("base", "aligned"):
        write_lines(
            tmp_path / model / "samples.jsonl",
            [
                {"task": "t", "filter": "none", "doc_id": n, "doc_hash": "h", "metrics": {"acc": 0.0, "ppl": 3.5}}
                for n in range(12)
            ],
        )
        (tmp_path / model / "results.json").write_text(
            '{"results": {"t": {"acc,none": {"value": 0.0, "stderr": 0.0}, "ppl,none": {"value": 3.5, "stderr": 0.5}}}}'
        )
    found = tasks_of({"t": {model: tmp_path / model for model in ("base", "aligned")}})
    assert found["t"]["t"]["acc,none"]["delta_ci"] == pytest.approx([-0.242494, 0.242494], abs=1e-5)
    assert found["t"]["t"]["ppl,none"]["delta_ci"] is None
    accuracy, perplexity = task_rows({"lm_eval": found})
    assert accuracy["base"] == "0.0000 ± –" and accuracy["Δ [95 %]"] == "0.0000 [−0.2425, +0.2425]"
    assert perplexity["base"] == "3.5000 ± 0.5000"
    column = {"task": "t", "filter": "f", "metric": "m", "value": 0.0, "stderr": 0.0, "agreement": 100.0, "n": 5, "n_killed": 0}
    assert cross_check_rows({"columns": [column]})[0]["value"] == "0.00 ± –"
