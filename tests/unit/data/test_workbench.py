"""Rows that meet on the workbench: ids that several rows have, and what is said of rows that are lost."""

import json

import pytest

from data.preparing.config import PrepareConfig
from tests.unit.data.helpers import needs_model, prepare, write_rows

pytestmark = needs_model


def row(prompt, **more):
    return {"prompt": prompt, "chosen": "yes", "rejected": "no", **more}


def found(rows):
    return [(one["id"], one["outcome"]) for one in rows]


def test_files_of_a_folder_may_each_count_their_rows_from_0(tmp_path):
    for name in "ab":
        write_rows(tmp_path / "in" / f"{name}.jsonl", [row(f"{name} {n}", id=n) for n in range(2)])
    write_rows(tmp_path / "in" / "c.jsonl", [row("a 0", id=0, chosen="sure"), row("c 1", id=1), row("c 2", id=1)])
    groups, rows, _ = prepare(tmp_path / "out", ("pairs", tmp_path / "in"))
    assert found(rows) == [
        *[("0", "kept"), ("1", "kept"), ("b.jsonl#0", "kept"), ("b.jsonl#1", "kept")],
        # The same prompt has the same id; two prompts with one id in one file are a fault.
        *[("0", "kept"), ("c.jsonl#1", "kept"), (None, "bad_schema")],
    ]
    assert rows[-1]["detail"] == "the same id as on line 2 of c.jsonl, of another prompt"
    assert [group.id for group in groups] == ["0", "1", "b.jsonl#0", "b.jsonl#1", "c.jsonl#1"]


@pytest.mark.parametrize("ids", [(2, None), (None, 1)])
def test_an_id_that_is_another_rows_line_loses_neither(tmp_path, ids):
    lines = [row(f"prompt {n}", **({} if id is None else {"id": id})) for n, id in enumerate(ids)]
    groups, rows, _ = prepare(tmp_path / "out", ("pairs", write_rows(tmp_path / "a.jsonl", lines)))
    first = "2" if ids[0] else "1"
    assert found(rows) == [(first, "kept"), (f"{first}#2", "kept")] and len(groups) == 2


def test_an_array_on_one_line_has_as_many_ids_as_rows(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([row(f"prompt {n}") for n in range(3)]))
    _, rows, _ = prepare(tmp_path / "out", ("pairs", tmp_path / "a.json"))
    assert found(rows) == [("1", "kept"), ("1#2", "kept"), ("1#3", "kept")]


def test_rows_are_named_with_their_file_and_their_source(tmp_path):
    write_rows(tmp_path / "in" / "a.jsonl", [row("a")])
    write_rows(tmp_path / "in" / "b.jsonl", [row("b"), row("b"), {"prompt": "c"}])
    sources = [("pairs", tmp_path / "in"), ("pairs", write_rows(tmp_path / "x.jsonl", [row("a")]))]
    _, rows, _ = prepare(tmp_path / "out", *sources)
    details = [one["detail"] for one in rows if one["outcome"] == "duplicate"]
    assert details == ["the same row as on line 1 of b.jsonl", "the same row as on line 1 of a.jsonl of source 0"]
    config = PrepareConfig(max_dropped_share=0.1)
    with pytest.raises(ValueError, match=r"first line 3 of b\.jsonl: bad_schema"):
        prepare(tmp_path / "out2", sources[0], config=config)
    with pytest.raises(ValueError, match=r"first line 3 of b\.jsonl of source 0 \(in\): bad_schema"):
        prepare(tmp_path / "out3", *sources, config=config)
