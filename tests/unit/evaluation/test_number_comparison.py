"""The quick start's own benchmark: its pairs, and what counts as right."""

import pytest

from evaluation.benchmarks import number_comparison


def test_training_and_held_out_pairs_are_disjoint_whatever_their_order():
    held_out = number_comparison.load(None, None)
    assert len(held_out) == number_comparison.NUM_ITEMS == len({item["id"] for item in held_out})
    pairs = {frozenset((item["a"], item["b"])) for item in held_out}
    assert len(pairs) == 128
    everything = number_comparison.train_items(90 * 89 // 2 - 128)
    others = {frozenset((item["a"], item["b"])) for item in everything}
    assert len(others) == len(everything) and not pairs & others
    assert all(10 <= item["a"] <= 99 and 10 <= item["b"] <= 99 and item["a"] != item["b"] for item in everything)
    assert all(item["answer"] == max(item["a"], item["b"]) for item in held_out)


def test_number_comparison_items_are_always_the_same_and_the_larger_comes_first_half_of_the_time():
    assert number_comparison.load(None, 5) == number_comparison.load("sample", None)[:5]
    assert number_comparison.train_items(64) == number_comparison.train_items(128)[:64]
    assert number_comparison.train_items(64, 1) != number_comparison.train_items(64)
    assert 45 < sum(item["a"] > item["b"] for item in number_comparison.load(None, None)) < 83


def test_number_comparison_refuses_files_and_more_pairs_than_there_are():
    with pytest.raises(ValueError, match=r"number_comparison.source must be left out, got 'x.jsonl'"):
        number_comparison.load("x.jsonl", None)
    with pytest.raises(ValueError, match="at most 3877 for number_comparison, got 3878"):
        number_comparison.train_items(3878)


@pytest.mark.parametrize(
    ("text", "finish_reason", "outcome", "rule"),
    [
        ("47", "stop", "correct", "only_number"),
        ("The answer is 47, as 047 shows.", "stop", "correct", "only_number"),
        ("47.", "stop", "correct", "only_number"),
        ("47.0", "stop", "correct", "only_number"),
        ("**47**", "stop", "correct", "only_number"),
        ("- 47", "stop", "correct", "only_number"),  # a list of one
        ("-47", "stop", "wrong", "only_number"),
        ("−47", "stop", "wrong", "only_number"),
        ("47.5", "stop", "wrong", "only_number"),
        ("0.47", "stop", "wrong", "only_number"),
        ("470", "stop", "wrong", "only_number"),
        ("47-31", "stop", "wrong", "several_numbers"),
        ("31", "stop", "wrong", "only_number"),
        ("47 is larger than 31", "stop", "wrong", "several_numbers"),
        ("Between 31 and 47 it is 47.", "stop", "wrong", "several_numbers"),
        ("47", "length", "wrong", "unterminated"),
        ("47", "", "correct", "only_number"),
        ("The first", "stop", "no_answer", "none"),
        ("The first", "length", "no_answer", "none"),
        ("1" * 6000, "stop", "wrong", "only_number"),
    ],
)
def test_number_comparison_takes_a_reply_with_the_larger_number_alone_in_a_turn_that_ended(text, finish_reason, outcome, rule):
    verdict = number_comparison.score({"a": 31, "b": 47, "answer": 47}, text, finish_reason)
    assert (verdict.outcome, verdict.rule) == (outcome, rule)
    assert number_comparison.messages({"a": 31, "b": 47}) == [
        {"role": "user", "content": "Which number is larger, 31 or 47? Reply with only the number."}
    ]
