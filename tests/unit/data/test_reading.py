"""Reading: every format gives the same records, and a damaged file says where."""

import contextlib
import csv
import functools
import gzip
import http.server
import json
import threading

import pyarrow
import pyarrow.parquet
import pytest

from data.reading.files import list_files
from data.reading.formats import parse_line
from data.reading.records import Bad, DataSource, Reader, is_hub_id

ROWS = [
    {"prompt": f"Größe {n}?", "chosen": 'ja,\n"ja"' * (n + 1), "rejected": [{"role": "assistant", "content": "nein"}]}
    for n in range(3)
]
FLAT = [{**row, "rejected": "nein"} for row in ROWS]


def read(path, **more):
    found = []
    for raw in Reader(DataSource("pairs", str(path), **more)):
        value = parse_line(raw.value, raw.line) if isinstance(raw.value, bytes) else raw.value
        found.append((raw.where, value))
    return found


def values(path, **more):
    return [value for _, value in read(path, **more)]


def _write(path, rows):
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    elif name.endswith(".json"):
        data = json.dumps(rows, indent=1, ensure_ascii=False).encode()
    elif name.endswith(".csv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        data = path.read_bytes()
    elif name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        data = path.read_bytes()
    else:
        table = pyarrow.Table.from_pylist(rows)
        opened = pyarrow.ipc.new_stream if "stream" in name else pyarrow.ipc.new_file
        with opened(str(path), table.schema) as writer:
            writer.write_table(table)
        data = path.read_bytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.parquet", "stream.arrow", "file.arrow"])
def test_every_format_gives_the_same_records(tmp_path, name):
    assert values(_write(tmp_path / name, ROWS)) == ROWS


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_csv_gives_text(tmp_path, name):
    assert values(_write(tmp_path / name, FLAT)) == FLAT


def test_lines_are_those_of_the_file(tmp_path):
    (tmp_path / "a.json").write_text('[\n {"n": 1},\n {"n":\n 2}, {"n": 3}\n]\n')
    assert read(tmp_path / "a.json") == [("2", {"n": 1}), ("3", {"n": 2}), ("4", {"n": 3})]
    (tmp_path / "a.csv").write_text('a,b\n1,"two\nlines"\n3,4\n')
    assert [where for where, _ in read(tmp_path / "a.csv")] == ["2", "4"]
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n\n{"n": 2}\n')
    assert [where for where, _ in read(tmp_path / "a.jsonl")] == ["1", "3"]


def test_blank_lines_of_csv_are_no_rows(tmp_path):
    (tmp_path / "a.csv").write_text("\na,b,,\n1,2,,\n\n \n3,4,,\n\n")
    assert read(tmp_path / "a.csv") == [("3", {"a": "1", "b": "2", "": ""}), ("6", {"a": "3", "b": "4", "": ""})]


def test_an_array_longer_than_what_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("data.reading.records._CHUNK_BYTES", 7)
    assert values(_write(tmp_path / "a.json", ROWS)) == ROWS


@pytest.mark.parametrize("text", ['\ufeff[{"n": 1}]', "[]", " [ ] ", '[{"n": 1}]\n \n', '[\n{"n": 1}\n,\n{"n": 2}\n]'])
def test_odd_arrays(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert values(tmp_path / "a.json") == [{"n": n + 1} for n in range(text.count('n":'))]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b'[{"n": 1},\n{"n": 2\n{"n": 3}]', r"must be a JSON array.*Expecting ',' delimiter at line 3"),
        ("a.json", b'[{"n": 1} {"n": 2}]', r"Expecting ',' at line 1, column 11"),
        ("a.json", b'[{"n": 1}', r"Expecting ',' at line 1"),
        ("a.json", b'[{"n": 1}]\n\n[{"n": 2}]\n', r"one JSON array, got .*a\.json, which goes on after it on line 3 with '\[{"),
        ("a.json", b'[{"n": 1}]' + b"\n" * 3000 + b"]", r"goes on after it on line 3001 with '\]'"),
        ("a.jsonl.gz", gzip.compress(b'{"n": 1}\n' * 1000, mtime=0)[:-9], "must be a whole gzip file"),
        ("a.jsonl.gz", b"", r"must be a whole gzip file, got .*a\.jsonl\.gz \(it holds no byte\); fetch it again"),
        ("a.jsonl.gz", b"no gzip", "must be a whole gzip file"),
        (
            "a.csv",
            b'a,b\n1,2\n3,"4\n' + b"5,6\n" * 20,
            r"CSV whose quotes are closed.*got .*a\.csv: .*begins on line 3; correct the row",
        ),
        ("a.csv", b'a,b\n1,2\n"3,4\n5,"6"\n', r"got .*a\.csv: .*begins on line 3"),
        ("a.csv", b"a,b,a\n1,2,3\n", r"columns have different names, got 'a' twice in .*a\.csv; rename one"),
        ("a.parquet", b"PAR1nonsense", r"must be a whole \.parquet file"),
        ("a.txt", b"", r"data.path must end in one of \.jsonl.*got .*a.txt"),
    ],
)
def test_a_damaged_file_says_what_is_wrong_and_where(tmp_path, monkeypatch, name, data, message):
    monkeypatch.setattr("data.reading.records._CHUNK_BYTES", 1000)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name)


def test_a_bad_record_harms_no_other(tmp_path):
    (tmp_path / "a.json").write_bytes(b'[{"n": 1}, 2, {"n": "\xff"}, {"n": 4}]')
    (one, two, three, four) = values(tmp_path / "a.json")
    assert (one, four) == ({"n": 1}, {"n": 4})
    assert (two, three.reason) == (Bad("bad_schema", "must be a JSON object, got int"), "not_utf8")
    (tmp_path / "a.csv").write_bytes(b"a,b\n1,2\n\xff,2\n1,2,3\n5,6\n")
    one, two, three, four = values(tmp_path / "a.csv")
    assert (one, four) == ({"a": "1", "b": "2"}, {"a": "5", "b": "6"})
    assert two.reason == "not_utf8" and "must have 2 cells, as the header has, got 3" in three.detail


def _arrow_bytes(path, rows, opened, rows_per_batch=1):
    table = pyarrow.Table.from_pylist(rows)
    with opened(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_per_batch)
    return path.read_bytes()


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("opened", [pyarrow.ipc.new_stream, pyarrow.ipc.new_file])
def test_an_arrow_file_that_was_cut_anywhere_is_refused(tmp_path, opened, every):
    data = _arrow_bytes(tmp_path / "a.arrow", FLAT, opened)
    # The longest of them first.
    for size in range(len(data) - 8, -1, -every):  # the last 8 bytes are the stream's end mark, of which 4 say as much
        (tmp_path / "a.arrow").write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"data\.path must be a whole \.arrow file, got .*a\.arrow \(.*\); fetch it again"):
            read(tmp_path / "a.arrow")


def test_an_arrow_stream_that_was_cut_between_batches_says_where(tmp_path):
    data = _arrow_bytes(tmp_path / "a.arrow", FLAT, pyarrow.ipc.new_stream)
    (tmp_path / "a.arrow").write_bytes(data[:-8])
    with pytest.raises(ValueError, match="it stops after row 3 without the mark"):
        read(tmp_path / "a.arrow")
    (tmp_path / "a.arrow").write_bytes(data + data)
    with pytest.raises(ValueError, match="it goes on after the mark of the stream's end, which follows row 3"):
        read(tmp_path / "a.arrow")


def test_parquet_with_a_damaged_page_names_key_and_file(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(FLAT * 1000), tmp_path / "a.parquet", use_dictionary=False)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[100:200] = bytes(byte ^ 0x5A for byte in data[100:200])
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(ValueError, match=r"data\.path must be a whole \.parquet file, got .*a\.parquet \(.*\); fetch it again"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_cell_that_is_not_utf8_costs_its_own_row(tmp_path, name):
    cells = pyarrow.array([b"one", b"\xff\xfe", b"three"]).view(pyarrow.string())
    table = pyarrow.table({"n": [1, 2, 3], "text": cells})
    if name == "a.parquet":
        pyarrow.parquet.write_table(table, tmp_path / name)
    else:
        with pyarrow.ipc.new_stream(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    one, two, three = read(tmp_path / name)
    assert (one, three) == (("1", {"n": 1, "text": "one"}), ("3", {"n": 3, "text": "three"}))
    assert two == ("2", Bad("not_utf8", "holds bytes that are not UTF-8"))


def test_a_folder_gives_its_files_by_name(tmp_path):
    for name, row in (("b.jsonl", 1), ("a.json", 0), ("deep/c.parquet", 2)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        _write(tmp_path / name, [ROWS[row]])
    (tmp_path / "README.md").write_text("no data")
    (tmp_path / ".hidden.jsonl").write_text("{}")
    assert read(tmp_path) == [("a.json:2", ROWS[0]), ("b.jsonl:1", ROWS[1]), ("deep/c.parquet:1", ROWS[2])]


def test_a_folder_says_what_it_does_not_read(tmp_path, caplog):
    _write(tmp_path / "a.jsonl", ROWS[:1]).rename(tmp_path / "A.JSONL")
    _write(tmp_path / "b.csv.gz", FLAT[1:2]).rename(tmp_path / "b.CSV.GZ")
    for name in ("c.tsv", "d.jsonl.zst", "README.md", "deep/.hidden.json", "dataset_infos.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"no": "data"}')
    assert read(tmp_path) == [("A.JSONL:1", ROWS[0]), ("b.CSV.GZ:2", FLAT[1])]
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path} holds files in none of .jsonl") and message.endswith("not read: c.tsv, d.jsonl.zst")


def test_splits_of_a_folder_are_never_mixed_in_silence(tmp_path):
    for name, row in (("train-00000-of-00002.jsonl", 0), ("train-00001-of-00002.jsonl", 1), ("test.jsonl", 2)):
        _write(tmp_path / name, [ROWS[row]])
    with pytest.raises(ValueError, match=r"data.split must be set, got none for .* holds test, train; set data.split=train"):
        read(tmp_path)
    assert values(tmp_path, split="train") == ROWS[:2] and values(tmp_path, split="test") == ROWS[2:]
    with pytest.raises(ValueError, match="must hold files of the split dev"):
        read(tmp_path, split="dev")


def test_what_save_to_disk_wrote(tmp_path):
    import datasets

    datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS[:2]), "test": datasets.Dataset.from_list(ROWS[2:])}
    ).save_to_disk(str(tmp_path / "set"))
    assert values(tmp_path / "set", split="test") == ROWS[2:] and values(tmp_path / "set" / "train") == ROWS[:2]
    with pytest.raises(ValueError, match=r"data\.split must be one of train, test, got None"):
        read(tmp_path / "set")
    reader = Reader(DataSource("pairs", str(tmp_path / "set" / "train")))
    assert len(list(reader)) == 2 and (reader.progress, reader.unit) == ((2, 2), "records")


@pytest.mark.parametrize("name", ["../other/data-00000-of-00001.arrow", "/other/data-00000-of-00001.arrow"])
def test_a_saved_set_reads_no_file_outside_its_folder(tmp_path, name):
    import datasets

    for folder in ("set", "other"):
        datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / folder))
    state = tmp_path / "set" / "state.json"
    name = name.replace("/other", f"{tmp_path}/other") if name.startswith("/") else name
    state.write_text(json.dumps({**json.loads(state.read_text()), "_data_files": [{"filename": name}]}))
    with pytest.raises(ValueError, match=r"data\.path must be a saved set whose files lie in its folder, got .*set with"):
        read(tmp_path / "set")


@contextlib.contextmanager
def _served(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_urls_are_read_like_files(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("a.jsonl.gz", "b.parquet"):
        memory.pipe_file(f"/preferences/{name}", _write(tmp_path / name, ROWS).read_bytes())
    assert values("memory://preferences/a.jsonl.gz") == ROWS and values("memory://preferences") == ROWS * 2
    with _served(tmp_path) as url:
        assert values(f"{url}/a.jsonl.gz") == values(f"{url}/b.parquet") == ROWS
    with pytest.raises(FileNotFoundError, match=r"data\.path must exist, got nothing at memory://none"):
        list_files("memory://none")


def test_a_hub_id_is_no_mistyped_path(tmp_path):
    assert is_hub_id("HuggingFaceH4/ultrafeedback_binarized")
    for path in ("data/none", "./a/b", "none/a.jsonl", "/a", "s3://a/b", "a/b/c", str(tmp_path)):
        assert not is_hub_id(path)
    with pytest.raises(FileNotFoundError, match=r"data\.path must be a file or folder"):
        read(tmp_path / "none.jsonl")


def test_a_hubs_set_is_asked_for_by_split_config_and_revision(monkeypatch):
    import datasets

    asked = []

    def load_dataset(*arguments, **more):
        asked.append((arguments, more))
        if arguments[0] == "some/absent":
            raise datasets.exceptions.DatasetNotFoundError("not on the hub")
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert values("some/set", config="c", split="train_prefs", revision="abc", streaming=True) == ROWS
    assert asked == [(("some/set", "c"), {"split": "train_prefs", "revision": "abc", "streaming": True})]
    with pytest.raises(FileNotFoundError, match=r"got some/absent \(DatasetNotFoundError: not on the hub\); check the id"):
        read("some/absent")
