"""`data.limit` takes the first prompts with all of their rows, whoever renders them, and the ledger says what it leaves out."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from data.preparing.config import PrepareConfig
from data.preparing.foresight import gives_pairs
from data.preparing.limit import limited
from data.reading.records import DataSource, Reader
from tests.unit.data.helpers import LENIENT, needs_model, prepare, texts, write_rows

# Prompts in the order a b c a d b: the second row of `b` stands behind the first of `d`.
ROWS = [{"id": f"{name}{n}", "prompt": name, "chosen": f"yes {n}", "rejected": f"no {n}"} for n, name in enumerate("abcadb")]


def source(tmp_path, rows=ROWS, **given):
    return DataSource("pairs", str(write_rows(tmp_path / "p.jsonl", rows)), **given)


def taken(one):
    return [raw.line for raw in limited(Reader(one), one) if isinstance(raw.value, bytes)]


@pytest.mark.parametrize(("limit", "lines"), [(1, [1, 4]), (2, [1, 2, 4, 6]), (3, [1, 2, 3, 4, 6]), (9, [1, 2, 3, 4, 5, 6])])
def test_a_prompt_that_counts_keeps_all_of_its_rows(tmp_path, limit, lines):
    assert taken(source(tmp_path, limit=limit)) == lines


def test_rows_that_cannot_be_read_are_no_prompts_and_stay_in_sight(tmp_path):
    rows = [{"prompt": "bad"}, *ROWS]
    one = source(tmp_path, rows, limit=1)
    assert taken(one) == [1, 2, 5]  # the first is handed on: its own fault is its outcome


def test_a_row_with_the_recipe_s_system_prompt_of_its_own_is_of_the_same_prompt(tmp_path):
    rows = [{"system": "Be brief.", "prompt": "a", "chosen": "x", "rejected": "y"}, *ROWS]
    one = source(tmp_path, rows, limit=1)
    raws = [raw.line for raw in limited(Reader(one), one, "Be brief.") if isinstance(raw.value, bytes)]
    assert raws == [1, 2, 5] and taken(one) == [1]


@needs_model
def test_a_text_that_no_encoding_can_write_is_a_line_of_the_ledger_with_a_limit_too(tmp_path):
    file = tmp_path / "half.jsonl"
    half = {"id": "half", "prompt": "\ud800", "chosen": "x", "rejected": "y"}
    file.write_text("\n".join(map(json.dumps, [half, *ROWS])))
    one = DataSource("pairs", str(file), limit=2)
    assert gives_pairs([one], PrepareConfig(), 100) == [True], "nor does it end the look before a run"
    _, rows, counts = prepare(tmp_path / "out", one)
    assert rows[0]["outcome"] == "not_utf8" and counts["rows"] == {"beyond_limit": 4, "kept": 2, "not_utf8": 1}


@needs_model
def test_the_ledger_says_what_was_left_out_and_it_is_not_lost(tmp_path):
    groups, rows, counts = prepare(tmp_path / "out", source(tmp_path, limit=2))
    assert [group.id for group in groups] == ["a0", "b1"] and len(rows) == len(ROWS)
    assert texts(tmp_path / "out")["b"] == [("yes 1", 1), ("no 1", -1), ("yes 5", 1), ("no 5", -1)]
    left = [row for row in rows if row["outcome"] == "beyond_limit"]
    assert [row["line"] for row in left] == [3, 5]
    assert {row["detail"] for row in left} == {"data.limit takes the first 2 prompts"}
    assert counts["rows"] == {"beyond_limit": 2, "kept": 4} and counts["dropped_share"] == 0


@needs_model
def test_the_share_of_lost_rows_is_one_of_the_rows_that_the_limit_leaves(tmp_path):
    rows = [{"prompt": "a", "chosen": "x" * 9000, "rejected": "y"}, *ROWS[1:3]]
    with pytest.raises(
        ValueError, match=r"must leave at least one row, got 100.0% of 1 \(1 over_length; first line 1: over_length"
    ):
        prepare(tmp_path / "out", source(tmp_path, rows, limit=1), config=PrepareConfig(max_length=512))


@needs_model
def test_each_source_of_a_mixture_has_its_own_limit(tmp_path):
    others = [{"prompt": f"o{n}", "chosen": "x", "rejected": "y"} for n in range(4)]
    second = DataSource("pairs", str(write_rows(tmp_path / "o.jsonl", others)), limit=3)
    groups, _, counts = prepare(tmp_path / "out", source(tmp_path, limit=1), second)
    assert len(groups) == 4 and [one["rows"]["beyond_limit"] for one in counts["sources"]] == [4, 1]


@needs_model
def test_a_limit_that_takes_all_gives_the_bytes_of_none(tmp_path):
    prepare(tmp_path / "all", source(tmp_path, limit=4))
    prepare(tmp_path / "none", source(tmp_path))
    for file in ("groups.safetensors", "groups.jsonl", "ledger.jsonl", "ledger.json"):
        assert (tmp_path / "all" / file).read_bytes() == (tmp_path / "none" / file).read_bytes()


@needs_model
def test_the_system_prompt_stands_before_prompts_without_one_and_joins_equal_ones(tmp_path):
    rows = [{"system": "Be brief.", **ROWS[0]}, ROWS[3], {"system": "Shout.", **ROWS[1]}]
    config = replace(LENIENT, system_prompt="Be brief.")
    groups, _, _ = prepare(tmp_path / "out", source(tmp_path, rows), config=config)
    assert len(groups) == 2
    said = [json.loads(line)["messages"] for line in (tmp_path / "out" / "groups.jsonl").read_text().splitlines()]
    assert Counter(messages[0]["content"] for messages in said) == {"Be brief.": 1, "Shout.": 1}
    assert all(messages[0]["role"] == "system" for messages in said)
