"""Which files of a folder are read: links are followed, splits go by their whole names, and nothing is left out without a word."""

import json
import os

import pytest

from data.reading.files import files_inside, list_files
from data.reading.formats import parse_line
from data.reading.records import DataSource, Reader
from tasks.store import Store


def _put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({"from": name}) + "\n")
    return folder


def _names(path, split=None):
    return [file.name for file in list_files(str(path), split)]


def _read(path, **more):
    return [parse_line(raw.value, raw.line)["from"] for raw in Reader(DataSource("pairs", str(path), **more))]


def test_linked_folders_and_files_are_read(tmp_path):
    _put(tmp_path / "elsewhere", "b.jsonl", "deep/c.jsonl", ".hidden/d.jsonl")
    folder = _put(tmp_path / "folder", "a.jsonl")
    (folder / "part2").symlink_to("../elsewhere")
    (folder / "z.jsonl").symlink_to(_put(tmp_path, "single.jsonl") / "single.jsonl")
    assert _names(folder) == ["a.jsonl", "part2/b.jsonl", "part2/deep/c.jsonl", "z.jsonl"]
    assert _read(folder) == ["a.jsonl", "b.jsonl", "deep/c.jsonl", "single.jsonl"]
    assert _read(f"file://{folder}") == _read(folder)


def test_a_folder_of_links_alone_is_read(tmp_path):
    _put(tmp_path / "elsewhere", "b.jsonl")
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "part").symlink_to("../elsewhere")
    (tmp_path / "link").symlink_to("only")
    assert _read(tmp_path / "only") == _read(tmp_path / "link") == ["b.jsonl"]


@pytest.mark.parametrize("target", ["../folder", ".", "..", "self"])
def test_links_that_lead_round_end(tmp_path, target):
    folder = _put(tmp_path / "top" / "folder", "a.jsonl")
    (folder / "self").symlink_to(target)
    if target == "self":
        with pytest.raises(FileNotFoundError, match="leads to nothing"):
            files_inside(folder, "data.path")
    else:
        assert _read(folder) == ["a.jsonl"]


def test_two_folders_that_lead_to_each_other_are_read_once(tmp_path):
    for one, other in (("a", "b"), ("b", "a")):
        _put(tmp_path / one, f"{one}.jsonl")
        (tmp_path / one / "other").symlink_to(f"../{other}")
    assert sorted(_read(tmp_path / "a")) == ["a.jsonl", "b.jsonl"]
    assert sorted(_read(tmp_path)) == ["a.jsonl", "b.jsonl"]


def test_a_file_with_two_names_is_read_once_and_the_log_says_so(tmp_path, caplog):
    _put(tmp_path, "a.jsonl")
    (tmp_path / "b.jsonl").symlink_to("a.jsonl")
    assert _read(tmp_path) == ["a.jsonl"]
    assert caplog.messages == [f"{tmp_path}/b.jsonl is a.jsonl by another name, and is read once"]


@pytest.mark.parametrize("name", ["b.jsonl", "part"])
def test_a_link_to_nothing_is_an_error(tmp_path, name):
    _put(tmp_path, "a.jsonl")
    (tmp_path / name).symlink_to("../nowhere")
    message = rf" must be a folder whose links lead to files, got .*{name}, which leads to nothing \(\.\./nowhere\)"
    with pytest.raises(FileNotFoundError, match=rf"^data\.path{message}"):
        list_files(str(tmp_path))
    # Models' folders are looked through as well: there the folder alone is named.
    with pytest.raises(FileNotFoundError, match=rf"^{tmp_path}{message}"):
        Store(tmp_path / ".artifacts").outside_fingerprint(tmp_path)


def test_a_linked_folders_content_is_part_of_the_key(tmp_path):
    elsewhere, folder = _put(tmp_path / "elsewhere", "b.jsonl"), _put(tmp_path / "folder", "a.jsonl")
    (folder / "part2").symlink_to("../elsewhere")
    store = Store(tmp_path / "artifacts")
    before = store.outside_fingerprint(folder)
    _put(elsewhere, "c.jsonl")
    assert store.outside_fingerprint(folder) != before


def test_a_hidden_folder_that_was_named_is_read(tmp_path, monkeypatch):
    _put(tmp_path / ".cache" / "prefs", "a.jsonl")
    monkeypatch.chdir(tmp_path)
    for path in (".cache/prefs", "./.cache/prefs/", tmp_path / ".cache" / "prefs"):
        assert _read(path) == ["a.jsonl"]


ULTRAFEEDBACK = [
    f"data/{split}-00000-of-0000{parts}.parquet".replace("00000-of", f"0000{part}-of")
    for split, parts in (("train_prefs", 2), ("train_sft", 1), ("train_gen", 1), ("test_prefs", 1), ("test_sft", 1))
    for part in range(parts)
]


def test_a_split_is_what_its_whole_name_says(tmp_path):
    _put(tmp_path, *ULTRAFEEDBACK)
    assert _names(tmp_path, "train_prefs") == ULTRAFEEDBACK[:2]
    assert _names(tmp_path, "test_sft") == ULTRAFEEDBACK[-1:]
    assert _names(tmp_path / "data", "train_gen") == ["train_gen-00000-of-00001.parquet"]
    there = "which holds test_prefs, test_sft, train_gen, train_prefs, train_sft; set data.split to one of them"
    for split in ("train", "test", "dev", "prefs"):
        with pytest.raises(ValueError, match=f"must hold files of the split {split}, got .*, {there}"):
            list_files(str(tmp_path), split)
    with pytest.raises(ValueError, match=rf"data\.split must be set, got none for .*, {there}"):
        list_files(str(tmp_path))


def test_two_training_splits_are_never_one(tmp_path):
    _put(tmp_path, *ULTRAFEEDBACK[:3])
    for split in (None, "train"):
        with pytest.raises(ValueError, match=r"which holds train_prefs, train_sft; set data\.split to one of them"):
            list_files(str(tmp_path), split)


@pytest.mark.parametrize(
    ("names", "split", "found"),
    [
        (["train.jsonl", "train_sft.jsonl"], "train", [0]),
        (["train.jsonl", "train_sft.jsonl"], "train_sft", [1]),
        (
            ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "data/test-00000-of-00001.jsonl"],
            "train",
            [0, 1],
        ),
        (["train/a.jsonl", "train/deep/b.jsonl", "test/a.jsonl"], "train", [0, 1]),
        (["train_prefs/a.jsonl", "train_sft/a.jsonl"], "train_prefs", [0]),
        (["train_0.jsonl", "train_1.jsonl.gz", "test.jsonl"], "train", [0, 1]),
        (["train.part-1.jsonl", "train.part-2.jsonl", "valid.jsonl"], "train", [0, 1]),
        (["prefs_train.jsonl", "prefs_test.jsonl"], "prefs_test", [1]),
        (["Train.jsonl", "Test.jsonl"], "Train", [0]),
        (["math-00000-of-00001.parquet", "code-00000-of-00001.parquet"], "code", [1]),
        (["a.jsonl", "b.jsonl"], "train", [0, 1]),
        (["latest.jsonl", "contest.jsonl", "untrained.jsonl", "00001.jsonl"], None, [0, 1, 2, 3]),
        (["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"], None, [0, 1]),
        (["test.jsonl"], None, [0]),
    ],
)
def test_names_and_the_splits_that_they_mean(tmp_path, names, split, found):
    _put(tmp_path, *names)
    assert sorted(_names(tmp_path, split)) == sorted(names[place] for place in found)


@pytest.mark.parametrize(
    ("names", "split", "message"),
    [
        (["train.jsonl", "test.jsonl"], None, "which holds test, train; set data.split=train"),
        (["prefs_train.jsonl", "prefs_test.jsonl"], None, "holds prefs_test, prefs_train; set data.split to one of them"),
        (["Train.jsonl", "Test.jsonl"], None, "holds Test, Train; set"),
        (["math-00000-of-00001.parquet", "code-00000-of-00001.parquet"], None, "holds code, math; set"),
        (
            ["test.jsonl", "more.jsonl"],
            None,
            r"holds test, and files named after no split \(more\.jsonl\); set data.split=test",
        ),
        (["a.jsonl"], "test", r"holds only files named after no split \(a\.jsonl\); leave data.split out"),
    ],
)
def test_what_a_name_leaves_open_is_an_error_that_lists_the_splits(tmp_path, names, split, message):
    _put(tmp_path, *names)
    with pytest.raises(ValueError, match=message):
        list_files(str(tmp_path), split)


def test_a_split_of_a_single_file_is_its_own(tmp_path):
    _put(tmp_path, "a.jsonl", "test_prefs-00000-of-00001.jsonl")
    assert _read(tmp_path / "a.jsonl", split="train") == ["a.jsonl"]
    assert len(_read(tmp_path / "test_prefs-00000-of-00001.jsonl", split="test_prefs")) == 1
    for name, split in (("a.jsonl", "test"), ("test_prefs-00000-of-00001.jsonl", "train")):
        with pytest.raises(ValueError, match=rf"data\.split must be left out for a single file, got {split} for .*{name}"):
            _read(tmp_path / name, split=split)


@pytest.mark.parametrize("given", [{"config": "main"}, {"revision": "abc"}])
def test_what_only_a_hubs_set_has_is_refused_for_files(tmp_path, given):
    (name,) = given
    with pytest.raises(ValueError, match=rf"data\.{name} must be left out for files, got {given[name]} for "):
        _read(_put(tmp_path, "a.jsonl"), **given)


def test_a_url_follows_the_same_rules(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ULTRAFEEDBACK:
        memory.pipe_file(f"/uf/{name}", b"{}")
    assert _names("memory://uf", "train_prefs") == ULTRAFEEDBACK[:2]
    with pytest.raises(ValueError, match="which holds test_prefs, test_sft, train_gen, train_prefs, train_sft"):
        list_files("memory://uf", "train")


def test_a_saved_set_is_the_split_that_it_was(tmp_path):
    import datasets

    datasets.Dataset.from_list([{"from": "x"}], split="train").save_to_disk(str(tmp_path / "set"))
    (row,) = Reader(DataSource("pairs", str(tmp_path / "set"), split="train"))
    assert row.value == {"from": "x"}
    with pytest.raises(ValueError, match=r"data\.split must be the split that .*set was saved as \(train\), got test"):
        list(Reader(DataSource("pairs", str(tmp_path / "set"), split="test")))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_an_error(tmp_path):
    (_put(tmp_path, "a.jsonl", "part/b.jsonl") / "part").chmod(0)
    with pytest.raises(PermissionError):
        list_files(str(tmp_path))
