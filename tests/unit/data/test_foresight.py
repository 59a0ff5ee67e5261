"""What is foreseen of pairs is what preparation then makes, whatever the sources give."""

from dataclasses import replace

import pytest

from data.preparing.config import PrepareConfig, RatingRule
from data.preparing.foresight import gives_pairs
from data.reading.records import DataSource
from data.sources import KINDS, load_preferences
from tasks.keys import ROOT
from tests.unit.data.helpers import needs_model, prepare, write_rows

ALL = PrepareConfig(pairing="all")
PAIR = {"prompt": "p", "chosen": "yes", "rejected": "no"}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]


def thumb(prompt, text, label):
    return {"prompt": prompt, "completion": text, "label": label}


def rated(prompt, *ratings):
    return {"prompt": prompt, "completions": [f"c{n}" for n, _ in enumerate(ratings)], "ratings": list(ratings)}


def test_every_source_of_preferences_says_what_it_gives():
    for path in ROOT.joinpath("data", "sources").glob("[!_]*.py"):
        if "\ndef row(" in path.read_text(encoding="utf-8"):
            assert load_preferences(path.stem).GIVES in KINDS


CASES = {
    "pairs": ([("pairs", [PAIR])], ALL, [True]),
    "thumbs of different prompts": ([("thumbs", [thumb("p", "a", True), thumb("q", "b", False)])], ALL, [False]),
    "thumbs of one prompt": ([("thumbs", [thumb("p", "a", True), thumb("p", "b", False)])], ALL, [True]),
    "thumbs of one prompt, all up": ([("thumbs", [thumb("p", "a", True), thumb("p", "b", True)])], ALL, [False]),
    "thumbs without pairing": (
        [("thumbs", [thumb("p", "a", True), thumb("p", "b", False)])],
        PrepareConfig(pairing="none"),
        [False],
    ),
    "two sources, a side each": (
        [("thumbs", [thumb("p", "a", True)]), ("thumbs", [thumb("p", "b", False)])],
        ALL,
        [True, True],
    ),
    "thumbs of one question with other tools": (
        [("thumbs", [thumb("p", "a", True) | {"tools": TOOLS}, thumb("p", "b", False)])],
        ALL,
        [False],
    ),
    "ratings": ([("ratings", [rated("p", 1, 2)])], ALL, [True]),
    "equal ratings": ([("ratings", [rated("p", 2, 2)])], ALL, [False]),
    "ratings all above the threshold": (
        [("ratings", [rated("p", 4, 5)])],
        PrepareConfig(pairing="all", ratings=RatingRule(threshold=3)),
        [False],
    ),
    "ratings one by one": (
        [("helpsteer", [{"prompt": "p", "response": text, "helpfulness": n} for n, text in enumerate("ab")])],
        PrepareConfig(pairing="best_worst"),
        [True],
    ),
    "rewards that are too near": ([("ratings", [rated("p", 1, 2)])], PrepareConfig(pairing="all", min_reward_gap=2), [False]),
}


@needs_model
@pytest.mark.parametrize(("given", "config", "expected"), CASES.values(), ids=CASES)
def test_what_is_foreseen_comes_true(tmp_path, given, config, expected):
    paths = [(source, write_rows(tmp_path / f"{number}.jsonl", rows)) for number, (source, rows) in enumerate(given)]
    assert gives_pairs([DataSource(source, str(path)) for source, path in paths], config, 100) == expected
    try:
        groups, _, _ = prepare(tmp_path / "out", *paths, config=replace(config, max_dropped_share=1.0))
    except ValueError:
        groups = []  # nothing is left: no pair either
    assert any(group.pairs for group in groups) == any(expected)


@needs_model
def test_a_source_of_a_mixture_that_is_foreseen_to_give_no_pair_gives_none(tmp_path):
    pairs, thumbs = write_rows(tmp_path / "0.jsonl", [PAIR]), write_rows(tmp_path / "1.jsonl", [thumb("q", "b", False)])
    assert gives_pairs([DataSource("pairs", str(pairs)), DataSource("thumbs", str(thumbs))], ALL, 100) == [True, False]
    with pytest.raises(ValueError, match=r"data\.1 must give rows, got 1 that are all lost"):
        prepare(tmp_path / "out", ("pairs", pairs), ("thumbs", thumbs), config=replace(ALL, max_dropped_share=1.0))


def test_of_a_long_source_the_first_rows_do_not_tell(tmp_path):
    rows = [thumb(f"p{n}", "a", True) for n in range(50)]
    path = write_rows(tmp_path / "t.jsonl", [*rows, thumb("p0", "b", False)])
    source = DataSource("thumbs", str(path))
    assert gives_pairs([source], ALL, 20) == [None]
    assert gives_pairs([source], ALL, 51) == [True]
