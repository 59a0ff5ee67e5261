"""The ratings labeler: rewards from a file, and labels from them by the recipe's rule."""

import json

import pytest

from data.labelers import ratings
from data.preparing.config import PrepareConfig, RatingRule
from data.preparing.prepare import prepare_labelled
from tests.unit.data.helpers import ledger, texts, write_rows
from tests.unit.evaluation.fake_engine import no_progress


@pytest.fixture
def samples(tmp_path):
    completions = [{"text": text, "token_ids": [5, 2], "finish_reason": "stop"} for text in "abc"]
    completions.append({"text": "cut", "token_ids": [5], "finish_reason": "length"})
    records = [
        {
            "id": id,
            "messages": [{"role": "user", "content": id}],
            "prompt_ids": [1],
            "item": {},
            "held_out": False,
            "completions": completions,
        }
        for id in ("p0", "p1")
    ]
    return write_rows(tmp_path / "samples.jsonl", records)


def _label(samples, path):
    out = samples.with_name("labelled.jsonl")
    ratings.label(samples, out, benchmark="", path=path, progress=no_progress)
    return out


def test_ratings_become_rewards_and_labels(tmp_path, samples):
    rated = [("p0", "a", 5), ("p0", "b", 1.5), ("p0", "cut", 9), ("p1", "c", 2), ("p1", "c", 2)]
    path = write_rows(
        tmp_path / "rated.jsonl", [{"id": id, "completion": text, "rating": rating} for id, text, rating in rated]
    )
    labelled = _label(samples, path)
    first = json.loads(labelled.read_text().splitlines()[0])["completions"]
    assert [(one["reward"], one["outcome"]) for one in first] == [
        (5.0, "own_scale"),
        (1.5, "own_scale"),
        (None, "unrated"),
        (9.0, "own_scale"),
    ]
    config = PrepareConfig(ratings=RatingRule(threshold=3), max_dropped_share=1)
    prepare_labelled(labelled, tmp_path / "out", config, progress=no_progress)
    assert texts(tmp_path / "out") == {"p0": [("a", 1), ("b", -1)], "p1": [("c", -1)]}
    left_out = [(row["id"], row["completion"], row["outcome"]) for row in ledger(tmp_path / "out")[0] if "completion" in row]
    assert left_out == [
        *[("p0", 2, "unrated"), ("p0", 3, "unterminated")],
        *[("p1", 0, "unrated"), ("p1", 1, "unrated"), ("p1", 3, "unrated")],
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "p0", "completion": "a"}], "label.path must hold ratings, got line 1 of .* must have rating, got no rating"),
        (
            [{"id": "p0", "completion": "a", "rating": r} for r in (1, 2)],
            "rate a completion once, got 1 on line 1 and 2 on line 2",
        ),
        ([{"id": "p9", "completion": "a", "rating": 1}], "must rate this run's samples, got 'a' of p9 on line 1"),
    ],
)
def test_ratings_that_fit_nothing_are_refused(tmp_path, samples, rows, message):
    with pytest.raises(ValueError, match=message):
        _label(samples, write_rows(tmp_path / "rated.jsonl", rows))
