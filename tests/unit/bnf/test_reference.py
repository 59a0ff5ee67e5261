import json
import os
from pathlib import Path

import pytest
import torch

from bnf.data.groups import write_groups
from bnf.data.packing import pack
from bnf.model.loading import load_model
from bnf.model.logps import row_logps
from bnf.reference import cache as reference
from bnf.reference.cache import cache_reference, read_reference
from tests.unit.bnf.helpers import random_groups

SETTINGS = {"max_tokens_per_row": 64, "bf16": True}


class Killed(Exception):
    pass


def ignore(done: int, total: int, note: str) -> None:
    pass


def test_cached_values_are_the_policys_own_to_the_bit(tiny_model_dir: Path, tmp_path: Path) -> None:
    groups = random_groups(20)
    write_groups(tmp_path / "groups", groups)
    reported: list[tuple[int, int]] = []
    index = cache_reference(
        tiny_model_dir, tmp_path / "groups", tmp_path / "out", **SETTINGS, progress=lambda d, t, n: reported.append((d, t))
    )
    total = sum(group.num_tokens for group in groups)
    assert reported[-1] == (total, total) and index.num_tokens == total
    rows = pack(groups, 64)
    model = load_model(tiny_model_dir).train()
    for row, values in zip(rows, read_reference(tmp_path / "out", rows, **SETTINGS), strict=True):
        policy = row_logps(model, row, bf16=True, entropies=True)
        assert values.logps.dtype == torch.float32
        assert torch.equal(values.logps, policy.logps) and torch.equal(values.log_odds, policy.log_odds)


def test_a_killed_pass_resumes_at_the_first_missing_shard(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "_SHARD_TOKENS", 128)
    groups = random_groups(40)
    write_groups(tmp_path / "groups", groups)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    cache_reference(tiny_model_dir, tmp_path / "groups", whole, **SETTINGS, progress=ignore)

    def kill(done: int, total: int, note: str) -> None:
        if done > total / 2:
            raise Killed

    with pytest.raises(Killed):
        cache_reference(tiny_model_dir, tmp_path / "groups", killed, **SETTINGS, progress=kill)
    kept = {path.name: path.stat().st_mtime_ns for path in killed.glob("*.safetensors")}
    assert kept and not (killed / "index.json").exists()
    with pytest.raises(FileNotFoundError, match="run the reference stage"):
        read_reference(killed, pack(groups, 64), **SETTINGS)

    cache_reference(tiny_model_dir, tmp_path / "groups", killed, **SETTINGS, progress=ignore)
    for path in whole.glob("*.safetensors"):
        assert (killed / path.name).read_bytes() == path.read_bytes()
        assert path.name not in kept or (killed / path.name).stat().st_mtime_ns == kept[path.name]


def test_a_shard_that_is_not_whole_is_computed_again_and_not_read(tiny_model_dir: Path, tmp_path: Path) -> None:
    groups = random_groups(8)
    write_groups(tmp_path / "groups", groups)
    cache_reference(tiny_model_dir, tmp_path / "groups", tmp_path / "out", **SETTINGS, progress=ignore)
    (shard,) = (tmp_path / "out").glob("*.safetensors")
    content = shard.read_bytes()
    shard.write_bytes(content[:-8])
    with pytest.raises(ValueError, match=rf"reference_dir must hold whole shards, got {shard} .*; delete index.json beside it"):
        read_reference(tmp_path / "out", pack(groups, 64), **SETTINGS)
    (tmp_path / "out" / "index.json").unlink()
    cache_reference(tiny_model_dir, tmp_path / "groups", tmp_path / "out", **SETTINGS, progress=ignore)
    assert shard.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"\0" * 64])
def test_notes_that_a_power_cut_left_are_made_anew(content: bytes, tiny_model_dir: Path, tmp_path: Path) -> None:
    write_groups(tmp_path / "groups", random_groups(8))
    cache_reference(tiny_model_dir, tmp_path / "groups", tmp_path / "out", **SETTINGS, progress=ignore)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for name in ("index.json", "numerics.json"):
        (tmp_path / "out" / name).write_bytes(content)
    cache_reference(tiny_model_dir, tmp_path / "groups", tmp_path / "out", **SETTINGS, progress=ignore)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == whole


def test_a_shard_is_on_the_disk_before_it_has_its_name(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name and its header it is taken, and not computed again: zeros after the header would be taken too."""
    write_groups(tmp_path / "groups", random_groups(8))
    synced: set[int] = set()
    named: dict[str, bool] = {}
    replace = os.replace

    def note_name(source: Path, target: Path) -> None:
        named[Path(target).name] = Path(source).stat().st_ino in synced
        replace(source, target)

    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.add(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(os, "replace", note_name)
    cache_reference(tiny_model_dir, tmp_path / "groups", tmp_path / "out", **SETTINGS, progress=ignore)
    assert named == {"numerics.json": True, "reference-00000.safetensors": True, "index.json": True}


def test_shards_of_other_data_are_not_reused(tiny_model_dir: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        write_groups(tmp_path / name, random_groups(5, seed=seed))
    first = cache_reference(tiny_model_dir, tmp_path / "a", tmp_path / "out", **SETTINGS, progress=ignore)
    second = cache_reference(tiny_model_dir, tmp_path / "b", tmp_path / "out", **SETTINGS, progress=ignore)
    fresh = cache_reference(tiny_model_dir, tmp_path / "b", tmp_path / "fresh", **SETTINGS, progress=ignore)
    assert first.key != second.key == fresh.key
    for shard in fresh.shards:
        assert (tmp_path / "out" / shard.file).read_bytes() == (tmp_path / "fresh" / shard.file).read_bytes()


@pytest.mark.parametrize(("name", "value"), [("max_tokens_per_row", 128), ("bf16", False)])
def test_a_cache_of_other_settings_is_refused(tiny_model_dir: Path, tmp_path: Path, name: str, value: int) -> None:
    groups = random_groups(5)
    write_groups(tmp_path / "groups", groups)
    cache_reference(tiny_model_dir, tmp_path / "groups", tmp_path / "out", **SETTINGS, progress=ignore)
    rows = pack(groups, 64)
    with pytest.raises(ValueError, match=f"reference_dir's {name} must be {value}"):
        read_reference(tmp_path / "out", rows, **(SETTINGS | {name: value}))
    with pytest.raises(ValueError, match="reference_dir's share_prompts must be False, got True"):
        read_reference(tmp_path / "out", pack(groups, 128, share_prompts=False), **SETTINGS)
    with pytest.raises(ValueError, match="made from other groups"):
        read_reference(tmp_path / "out", pack(random_groups(5, seed=4), 64), **SETTINGS)


def test_the_index_says_what_it_depends_on(tiny_model_dir: Path, tmp_path: Path) -> None:
    write_groups(tmp_path / "groups", random_groups(5))
    cache_reference(tiny_model_dir, tmp_path / "groups", tmp_path / "out", **SETTINGS, progress=ignore)
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert {"model", "rows", "max_tokens_per_row", "bf16", "share_prompts", "head_logits", "attention"} <= set(index)


def test_a_cache_of_other_values_is_not_taken_and_computed_anew(tiny_model_dir: Path, tmp_path: Path) -> None:
    write_groups(tmp_path / "groups", random_groups(4))
    out = tmp_path / "out"
    first = cache_reference(tiny_model_dir, tmp_path / "groups", out, **SETTINGS, progress=ignore)
    index = json.loads((out / "index.json").read_text())
    again = cache_reference(tiny_model_dir, tmp_path / "groups", out, **SETTINGS | {"bf16": False}, progress=ignore)
    assert again.key != first.key and json.loads((out / "index.json").read_text())["bf16"] is not index["bf16"]
    rows = pack(random_groups(4), 64)
    model = load_model(tiny_model_dir)
    for row, values in zip(rows, read_reference(out, rows, **SETTINGS | {"bf16": False}), strict=True):
        assert torch.equal(values.logps, row_logps(model, row, bf16=False).logps)
