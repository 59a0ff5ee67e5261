"""A file is replaced whole, or not at all."""

import os
import stat
import sys
import threading
import time

import pytest

from bnf import files
from bnf.files import open_to_readers, put_folder, read_note, replacing, write_json


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == '{"a": 1}\n'
    write_json(path, {"a": 2})
    assert path.read_text() == '{"a": 2}\n' and list(tmp_path.iterdir()) == [path], "the next writer takes the same other name"


def test_json_is_written_as_it_is_asked_for(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"ü": [1]}, indent=1, ensure_ascii=False)
    assert path.read_bytes() == '{\n "ü": [\n  1\n ]\n}\n'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")}, allow_nan=False)
    assert "ü" in path.read_text(encoding="utf-8")


def test_a_durable_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "a.json", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(path.exists()))
    write_json(path, {}, durable=True)
    assert seen == [False] and path.exists()


def test_a_folder_is_on_the_disk_before_it_has_its_name_and_the_name_before_anything_goes(tmp_path, monkeypatch):
    unfinished, folder = tmp_path / "unfinished", tmp_path / "folder"
    (unfinished / "below").mkdir(parents=True)
    (unfinished / "a").write_text("new")
    (unfinished / "below" / "b").write_text("new")
    folder.mkdir()
    (folder / "old").write_text("old")
    names = {path.stat().st_ino: path.name for path in (*unfinished.rglob("*"), unfinished, tmp_path)}
    seen: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(names[os.fstat(descriptor).st_ino]))

    def note_name(source, target):
        seen.append("its name" if target == folder else "another name")
        replace(source, target)

    monkeypatch.setattr(os, "replace", note_name)
    put_folder(unfinished, folder)
    assert set(seen[:-3]) == {"a", "b", "below", "unfinished"} and seen[-3:] == ["another name", "its name", tmp_path.name]
    assert {path.name for path in folder.rglob("*")} == {"a", "b", "below"} and list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("content", [None, b"", b"\0" * 64, b'{"a": 1', b"[1]", b"\xff"])
def test_a_note_that_a_power_cut_left_is_as_good_as_none(tmp_path, content):
    note = tmp_path / "a.json"
    if content is not None:
        note.write_bytes(content)
    assert read_note(note) is None
    write_json(note, {"a": 1})
    assert read_note(note) == {"a": 1}


def test_a_file_is_opened_to_those_whom_the_umask_lets_read(tmp_path):
    path = tmp_path / "a"
    path.touch(mode=0o600)
    before = os.umask(0o027)
    try:
        open_to_readers(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("says_it", [True, False])
def test_several_threads_leave_the_umask_as_it_was(tmp_path, monkeypatch, says_it):
    """Another thread runs between two calls, as it may at any time."""
    if says_it and sys.platform != "linux":
        pytest.skip("Linux alone says it")
    set_umask = os.umask
    monkeypatch.setattr(os, "umask", lambda mask: (set_umask(mask), time.sleep(0.01))[0])
    if not says_it:
        monkeypatch.setattr(files.re, "search", lambda *_: None)
    for name in "abcdefgh":
        (tmp_path / name).touch(mode=0o600)
    before = set_umask(0o027)
    try:
        threads = [threading.Thread(target=open_to_readers, args=[tmp_path / name]) for name in "abcdefgh"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        after = set_umask(before)
    assert after == 0o027
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}
