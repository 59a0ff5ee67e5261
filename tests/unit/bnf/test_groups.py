from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from bnf.data.groups import Completion, GroupsWriter, PromptGroup, read_groups, tokens_digest, write_groups
from tests.unit.bnf.helpers import random_groups


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


def test_texts_go_beside_the_groups(tmp_path: Path) -> None:
    group = PromptGroup("g", (1, 2), (Completion((3,), 1), Completion((4,), -1)))
    text = {"messages": [{"role": "user", "content": "hi"}], "completions": ["yes", "no"]}
    write_groups(tmp_path, [group], [text])
    line = (tmp_path / "groups.jsonl").read_text()
    assert '"content": "hi"' in line and '"text": "no"' in line
    with pytest.raises(ValueError, match="group 'g': texts must hold"):
        write_groups(tmp_path, [group], [{"messages": [], "completions": ["yes"]}])


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
