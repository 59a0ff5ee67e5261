"""JSON as it is met in files: every object is a row of its own, or the file says what is wrong with it."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from data.parse import Parser
from data.reading.formats import parse_line
from data.reading.records import Bad, DataSource, Reader

ROWS = [{"id": f"r{n}", "prompt": f"Größe {n}?", "chosen": {"role": "assistant", "content": "ja\n"}, "n": n} for n in range(4)]


def _read(path):
    """(line, record) of each."""
    return [
        (raw.line, parse_line(raw.value, raw.line) if isinstance(raw.value, bytes) else raw.value)
        for raw in Reader(DataSource("pairs", str(path)))
    ]


def _values(path):
    return [value for _, value in _read(path)]


def _parsed(path, source="pairs"):
    parse = Parser(DataSource(source, str(path)))
    return [parse(raw) for raw in Reader(DataSource(source, str(path)))]


def _lines(rows, **more):
    return "".join(json.dumps(row, ensure_ascii=False, **more) + "\n" for row in rows)


FORMS = {
    "lines": _lines(ROWS),
    "without a last line end": _lines(ROWS).rstrip(),
    "mark": "\ufeff" + _lines(ROWS),
    "marks of joined files": "\ufeff" + _lines(ROWS[:2]) + "\ufeff" + _lines(ROWS[2:]),
    "crlf": _lines(ROWS).replace("\n", "\r\n"),
    "cr": _lines(ROWS).replace("\n", "\r"),
    "blank lines": "\n\n" + _lines(ROWS).replace("\n", "\n \n"),
    "one behind another": _lines(ROWS).replace("\n", ""),
    "pretty": _lines(ROWS, indent=1),
    "pretty, crlf, mark": "\ufeff" + _lines(ROWS, indent=4).replace("\n", "\r\n"),
    "pretty with marks of joined files": "\ufeff" + _lines(ROWS[:1], indent=1) + "\ufeff" + _lines(ROWS[1:], indent=1),
    "array": json.dumps(ROWS),
    "pretty array": "\ufeff" + json.dumps(ROWS, indent=1),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.ndjson", "a.jsonl.gz"])
@pytest.mark.parametrize("chunk", [1 << 20, 7])
def test_every_form_gives_its_objects(tmp_path, monkeypatch, form, name, chunk):
    monkeypatch.setattr("data.reading.records._CHUNK_BYTES", chunk)
    data = FORMS[form].encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert _values(tmp_path / name) == ROWS


def test_an_objects_line_is_the_one_that_it_begins_on(tmp_path):
    (tmp_path / "a.jsonl").write_text('\n{\n"n": 1\n}\n\n{"n":\n2} {"n": 3}\n')
    assert _read(tmp_path / "a.jsonl") == [(2, {"n": 1}), (6, {"n": 2}), (7, {"n": 3})]
    (tmp_path / "a.jsonl").write_bytes(b'{"n": 1}\r{"n": 2}\r')
    assert _read(tmp_path / "a.jsonl") == [(1, {"n": 1}), (2, {"n": 2})]


@pytest.mark.parametrize(
    "first",
    ['{"prompt": "cut, ', '{"prompt": "a",', '{"prompt": ', "{", '{"a": 1} garbage', "garbage", '"text"', "{'a': 1}", "12"],
)
def test_a_first_line_that_is_broken_costs_itself_alone(tmp_path, first):
    (tmp_path / "a.jsonl").write_text(first + "\n" + _lines(ROWS))
    bad, *rows = _values(tmp_path / "a.jsonl")
    assert isinstance(bad, Bad) and bad.reason == "bad_schema" and rows == ROWS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n"n": 1\n}\n{\n"n": 2\n', "must be JSON objects, one behind another, got .*: Expecting ',' delimiter at line 6"),
        ('{\n"n": 1\n}\n{\n"n" 2\n}', "Expecting ':' delimiter at line 5, column 5"),
        ('{"n": 1}{"n": 2}x', "Expecting value at line 1, column 17"),
        ('{\n"n": 1,\n}', "Illegal trailing comma|Expecting property name.* at line 3"),
    ],
)
def test_an_ill_formed_object_says_where(tmp_path, text, message):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        _values(tmp_path / "a.jsonl")


def test_a_bad_line_names_its_own_line_of_the_file():
    assert parse_line(b'{"n": }', 7) == Bad("bad_schema", "not JSON: Expecting value at line 7, column 7")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_another_encoding_is_named(tmp_path, encoding, name):
    text = "prompt,chosen\n1,2\n" if name == "a.csv" else _lines(ROWS)
    (tmp_path / name).write_bytes(text.encode(encoding))
    with pytest.raises(ValueError, match=rf"data\.path must be UTF-8, got .*{name}, which is UTF-(16|32).*; convert it"):
        _values(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "twice"),
    [
        ('{"prompt": "first?", "prompt": "second?"}', "prompt"),
        ('{"chosen": [{"role": "user", "content": "a", "content": "b"}], "n": 1}', "content"),
    ],
)
@pytest.mark.parametrize("form", ["line", "array", "pretty"])
def test_a_key_that_stands_twice_costs_its_row(tmp_path, text, twice, form):
    other = '{"prompt": "fine"}'
    over_lines = text.replace(", ", ",\n") + "\n" + other
    (tmp_path / "a.jsonl").write_text({"line": f"{text}\n{other}\n", "array": f"[{text}, {other}]", "pretty": over_lines}[form])
    assert _values(tmp_path / "a.jsonl") == [
        Bad("bad_schema", f"must have each key once, got {twice!r} twice"),
        json.loads(other),
    ]


@pytest.mark.parametrize("form", ["{}\n{}", "[{}, {}]"])
def test_an_integer_without_end_costs_its_row(tmp_path, form):
    first, second = '{"id": %s}' % ("9" * 5000), '{"id": -%s}' % ("9" * 4299)
    (tmp_path / "a.json").write_text(form.format(first, second))
    bad, fine = _values(tmp_path / "a.json")
    assert bad == Bad("bad_schema", "must hold integers of at most 4300 digits, got one of 5000")
    assert fine == {"id": -int("9" * 4299)}


def test_numbers_that_are_none_are_no_ids(tmp_path):
    row = {"prompt": "a?", "chosen": "x", "rejected": "y"}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": float(id), **row}) + "\n" for id in ("nan", "inf", "2")))
    assert [id for id, _ in _parsed(tmp_path / "a.jsonl")] == ["1", "2", "2.0"]


COLUMNS = {"prompt": ["a?", "b?"], "chosen": ["x", "x"], "rejected": ["y", "y"]}
WHOLE = {
    "columns": COLUMNS,
    "columns by index": {name: dict(zip("01", cells, strict=True)) for name, cells in COLUMNS.items()},
    "index": {"0": {"prompt": "a?", "chosen": "x", "rejected": "y"}},
    "wrapped": {"version": 1, "data": [{"prompt": "a?", "chosen": "x", "rejected": "y"}]},
}


@pytest.mark.parametrize("form", WHOLE)
@pytest.mark.parametrize("indent", [None, 1])
def test_an_object_that_holds_rows_says_what_it_was_taken_for(tmp_path, form, indent):
    (tmp_path / "a.json").write_text(json.dumps(WHOLE[form], indent=indent))
    ((_, bad),) = _parsed(tmp_path / "a.json")
    assert bad.reason == "bad_schema"
    assert bad.detail.endswith("the file is one JSON object, taken for one row: write several as an array, or one per line")


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_an_object_that_is_a_row_is_one(tmp_path, name, indent):
    row = {"chosen": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "x"}]}
    row["rejected"] = [row["chosen"][0], {"role": "assistant", "content": "y"}]
    (tmp_path / name).write_text(json.dumps(row, indent=indent))
    ((_, found),) = _parsed(tmp_path / name)
    assert [one.text for one in found.candidates] == ["x", "y"]


def test_other_characters_that_break_lines_elsewhere_are_text(tmp_path):
    row = {"prompt": "a\u2028b\u0085c\x0bd\u0000?", "chosen": "x\u2029", "rejected": "y\r\n"}
    (tmp_path / "a.jsonl").write_text(_lines([row, row]), encoding="utf-8")
    assert _values(tmp_path / "a.jsonl") == [row, row]


def test_csv_with_other_separators_says_so(tmp_path):
    for mark in ";\t|":
        (tmp_path / "a.csv").write_text(f"prompt{mark}chosen\nq{mark}x\n")
        with pytest.raises(ValueError, match=r"data\.path must be CSV with commas, got .*a\.csv, whose header has"):
            _values(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("prompt\nq;x\n")
    assert _values(tmp_path / "a.csv") == [{"prompt": "q;x"}]


def test_what_stands_for_a_missing_value_in_csv_is_none(tmp_path):
    (tmp_path / "a.csv").write_text(
        "prompt,chosen,rejected\n" + "".join(f"q,x,{word}\n" for word in ("NaN", "nan", "None", "null", ""))
    )
    assert [row["rejected"] for row in _values(tmp_path / "a.csv")] == [None] * 4 + [""]
    *missing, (_, empty) = _parsed(tmp_path / "a.csv")
    assert {bad.detail for _, bad in missing} == {"must have rejected, got no rejected; the row has prompt, chosen"}
    assert empty.candidates[1].text == ""  # which the renderer refuses as empty
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\nq,x,None of these\n")
    assert _values(tmp_path / "a.csv")[0]["rejected"] == "None of these"


def test_csv_lines_may_end_in_any_way(tmp_path):
    for end in ("\n", "\r\n", "\r"):
        (tmp_path / "a.csv").write_bytes(f"\ufeffa,b{end}1,2{end}3,4{end}".encode())
        assert _read(tmp_path / "a.csv") == [(2, {"a": "1", "b": "2"}), (3, {"a": "3", "b": "4"})]


def test_the_header_of_a_joined_csv_is_no_row(tmp_path):
    (tmp_path / "a.csv").write_text("\ufeffa,b\n1,2\n\ufeffa,b\n3,4\n", encoding="utf-8")
    assert _values(tmp_path / "a.csv") == [
        {"a": "1", "b": "2"},
        Bad("bad_schema", "repeats the header, as in files that were joined"),
        {"a": "3", "b": "4"},
    ]


def test_parquet_columns_of_one_name_are_refused(tmp_path):
    pyarrow.parquet.write_table(
        pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], ["p", "p"]), tmp_path / "a.parquet"
    )
    with pytest.raises(
        ValueError, match=r"data\.path must hold columns with different names, got 'p' twice in .*a\.parquet; rename"
    ):
        _values(tmp_path / "a.parquet")
    inner = pyarrow.StructArray.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], ["x", "x"])
    pyarrow.parquet.write_table(pyarrow.table({"p": inner}), tmp_path / "a.parquet")
    with pytest.raises(
        ValueError, match=r"data\.path must hold fields of p with different names, got 'x' twice in .*a\.parquet"
    ):
        _values(tmp_path / "a.parquet")


def test_parquet_gives_what_json_gives(tmp_path):
    rows = [{"prompt": "q?", "chosen": [{"role": "assistant", "content": "A", "tool_calls": None}], "rejected": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert _values(tmp_path / "a.parquet") == rows
    ((_, bad),) = _parsed(tmp_path / "a.parquet")
    assert bad == Bad("bad_schema", "must have rejected, got no rejected; the row has prompt, chosen")
    table = pyarrow.table(
        {name: pyarrow.array([cell]).dictionary_encode() for name, cell in (("prompt", "q?"), ("chosen", "A"))}
    )
    pyarrow.parquet.write_table(table, tmp_path / "b.parquet")
    assert _values(tmp_path / "b.parquet") == [{"prompt": "q?", "chosen": "A"}]
