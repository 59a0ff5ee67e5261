"""Reward statistics, by hand."""

import itertools

import pytest

from data.sampling.rewards import add_gold, pass_at_k, reward_statistics


def completion(reward, text="t", tokens=2, finish_reason="stop", outcome="correct", **more):
    return {
        "text": text,
        "token_ids": [1] * tokens,
        "finish_reason": finish_reason,
        "reward": reward,
        "outcome": outcome,
        **more,
    }


def record(*completions, held_out=False):
    return {"id": "p", "held_out": held_out, "item": {}, "completions": list(completions)}


def test_statistics_by_hand():
    found = reward_statistics(
        [
            record(completion(1.0, "a"), completion(1.0, "a", tokens=4)),
            record(completion(0.0, "a"), completion(1.0, "b", finish_reason="length")),
            record(completion(0.0, "a"), completion(0.0, "b")),
            record(completion(1.0, "c", gold=0.0), held_out=True),
        ]
    ).to_json()
    assert (found["num_prompts"], found["num_samples"], found["num_labels"], found["num_tokens"]) == (3, 6, 6, 14)
    assert found["reward_mean"] == 0.5 and found["reward_best"] == pytest.approx(2 / 3)
    assert found["pass_at_k"] == {"1": 0.5, "2": pytest.approx(2 / 3)}
    assert (found["all_right"], found["all_wrong"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert found["distinct"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert found["tokens"] == pytest.approx(14 / 6) and found["unterminated"] == pytest.approx(1 / 6)
    assert found["gold_mean"] is None and found["held_out"]["gold_mean"] == 0.0 and found["held_out"]["reward_mean"] == 1.0


def test_pass_at_k_is_the_share_of_draws_with_a_right_one():
    labels = [1, 1, 0, 0, 0]
    for k in (1, 2, 4):
        draws = list(itertools.combinations(labels, k))
        assert pass_at_k(5, 2, k) == pytest.approx(sum(any(draw) for draw in draws) / len(draws))
    assert pass_at_k(5, 5, 1) == 1 and pass_at_k(5, 0, 5) == 0


def test_what_has_no_reward_or_no_right_scale_says_nothing_of_it():
    found = reward_statistics([record(completion(0.0, outcome="error"), completion(1.0))]).to_json()
    assert found["num_samples"] == 2 and found["num_labels"] == 1 and found["pass_at_k"] == {"1": 1.0}
    found = reward_statistics([record(completion(7.0, outcome="own_scale"), completion(None, outcome="unrated"))]).to_json()
    assert found["reward_mean"] == 7.0 and found["pass_at_k"] is None and found["all_right"] is None
    found = reward_statistics([record(completion(0.5, outcome="rated", raw_reward=3.0))]).to_json()
    assert found["reward_mean"] == 3.0 and found["pass_at_k"] is None


def test_gold_is_the_benchmarks_verdict_of_held_out_samples_alone():
    item = {"id": "x", "a": 12, "b": 30, "answer": 30}
    records = [
        {**record(completion(0.9, "30"), completion(0.9, "12"), held_out=True), "item": item},
        {**record(completion(0.9, "30")), "item": item},
    ]
    add_gold(records, "number_comparison")
    assert [one["gold"] for one in records[0]["completions"]] == [1.0, 0.0]
    assert "gold" not in records[1]["completions"][0]
