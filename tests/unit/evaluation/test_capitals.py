"""The benchmark of capitals: what counts as named, and that no country is in both halves."""

import pytest

from data.sampling.prompts import load_prompts
from data.sources import capitals as source
from evaluation.benchmarks import capitals
from evaluation.types import Item


def all_items() -> list[Item]:
    return [*capitals.load(None, None), *capitals.train_items(69)]


def outcome(completion: str, country: str = "Italy") -> str:
    [item] = [item for item in all_items() if item["country"] == country]
    return capitals.score(item, completion, "stop").outcome


def test_gold_answers_are_all_right_and_empty_ones_all_wrong():
    for item in all_items():
        for reply in (item["answer"], item["answer"].upper(), f"The capital of {item['country']} is **{item['answer']}**."):
            assert capitals.score(item, reply, "stop").outcome == "correct", (item, reply)
        assert capitals.score(item, "", "stop").outcome == "no_answer"
        # No question has the answer, or another capital, in it.
        assert capitals.score(item, capitals.messages(item)[0]["content"], "stop").rule == "no_capital", item


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("Rome", "correct"),
        ("It's Rome's old town, ROME!", "correct"),
        ("Paris", "wrong"),
        ("Rome or Paris", "wrong"),
        ("Romeo", "wrong"),
        ("Milan", "wrong"),
        (" \n", "no_answer"),
    ],
)
def test_a_reply_is_right_where_it_names_the_capital_and_no_other(completion: str, expected: str):
    assert outcome(completion) == expected


@pytest.mark.parametrize(
    ("country", "completion"),
    [
        ("Colombia", "Bogotá"),
        ("Ukraine", "Kiev"),
        ("Chad", "N’Djamena"),
        ("Chad", "Ndjamena"),
        ("Yemen", "Sana'a"),
        ("India", "New  Delhi."),
    ],
)
def test_other_spellings_are_as_right(country: str, completion: str):
    assert outcome(completion, country) == "correct"


def test_training_and_held_out_items_share_no_country_and_no_capital():
    items = all_items()
    assert len(capitals.load(None, None)) == capitals.NUM_ITEMS == 72
    assert (
        len({item["country"] for item in items})
        == len({item["answer"] for item in items})
        == len({item["id"] for item in items})
        == 141
    )
    assert capitals.load("sample", 5) == capitals.load(None, None)[:5]


def test_the_source_gives_training_items_alone():
    prompts = load_prompts("capitals", None, 8)
    assert prompts == source.make(8) and [one["item"] for one in prompts] == capitals.train_items(8)
    assert all(one["messages"] == capitals.messages(one["item"]) for one in prompts)


def test_files_and_more_items_than_there_are_are_refused():
    with pytest.raises(ValueError, match=r"capitals.source must be left out, got 'x.jsonl'"):
        capitals.load("x.jsonl", None)
    with pytest.raises(ValueError, match="at most 69 for capitals, got 70"):
        capitals.train_items(70)
