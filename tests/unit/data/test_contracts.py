"""Every source and labeler keeps its folder's contract, and what preparation counts survives its file."""

import json

import pytest

from bnf.plugins import load, names
from data.labelers import LABELERS
from data.preparing.counts import LedgerCounts
from data.sources import KINDS, SOURCES, load_preferences
from tasks.keys import ROOT
from tests.unit.data.helpers import ledger, needs_model, prepare, write_rows


@pytest.mark.parametrize("name", names(SOURCES))
def test_a_source_has_what_it_gives(name):
    source = load(SOURCES, name)
    module = (ROOT / "data" / "sources" / f"{name}.py").read_text(encoding="utf-8")
    wanted = "make" if source.MAKES_PROMPTS else "item" if source.GIVES == "problems" else "row"
    assert source.GIVES in KINDS and f"\ndef {wanted}(" in module
    assert bool(source.COLUMNS) != source.MAKES_PROMPTS
    if source.GIVES == "problems":
        assert (ROOT / "evaluation" / "benchmarks" / f"{name}.py").is_file()
        with pytest.raises(ValueError, match=f"data.source must give preferences, got {name}, .*; put it under sample"):
            load_preferences(name)


@pytest.mark.parametrize("name", names(LABELERS))
def test_a_labeler_that_asks_a_judge_can_open_one(name):
    module = (ROOT / "data" / "labelers" / f"{name}.py").read_text(encoding="utf-8")
    assert ("import open_judge" in module) == load(LABELERS, name).ASKS_JUDGE


def test_a_source_that_gives_what_there_is_not_is_refused(monkeypatch):
    monkeypatch.setattr("data.sources.pairs.GIVES", "votes")
    with pytest.raises(ValueError, match=r"data/sources/pairs\.py must say what it GIVES: pairs, .*, got 'votes'"):
        load_preferences("pairs")


@needs_model
def test_the_ledgers_counts_are_what_their_file_holds(tmp_path):
    rows = [{"prompt": f"p{n}", "chosen": "yes", "rejected": "no", "story": "an unread text"} for n in range(3)]
    file = write_rows(tmp_path / "rows.jsonl", [*rows, {"prompt": "alone"}])
    for sources in ([("pairs", file)], [("pairs", file), ("pairs", write_rows(tmp_path / "more.jsonl", rows[:1]))]):
        prepare(tmp_path / "out", *sources)
        found = LedgerCounts.from_json(ledger(tmp_path / "out")[1])
        assert (found.rows["kept"], found.rows["bad_schema"], found.groups.num_groups) == (3, 1, 3)
        assert found.columns_not_read["rows.jsonl"] == {"story": 3} and len(found.sources) in (0, 2)
        assert json.dumps(found.to_json()) == json.dumps(ledger(tmp_path / "out")[1])
