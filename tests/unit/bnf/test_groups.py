import multiprocessing
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from bnf.data.groups import Completion, GroupsWriter, PromptGroup, read_groups, tokens_digest, write_groups
from bnf.data.packing import pack, rows_digest
from bnf.data.token_ids import TokenIds
from bnf.reference.kl_pairs import kl_pair_rows
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.reading_memory import memory_of_reading


def test_written_groups_read_back_the_same_and_give_the_same_bytes(tmp_path: Path) -> None:
    groups = [
        *random_groups(20),
        PromptGroup("ä/ß", (1,), (Completion((2,), -1),)),
        PromptGroup("scores", (1, 2), (Completion((2, 3), 1, 0.1, "web"), Completion((4,), -1, None, "")), ((0, 1),)),
    ]
    write_groups(tmp_path / "a", groups)
    write_groups(tmp_path / "b", groups)
    assert read_groups(tmp_path / "a") == groups
    for name in ("groups.safetensors", "groups.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_file_is_the_one_that_safetensors_writes(tmp_path: Path) -> None:
    write_groups(tmp_path, random_groups(7))
    with safe_open(tmp_path / "groups.safetensors", framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_file(arrays, tmp_path / "theirs.safetensors", metadata=file.metadata())
    assert (tmp_path / "groups.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_what_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), GroupsWriter(tmp_path) as writer:
        writer.add(random_groups(1)[0])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux alone has a file that is always full")
def test_a_full_disk_is_heard_and_leaves_no_file(tmp_path: Path) -> None:
    GroupsWriter(tmp_path)
    for partial in list(tmp_path.iterdir()):
        partial.unlink()
        partial.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"), GroupsWriter(tmp_path) as writer:
        writer.add(random_groups(1)[0])
    assert list(tmp_path.iterdir()) == []


def test_texts_go_beside_the_groups(tmp_path: Path) -> None:
    group = PromptGroup("g", (1, 2), (Completion((3,), 1), Completion((4,), -1)))
    text = {"messages": [{"role": "user", "content": "hi"}], "completions": ["yes", "no"]}
    write_groups(tmp_path, [group], [text])
    line = (tmp_path / "groups.jsonl").read_text()
    assert '"content": "hi"' in line and '"text": "no"' in line
    with pytest.raises(ValueError, match="group 'g': texts must hold"):
        write_groups(tmp_path, [group], [{"messages": [], "completions": ["yes"]}])
    with pytest.raises(ValueError, match=r"texts must have one entry per group \(1\), got 2"):
        write_groups(tmp_path, [group], [text, text])


@pytest.mark.parametrize(
    ("prompt", "completions", "pairs", "message"),
    [
        ((), (Completion((1,), 1),), (), "prompt_ids must hold at least one token"),
        ((1,), (), (), "completions must hold at least one completion"),
        ((1,), (Completion((1,), 1), Completion((), -1)), (), "completion 1 must hold at least one token"),
        ((1,), (Completion((1, -100), 1),), (), "completion 0's token_ids must be non-negative, got -100"),
        ((1,), (Completion((1,), 0),), (), "completion 0's label must be 1 or -1, got 0"),
        ((1,), (Completion((1,), 1), Completion((2,), -1)), ((0, 2),), r"pairs must name two different .* got \(0, 2\)"),
        ((1,), (Completion((1,), 1), Completion((2,), -1)), ((1, 1),), "pairs must name two different"),
    ],
)
def test_invalid_groups_are_named(prompt, completions, pairs, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=f"group 'bad': {message}"):
        PromptGroup("bad", prompt, completions, pairs)


def test_ids_must_be_unique_and_groups_must_be_there(tmp_path: Path) -> None:
    groups = random_groups(1)
    with pytest.raises(ValueError, match="ids must be unique, got 'g0' 2 times"):
        write_groups(tmp_path, groups * 2)
    with pytest.raises(ValueError, match="at least one prompt group"):
        write_groups(tmp_path, [])
    with pytest.raises(FileNotFoundError, match="run the prepare stage"):
        read_groups(tmp_path)


def test_tokens_digest_sees_tokens_and_their_split_alone() -> None:
    def digest(prompt: tuple[int, ...], *completions: tuple[int, ...], label: int = 1) -> str:
        return tokens_digest([PromptGroup("x", prompt, tuple(Completion(ids, label) for ids in completions))])

    base = digest((1, 2), (3, 4), (5,))
    assert digest((1, 2), (3, 4), (5,), label=-1) == base
    others = [
        digest((1,), (2, 3, 4), (5,)),
        digest((1, 2), (3,), (4, 5)),
        digest((1, 2), (3, 4, 5)),
        digest((1, 2), (3, 4), (6,)),
    ]
    assert len({base, *others}) == 5


def test_files_and_digests_stay_what_they_are(tmp_path: Path) -> None:
    """Keys of artifacts and caches of references hang on them."""
    write_groups(tmp_path, random_groups(20))
    digests = {name: sha256((tmp_path / name).read_bytes()).hexdigest()[:16] for name in ("groups.safetensors", "groups.jsonl")}
    assert digests == {"groups.safetensors": "9bb3e8c3117f0941", "groups.jsonl": "aaaf78be177617eb"}
    groups = read_groups(tmp_path)
    assert tokens_digest(groups).startswith("5aa24a3e674b2be5")
    assert rows_digest(pack(groups, 64)).startswith("871e5d42e4226bfb")
    assert rows_digest(pack(groups, 64, share_prompts=False)).startswith("39c47122979d1205")
    assert rows_digest(kl_pair_rows(pack(groups, 64))).startswith("d9279fda073ed86c")


def test_groups_are_made_when_asked_for_and_hold_views_of_the_file(tmp_path: Path) -> None:
    plain = [
        *random_groups(6),
        PromptGroup("日本/é", (7,), (Completion((8, 9), 1, -2.5, "größe"), Completion((1,), -1, None, "")), ((0, 1),)),
        PromptGroup("", (2147483647, 0), (Completion((3,), -1, 0.0),)),
    ]
    write_groups(tmp_path, plain)
    groups = read_groups(tmp_path)
    assert len(groups) == 8 and groups == plain and plain == groups and groups == read_groups(tmp_path)
    assert groups != plain[:7] and groups != [*plain[1:], plain[0]]
    assert groups[-1] == plain[-1] and list(groups[2:7:2]) == plain[2:7:2] and groups[:3][-1] == plain[2]
    assert [group.num_tokens for group in groups] == [group.num_tokens for group in plain]
    with pytest.raises(IndexError):
        groups[8]
    group = groups[6]
    assert (group.id, group.pairs) == ("日本/é", ((0, 1),)) and hash(group) == hash(plain[6])
    assert [(one.label, one.score, one.source) for one in group.completions] == [(1, -2.5, "größe"), (-1, None, "")]
    assert type(group.completions[0].label) is int and type(group.pairs[0][0]) is int
    prompt, completion = np.asarray(group.prompt_ids), np.asarray(group.completions[0].token_ids)
    assert prompt.dtype == completion.dtype == np.int32 and prompt.base is completion.base
    assert not prompt.flags.writeable and isinstance(group.prompt_ids, TokenIds)


def test_a_file_of_another_writer_reads_the_same(tmp_path: Path) -> None:
    """The format alone counts, not the order of the arrays."""
    arrays = {
        "token_ids": np.array([1, 2, 3, 4, 5, 6], dtype=np.int32),
        "prompt_lengths": np.array([2, 1], dtype=np.int32),
        "completion_offsets": np.array([0, 1, 2]),
        "completion_lengths": np.array([1, 2], dtype=np.int32),
        "labels": np.array([1, -1], dtype=np.int8),
        "scores": np.array([np.nan, 0.5]),
        "pair_offsets": np.array([0, 0, 0]),
        "pairs": np.zeros((0, 2), dtype=np.int32),
        "id_bytes": np.frombuffer(b"onetwo", dtype=np.uint8),
        "id_offsets": np.array([0, 3, 6]),
        "source_bytes": np.frombuffer(b"x", dtype=np.uint8),
        "source_offsets": np.array([0, 1, 1]),
    }
    save_file(arrays, tmp_path / "groups.safetensors", metadata={"format": "bnf.groups/1"})
    assert read_groups(tmp_path) == [
        PromptGroup("one", (1, 2), (Completion((3,), 1, None, "x"),)),
        PromptGroup("two", (4,), (Completion((5, 6), -1, 0.5, ""),)),
    ]


def _set(name: str, place: Any, value: int) -> Callable[[dict[str, Any]], None]:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name][place] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("prompt_lengths", 1, 0), "group 'g1': prompt_ids must hold at least one token"),
        (_set("completion_offsets", 1, 0), "group 'g0': completions must hold at least one completion"),
        (_set("completion_lengths", 0, 0), "group 'g0': completion 0 must hold at least one token"),
        (_set("completion_lengths", -1, 0), "group 'g2': completion . must hold at least one token"),
        (_set("token_ids", 0, -100), "group 'g0': prompt_ids must be non-negative, got -100"),
        (_set("token_ids", -1, -3), "group 'g2': completion .'s token_ids must be non-negative, got -3"),
        (_set("labels", 0, 0), "group 'g0': completion 0's label must be 1 or -1, got 0"),
        (_set("pairs", (0, 1), 9), "group 'g0': pairs must name two different"),
        (_set("pairs", (0, 1), 0), "group 'g0': pairs must name two different"),
        (_set("id_offsets", 1, 5), "must have arrays that fit each other, got others"),
    ],
)
def test_a_file_with_an_invalid_group_is_refused_before_a_group_is_read(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    write_groups(tmp_path, random_groups(3, seed=1))
    path = tmp_path / "groups.safetensors"
    arrays = load_file(path)
    change(arrays)
    save_file(arrays, path, metadata={"format": "bnf.groups/1"})
    with pytest.raises(ValueError, match=message):
        read_groups(tmp_path)


def test_an_id_that_is_no_utf_8_is_refused_where_its_group_is_made(tmp_path: Path) -> None:
    write_groups(tmp_path, random_groups(3))
    path = tmp_path / "groups.safetensors"
    arrays = load_file(path)
    _set("id_bytes", 0, 255)(arrays)
    save_file(arrays, path, metadata={"format": "bnf.groups/1"})
    groups = read_groups(tmp_path)
    assert groups[1].id == "g1"
    with pytest.raises(ValueError, match=r"groups must have each id in UTF-8, got b'\\xff0' at 0; prepare the data again"):
        groups[0]


def test_a_file_that_was_cut_or_is_of_another_format_is_refused(tmp_path: Path) -> None:
    write_groups(tmp_path, random_groups(3))
    path = tmp_path / "groups.safetensors"
    whole = path.read_bytes()
    for size in (4, 200, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf"{path} must be a whole file of groups, .*; prepare the data again") as caught:
            read_groups(tmp_path)
        assert isinstance(caught.value.__cause__, SafetensorError)
    path.write_bytes(whole)
    save_file(load_file(path), path, metadata={"format": "bnf.groups/9"})
    with pytest.raises(ValueError, match=r"must be of format 'bnf.groups/1', got 'bnf.groups/9'; prepare the data again"):
        read_groups(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_the_pages_of_one_file(tmp_path: Path, method: str) -> None:
    """A process that was forked goes on with its parent's groups, one that was spawned reads them itself: neither has a copy."""
    ids, num_groups = np.arange(1000, dtype=np.int32), 2000
    write_groups(tmp_path, [PromptGroup(f"g{number}", ids, (Completion(ids, 1),)) for number in range(num_groups)])
    size = 4 * 2 * 1000 * num_groups
    groups = read_groups(tmp_path)
    assert sum(len(group.prompt_ids) for group in groups) == 1000 * num_groups
    context, (ours, theirs) = multiprocessing.get_context(method), multiprocessing.Pipe()
    source = groups if method == "fork" else tmp_path
    process = context.Process(target=memory_of_reading, args=(source, tmp_path / "groups.safetensors", theirs))
    process.start()
    assert ours.poll(120), "the process gave no answer"
    found = ours.recv()
    process.join()
    assert found["total"] == 2 * num_groups * int(ids.sum())
    assert found["Rss"] > 0.9 * size and found["Anonymous"] == 0 and found["added"] < size / 4
    assert found["Pss"] < 0.6 * found["Rss"], "every page counts half for each of the two"
