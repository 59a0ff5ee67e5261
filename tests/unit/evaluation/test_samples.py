"""Several samples of each item: pass@k, votes and intervals by hand, and that one sample gives today's numbers."""

import itertools
import json
import math
import random

import pytest

from evaluation.benchmarks import gsm8k, ifeval
from evaluation.paired import compare_scores, correct_and_judge, holm_p, read_scores
from evaluation.report.compare import compare, compared_at_k_rows
from evaluation.report.samples import compare_at_k
from evaluation.samples import (
    interval_around,
    majority,
    mean_interval,
    merged,
    numbers_of_samples,
    pass_at_k,
    values_at,
    votes,
)
from evaluation.scoring.score import aggregate, score_completions, score_folder, score_records
from evaluation.statistics import Z_95 as Z
from evaluation.statistics import tango_interval, wilson_interval
from tests.unit.evaluation.report_folders import write_lines

ITEMS = [{"id": f"i{n}", "question": f"{n}?", "answer": "2"} for n in range(3)]


def completion(item, sample, answer, tokens=10):
    text = "no idea" if answer is None else json.dumps({"answer": answer})
    return {
        "id": f"i{item}",
        "sample": sample,
        "completion": text,
        "finish_reason": "stop",
        "num_completion_tokens": tokens,
    }


def completions(*answers):
    """Of each item its samples' answers."""
    return [completion(item, n, answer) for item, of in enumerate(answers) for n, answer in enumerate(of)]


def scored(*answers):
    return score_records("gsm8k", ITEMS, completions(*answers))


# pass@k


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_pass_at_k_is_the_share_of_all_draws_with_a_right_one(n):
    for right, k in itertools.product(range(n + 1), range(1, n + 1)):
        draws = list(itertools.combinations([place < right for place in range(n)], k))
        assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize("n", [3, 16, 64, 1000])
def test_pass_at_k_never_falls_as_k_grows_nor_do_the_means(n):
    rng = random.Random(n)
    items = [rng.randint(0, n) for _ in range(30)]
    for right in items:
        values = [pass_at_k(n, right, k) for k in range(1, n + 1)]
        assert values == sorted(values) and values[0] == pytest.approx(right / n) and values[-1] == float(right > 0)
    means = [math.fsum(pass_at_k(n, right, k) for right in items) / 30 for k in numbers_of_samples(n)]
    assert means == sorted(means)


def test_k_are_the_powers_of_two_and_the_number_of_samples():
    assert [numbers_of_samples(n) for n in (1, 2, 3, 6, 16)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 6], [1, 2, 4, 8, 16]]


# votes and the majority


@pytest.mark.parametrize("benchmark", ["mmlu_redux", "mmlu_redux_2"])
def test_votes_for_a_letter_are_one_however_it_is_written(benchmark):
    """Gold B has two votes of five, C three: wrong votes count together as right ones do."""
    items = [{"id": "i0", "question": "?", "choices": ["Rome", "Paris", "London"], "answer": "B"}]
    written = ["C", "C) London", "It is C) London.", "B", "B) Paris"]
    records = score_records(benchmark, items, [completion(0, n, answer) for n, answer in enumerate(written)])
    assert [record["outcome"] for record in records] == ["wrong"] * 3 + ["correct"] * 2
    assert [record["votes"] for record in records] == [3, 3, 3, 2, 2] and majority(records) == 0
    # Two letters at once are right for either, and so are no vote for one of them alone.
    both = ["A) or C)", "C", "C) or A)", "A", "Rome"]
    records = score_records(benchmark, items, [completion(0, n, answer) for n, answer in enumerate(both)])
    assert [record["votes"] for record in records] == [2, 1, 2, 1, 1]


def test_votes_count_who_has_the_same_answer():
    # Right answers are one, however they are written; a sample without an answer has no vote.
    answers, right = ["2", "2.0", "3", None, "3", "4"], [True, True, False, False, False, False]
    assert votes(answers, right, lambda one, other: one == other) == [2, 2, 2, 0, 2, 1]


def test_answers_are_the_same_by_the_benchmarks_own_rule_and_by_chains_of_it():
    def near(one, other):
        return abs(float(one) - float(other)) <= 1

    for order in itertools.permutations(["1", "2", "3", "9"]):
        found = dict(zip(order, votes(order, [False] * 4, near), strict=True))
        assert found == {"1": 3, "2": 3, "3": 3, "9": 1}
    # gsm8k compares numbers, so `$3` and `3.0` are one answer; crux drops quotes; math compares forms.
    assert [record["votes"] for record in scored(["$3", "3.0", "4"])] == [2, 2, 1]
    records = score_records("crux", [{"id": "i0", "answer": "'x'"}], completions(["'a'", "a", "b"]))
    assert [record["votes"] for record in records] == [2, 2, 1]
    texts = [{**completion(0, n, None), "completion": rf"\boxed{{{text}}}"} for n, text in enumerate((r"\frac12", "0.5", "3"))]
    records = score_records("math_500", [{"id": "i0", "answer": "7"}], texts)
    assert [record["votes"] for record in records] == [2, 2, 1]


@pytest.mark.parametrize(
    ("answers", "value"),
    [
        (["2", "2", "3"], 1.0),
        (["3", "3", "2"], 0.0),
        (["2", "3", "4"], 1 / 3),
        (["2", "3", None], 1 / 2),
        (["2", "2", "3", "3", "4"], 1 / 2),
        (["3", "4"], 0.0),
        ([None, None], 0.0),
        ([None, "2"], 1.0),
    ],
)
def test_the_majority_by_hand(answers, value):
    records = scored(answers)
    assert majority(records) == pytest.approx(value)
    assert majority(random.Random(0).sample(records, len(records))) == pytest.approx(value)


def test_answers_that_are_no_answers_have_no_majority(monkeypatch):
    assert not ifeval.HAS_MAJORITY, "its `answer` says how many instructions were followed"
    monkeypatch.setattr(gsm8k, "HAS_MAJORITY", False, raising=False)
    records = scored(["2", "2"])
    assert not any("votes" in record for record in records)
    assert set(aggregate("gsm8k", records, 1)["at_k"]) == {"pass@1", "pass@2"}


# the result of a benchmark


def test_a_result_by_hand():
    # Shares of right samples: 1, 1/4, 0.
    found = aggregate("gsm8k", scored(["2"] * 4, ["2", "3", "3", None], ["3", "3", "4", None]), 3)
    assert (found["n"], found["n_expected"], found["partial"], found["num_samples"]) == (3, 3, False, 4)
    assert found["accuracy"] == pytest.approx(100 * 5 / 12) and found["no_answer"] == pytest.approx(100 * 2 / 12)
    at_k = {name: one["value"] for name, one in found["at_k"].items()}
    # pass@2 of one right in four: 1 − C(3,2)/C(4,2) = 1/2. The majority is right on the first item alone.
    assert at_k == pytest.approx({"pass@1": 500 / 12, "pass@2": 50.0, "pass@4": 200 / 3, "maj@4": 100 / 3})
    # Over items, not over samples: the values 1, 1/4 and 0 have the mean 5/12 and the sample variance 0.2708.
    values = [1, 1 / 4, 0]
    error = math.sqrt(sum((value - 5 / 12) ** 2 for value in values) / 2 / 3)
    assert found["stderr"] == pytest.approx(100 * error)
    assert found["ci"] == [0.0, 100.0] and found["ci_method"] == "student, clustered by item"
    # Four items of one share each: 3/4, 1/2, 1/4 and 1/2 have the standard error √(1/24 / 4), and t of 3 degrees of freedom is 3.1824.
    items = [*ITEMS, {"id": "i3", "question": "3?", "answer": "2"}]
    four = completions(["2", "2", "2", "3"], ["2", "2", "3", "3"], ["2", "3", "3", "3"], ["2", "2", "3", "3"])
    found = aggregate("gsm8k", score_records("gsm8k", items, four), 4)
    assert found["ci"] == pytest.approx([50 - 318.24463 / math.sqrt(96), 50 + 318.24463 / math.sqrt(96)])


def test_groups_count_items_and_not_samples():
    items = [{**item, "level": "Level 5", "subject": "Algebra"} for item in ITEMS]
    found = aggregate("math_l5", score_records("math_l5", items, completions(["2", "3"], ["2", "2"], ["3", "3"])), 3)
    assert found["groups"]["subject"] == {"Algebra": {"n": 3, "accuracy": 50.0, "no_answer": 0.0}}


def test_the_order_of_samples_and_items_changes_nothing():
    records = scored(["2", "2", "3", "4"], ["2", "3", "3", None], ["3", "3", "4", None])
    mixed = random.Random(3).sample(records, len(records))
    one, other = (aggregate("gsm8k", sorted(given, key=lambda r: r["id"]), 3) for given in (records, mixed))
    assert {**one, "rules": 0} == {**other, "rules": 0}
    # The samples' numbers are names alone.
    renamed = [{**record, "sample": 3 - record["sample"]} for record in records]
    assert aggregate("gsm8k", renamed, 3) == one


def test_one_sample_of_each_item_gives_the_numbers_of_one_completion():
    plain = [{key: value for key, value in one.items() if key != "sample"} for one in completions(["2"], ["3"], [None])]
    found = aggregate("gsm8k", score_records("gsm8k", ITEMS, plain), 3)
    assert found["ci"] == list(wilson_interval(1, 3)) and found["ci_method"] == "wilson"
    assert not {"num_samples", "at_k", "sampling"} & found.keys()
    assert not any({"sample", "votes"} & record.keys() for record in score_records("gsm8k", ITEMS, plain))


def test_missing_samples_and_items_count_as_wrong():
    records = scored(["2", "2"], ["2"])
    found = aggregate("gsm8k", records, 4)
    assert (found["n"], found["missing"], found["partial"]) == (1, 3, True)
    assert found["accuracy"] == pytest.approx(100 * 3 / 8) and found["accuracy_of_present"] == 100
    assert found["at_k"]["pass@2"]["value"] == 50 and found["at_k"]["pass@1"]["value"] == pytest.approx(37.5)
    with pytest.raises(ValueError, match="samples 0 to 1 of each item of gsm8k, got 2"):
        aggregate("gsm8k", scored(["2", "2", "2"]), 1, 2)
    with pytest.raises(ValueError, match="at most 1 items of gsm8k, got 2"):
        aggregate("gsm8k", records, 1)


def test_intervals_of_means_stay_within_0_and_100_and_have_a_width_where_items_are_equal():
    assert mean_interval([0.0] * 29 + [0.5], range(30))[0] == 0.0
    low, high = mean_interval([1.0] * 30, range(30))
    assert high == 100 and low == pytest.approx(wilson_interval(30, 30)[0])
    # A third is no exact number: nothing but rounding is no spread.
    assert interval_around([2 / 3 - 1 / 3, 1 - 2 / 3, 1 / 3], range(3)) == pytest.approx(interval_around([1 / 3] * 3, range(3)))


# files


def test_a_file_with_several_samples_is_scored_and_its_faults_are_named(tmp_path):
    file = tmp_path / "completions.jsonl"
    write_lines(tmp_path / "items.jsonl", ITEMS)
    write_lines(file, completions(["2", "2"], ["2", "3"], ["3", "3"]))
    found = score_completions("gsm8k", file)
    assert found["accuracy"] == pytest.approx(50) and found["num_samples"] == 2 and found["partial"]
    # As other programs write what isn't there.
    write_lines(file, [{**completion(number, 0, "2"), "sample": None} for number in range(3)])
    assert score_completions("gsm8k", file)["accuracy"] == 100
    for lines, message in (
        ([completion(0, 0, "2"), completion(0, 0, "2")], "each sample of an id once, got 0 of 'i0' of line 1 again on line 2"),
        ([completion(0, 0, "2"), {**completion(1, 0, "2"), "sample": None}], "sample in all of its lines or in none"),
        ([completion(0, -1, "2")], "sample as a number from 0, got -1"),
        ([completion(0, True, "2")], "sample as a number from 0, got True"),
        ([completion(0, 10**9, "2")], "sample as a number below 100000, got 1000000000"),
    ):
        write_lines(file, lines)
        with pytest.raises(ValueError, match=message):
            score_completions("gsm8k", file)


def folder(tmp_path, name, *answers):
    items = [{**ITEMS[0], "id": f"i{n}", "question": f"{n}?"} for n in range(max(len(ITEMS), len(answers)))]
    write_lines(tmp_path / name / "items.jsonl", items)
    write_lines(tmp_path / name / "completions.jsonl", completions(*answers))
    sampling = {"num_samples": len(answers[0]), "temperature": 0.6, "top_p": 0.95}
    summary = score_folder("gsm8k", tmp_path / name, tmp_path / f"{name}-scores", source="hub", limit=None, sampling=sampling)
    assert summary["sampling"] == sampling
    return tmp_path / f"{name}-scores"


def test_two_models_are_paired_by_item(tmp_path):
    base = read_scores(folder(tmp_path, "base", ["2", "3"], ["3", "3"], ["2", "2"]))
    aligned = read_scores(folder(tmp_path, "aligned", ["2", "2"], ["2", "3"], ["2", "3"]))
    assert [base[id]["share"] for id in base] == [0.5, 0.0, 1.0]
    found = compare_scores(base, aligned)
    # Changes of 1/2, 1/2 and −1/2: a mean of 1/6 with the standard error √(1/3 / 3).
    error = 100 / 3
    assert found["delta"] == pytest.approx(100 / 6) and found["delta_stderr"] == pytest.approx(error)
    # With 2 degrees of freedom the p of t = 1/2 is 1 − t / √(2 + t²).
    assert found["delta_ci"] == [-100, 100], "differences end there"
    assert found["mcnemar_p"] is None and found["paired_p"] == pytest.approx(2 / 3)
    # More than half of an item's samples: the first item came to be right, the last one no longer is.
    assert found["flips"] == {"gained": 1, "lost": 1} and found["n_paired"] == 3
    correct_and_judge([found])
    assert holm_p(found) == found["paired_p"] and found["verdict"] == "noise" and found["mcnemar_p_holm"] is None
    by_k = compare_at_k(base, aligned, 2)
    assert by_k["pass@1"]["delta"] == pytest.approx(found["delta"])
    assert by_k["pass@1"]["delta_ci"] == pytest.approx(found["delta_ci"])
    # pass@2: 1, 0, 1 against 1, 1, 1; maj@2: 1/2, 0, 1 against 1, 1/2, 1/2.
    assert by_k["pass@2"]["delta"] == pytest.approx(100 / 3) and by_k["maj@2"]["delta"] == pytest.approx(100 / 6)


def test_three_items_alike_prove_nothing_and_twelve_do(tmp_path):
    """Of others a share of z² / (n + z²) may be otherwise, by as much as there can be; n signs alike have a chance of 2 / 2^n."""
    for number, share, p in ((3, Z**2 / (3 + Z**2), 0.25), (12, Z**2 / (12 + Z**2), 2 / 2**12)):
        base = read_scores(folder(tmp_path, f"base{number}", *[["2", "3", "3"]] * number))
        aligned = read_scores(folder(tmp_path, f"aligned{number}", *[["2", "2", "3"]] * number))
        found = compare_scores(base, aligned)
        ends = [100 * (1 / 3 - share * 4 / 3), 100 * (1 / 3 + share * 2 / 3)]
        assert found["delta"] == pytest.approx(100 / 3) and found["delta_ci"] == pytest.approx(ends) and found["paired_p"] == p
        same = compare_scores(base, base)
        assert same["delta"] == 0 and same["delta_ci"] == pytest.approx([-100 * share, 100 * share]) and same["paired_p"] == 1.0
    # Everything lost is a loss.
    whole = read_scores(folder(tmp_path, "whole", *[["2"] * 4] * 12))
    nothing = read_scores(folder(tmp_path, "nothing", *[["3"] * 4] * 12))
    lost = compare_scores(whole, nothing)
    correct_and_judge([lost])
    assert lost["delta"] == -100 and lost["verdict"] == "loss"


def test_the_interval_of_one_cluster_holds_its_mean():
    assert mean_interval([1.0, 0.0], "aa") == pytest.approx(mean_interval([0.0, 1.0], "aa"))
    low, high = mean_interval([1.0, 0.0], "aa")
    assert low < 50 < high and interval_around([1.0, 0.0], "aa") is None


def test_a_record_stands_for_an_items_samples():
    records = scored(["2", "3", None, None])
    for order in itertools.permutations(records):
        found = merged(order)
        assert (found["outcome"], found["share"], found["num_completion_tokens"]) == ("no_answer", 0.25, 10.0)
        assert [one["sample"] for one in found["samples"]] == [0, 1, 2, 3]
    assert merged(scored(["2", "2", "3"]))["outcome"] == "correct"
    assert merged(scored(["2", "3"]))["outcome"] == "wrong", "half of the samples are not more than half"
    assert values_at({"i0": found}, 4)["pass@2"]["i0"] == 0.5


def test_scores_with_an_item_or_a_sample_twice_are_refused(tmp_path):
    record = {
        "id": "i0",
        "outcome": "wrong",
        "answer": "3",
        "rule": "json",
        "finish_reason": "stop",
        "num_completion_tokens": 1,
    }
    for lines, message in (
        ([record, record], "each item once"),
        ([{**record, "sample": 1}] * 2, "each sample of an item once"),
        ([record, {**record, "sample": 1}], "each sample of an item once"),
    ):
        write_lines(tmp_path / "scores.jsonl", lines)
        with pytest.raises(ValueError, match=message):
            read_scores(tmp_path)


def test_an_interval_is_students_over_clusters():
    # 0.1, 0.2, 0.3: the standard error is 0.1 / √3, and t of 2 degrees of freedom is 4.3027.
    assert interval_around([0.1, 0.2, 0.3], "abc") == pytest.approx(
        [20 - 43.026527 / math.sqrt(3), 20 + 43.026527 / math.sqrt(3)]
    )
    # Items that ask the same are one of two clusters: √(2 · (0.1² + 0.1²)) / 3, and t of 1 degree is 12.7062.
    half = 12.7062047 * 100 * math.sqrt(2 * (0.1**2 + 0.1**2)) / 3
    assert interval_around([0.1, 0.2, 0.3], "aab") == pytest.approx([20 - half, 100.0])


def test_few_items_unlike_the_others_say_little_of_the_spread():
    """Right and wrong alone have Tango's and Wilson's intervals at least; shares narrower ones, and none is far from that of no change."""
    flip = [1.0] + [0.0] * 29
    assert interval_around(flip, range(30)) == pytest.approx(tango_interval(1, 0, 30))
    assert (
        mean_interval(flip, range(30))[1] == pytest.approx(wilson_interval(1, 30)[1]) and mean_interval(flip, range(30))[0] == 0
    )
    # One sample of 16 of one item: its variance is a 16th of a flip's of that mean, weighed 1 to 3.
    sample = interval_around([1 / 16] + [0.0] * 29, range(30))
    alone = 1 / 480 - 1 / 480**2
    factor = ((1 / 256 / 30 - 1 / 480**2) / alone + 3) / 4
    assert sample == pytest.approx(tango_interval(1 / 16, 0, 30, z=Z * math.sqrt(factor)), abs=1e-6)
    low, high = interval_around([0.0] * 30, range(30))
    assert low < sample[0] < -3 and 3 < sample[1] < high
    # Items that ask the same question are fewer items.
    wide = interval_around(flip, [n // 3 for n in range(30)])
    assert wide[0] < interval_around(flip, range(30))[0] and wide[1] > interval_around(flip, range(30))[1]


@pytest.mark.parametrize(("n", "chance"), [(12, 0.27), (30, 0.12), (30, 0.2)])
def test_intervals_of_right_and_wrong_hold_the_truth(n, chance):
    """All numbers of items gained, and none lost, by their chances: Student's intervals hold 87 to 89 % of the first two."""
    held = 0.0
    for gained in range(n + 1):
        low, high = interval_around([1.0] * gained + [0.0] * (n - gained), range(n))
        if low <= 100 * chance <= high:
            held += math.comb(n, gained) * chance**gained * (1 - chance) ** (n - gained)
    assert held > 0.95


def test_two_runs_are_compared_at_k(tmp_path):
    """pass@k and maj@k of two runs, over the items that both have; none where they have not as many samples."""
    runs = {}
    for name, answers in {"one": ("21", "33"), "two": ("22", "23"), "three": ("222", "333")}.items():
        write_lines(tmp_path / name / "generated" / "items.jsonl", ITEMS[:2])
        write_lines(tmp_path / name / "generated" / "completions.jsonl", completions(*answers))
        score_folder(
            "gsm8k",
            tmp_path / name / "generated",
            tmp_path / name / "scored",
            source="sample",
            limit=None,
            sampling={"num_samples": len(answers[0]), "temperature": 1.0, "top_p": 1.0},
        )
        runs[name] = {"gsm8k": {"aligned": tmp_path / name / "scored"}}
    result = compare([("one", runs["one"]), ("two", runs["two"]), ("three", runs["three"])])
    two, three = result["comparisons"]
    # pass@1: 1/2 → 1 and 0 → 1/2; pass@2: 1 → 1 and 0 → 1; the majority, by chance: 1/2 → 1 and 0 → 1/2.
    assert {figure: found["delta"] for figure, found in two["at_k_delta"].items()} == {"pass@1": 50, "pass@2": 50, "maj@2": 50}
    assert "at_k_delta" not in three
    assert [(row["run"], row["figure"]) for row in compared_at_k_rows(result)] == [
        ("two", figure) for figure in two["at_k_delta"]
    ]
