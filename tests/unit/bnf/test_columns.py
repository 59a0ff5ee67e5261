"""Columns that are written as their values come: the file is safetensors' own, files are joined, and repeated strings are found."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from bnf.data.columns import Column, ColumnsWriter
from bnf.data.groups import GroupsWriter, read_groups, write_groups
from tests.unit.bnf.helpers import random_groups

COLUMNS = {"name_bytes": Column("U8"), "name_offsets": Column("I64"), "scores": Column("F64"), "pairs": Column("I32", width=2)}


def written(path: Path, names: list[str], scores: list[float]) -> ColumnsWriter:
    writer = ColumnsWriter(path, COLUMNS)
    writer.add_strings("name", *names)
    writer.add("scores", *scores)
    writer.add("pairs", *(number for place in range(len(scores)) for number in (place, -place)))
    return writer


def finished(path: Path, writer: ColumnsWriter) -> dict[str, np.ndarray]:
    writer.close()
    writer.finish(path, {"format": "x"})
    writer.remove()
    assert list(path.parent.iterdir()) == [path]
    return load_file(path)


def test_the_file_is_safetensors_own(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    arrays = finished(path, written(path, ["one", "", "drei€"], [0.5, -1.0]))
    assert arrays["name_bytes"].tobytes().decode() == "onedrei€" and arrays["name_offsets"].tolist() == [0, 3, 3, 10]
    assert arrays["pairs"].tolist() == [[0, 0], [1, -1]] and arrays["scores"].tolist() == [0.5, -1.0]
    assert path.read_bytes() == save(arrays, {"format": "x"})


def test_columns_without_a_value_are_there(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    arrays = finished(path, written(path, [], []))
    assert arrays["pairs"].shape == (0, 2) and arrays["name_offsets"].tolist() == [0]
    assert path.read_bytes() == save(arrays, {"format": "x"})


def test_files_are_joined(tmp_path: Path) -> None:
    for name, values in {"a": (["x", "yy"], [1.0]), "b": (["zzz"], [2.0, 3.0]), "c": ([], [])}.items():
        (tmp_path / name).mkdir()
        path = tmp_path / name / "a.safetensors"
        finished(path, written(path, *values))
    (tmp_path / "whole").mkdir()
    path = tmp_path / "whole" / "a.safetensors"
    writer = ColumnsWriter(path, COLUMNS)
    for name in "abc":
        writer.extend(load_file(tmp_path / name / "a.safetensors"))
    writer.add_strings("name", "four")
    arrays = finished(path, writer)
    assert arrays["name_offsets"].tolist() == [0, 1, 3, 6, 10] and arrays["scores"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("names", "repeated"),
    [
        ([], None),
        ([""], None),
        (["", ""], ""),
        (["a", "b", "ab", ""], None),
        (["a", "b", "c", "b", "a"], "b"),
        ([*map(str, range(1000)), "7"], "7"),
    ],
)
def test_the_first_string_that_is_there_again_is_found(tmp_path: Path, names: list[str], repeated: str | None) -> None:
    writer = written(tmp_path / "a.safetensors", names, [])
    writer.close()
    assert writer.repeated("name") == repeated


def test_strings_with_one_digest_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnf.data.columns.hash", lambda _: 1, raising=False)
    for names, repeated in ((["a", "b", "c"], None), (["a", "b", "a"], "a")):
        writer = written(tmp_path / "a.safetensors", names, [])
        writer.close()
        assert writer.repeated("name") == repeated


def test_data_sets_are_joined_to_what_one_writer_gives(tmp_path: Path) -> None:
    groups = random_groups(9)
    write_groups(tmp_path / "whole", groups)
    write_groups(tmp_path / "part", groups[4:8])
    with GroupsWriter(tmp_path / "joined") as writer:
        for group in groups[:4]:
            writer.add(group)
        writer.extend(tmp_path / "part")
        writer.add(groups[8])
    for name in ("groups.safetensors", "groups.jsonl"):
        assert (tmp_path / "joined" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert read_groups(tmp_path / "joined") == groups
    with pytest.raises(ValueError, match="ids must be unique, got 'g4' 2 times"), GroupsWriter(tmp_path / "twice") as writer:
        writer.add(groups[4])
        writer.extend(tmp_path / "part")
    assert list((tmp_path / "twice").iterdir()) == []


@pytest.mark.integration
def test_a_writers_memory_does_not_grow_with_its_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnf.data.columns._COPIED_BYTES", 4096)
    groups = random_groups(4000)

    def peak(number: int) -> int:
        tracemalloc.start()
        with GroupsWriter(tmp_path / str(number)) as writer:
            for group in groups[:number]:
                writer.add(group)
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    # The digests of ids, and their sorted copy: 16 bytes each.
    assert peak(4000) - peak(400) < 3600 * 20
