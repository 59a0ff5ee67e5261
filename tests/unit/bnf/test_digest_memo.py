"""What is remembered of a file's content holds as long as the file is that one."""

import json
import os
import shutil
from pathlib import Path

import pytest

from bnf.model import digests
from bnf.model.digests import file_state, model_digest


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "model.safetensors").write_bytes(b"1" * 64)
    return folder


def _set_back(path: Path, status: os.stat_result) -> None:
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _rewrite(path: Path) -> None:
    path.write_bytes(b"2" * 64)


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"2" * 64)
    _set_back(other, path.stat())
    os.replace(other, path)


@pytest.mark.parametrize("change", [_rewrite, _replace])
@pytest.mark.parametrize("new_process", [True, False])
def test_a_file_changed_in_place_with_size_and_time_kept_is_another(model, tmp_path, monkeypatch, change, new_process):
    memo = tmp_path / "digests.json"
    weights = model / "model.safetensors"
    status, before = weights.stat(), model_digest(model, memo)
    change(weights)
    _set_back(weights, status)
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    if new_process:
        monkeypatch.setattr(digests, "_memo", {})
    after = model_digest(model, memo)
    assert after != before
    assert after == model_digest(Path(shutil.copytree(model, tmp_path / "copy"))) == model_digest(model, fresh=True)


def test_a_change_of_mode_or_a_hard_link_leaves_the_digest(model, tmp_path):
    memo = tmp_path / "digests.json"
    before, state = model_digest(model, memo), file_state(model / "model.safetensors")
    (model / "model.safetensors").chmod(0o600)
    os.link(model / "model.safetensors", tmp_path / "second-name")
    assert file_state(model / "model.safetensors") != state
    assert model_digest(model, memo) == before


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "{",
        "\x00",
        '{"/m/model.safetensors|64|17": "0a"}',
        '{"PLACE": 7}',
        '{"PLACE": [1]}',
        '{"PLACE": [1, 2]}',
        '"x"',
    ],
)
def test_a_memo_of_another_form_is_made_anew(model, tmp_path, monkeypatch, text):
    memo = tmp_path / "digests.json"
    before = model_digest(model)
    memo.write_text(text.replace("PLACE", str((model / "model.safetensors").resolve())))
    monkeypatch.setattr(digests, "_memo", {})
    assert model_digest(model, memo) == before
    entries = json.loads(memo.read_text())
    assert sorted(entries) == sorted(str(path.resolve()) for path in model.iterdir())


def test_what_is_remembered_of_other_folders_stays(model, tmp_path, monkeypatch):
    other, memo = Path(shutil.copytree(model, tmp_path / "second")), tmp_path / "digests.json"
    model_digest(model, memo)
    monkeypatch.setattr(digests, "_memo", {})
    model_digest(other, memo)
    monkeypatch.setattr(digests, "_memo", {})
    monkeypatch.setattr(digests, "file_digest", lambda *_: pytest.fail("read a file that was known"))
    assert model_digest(model, memo) == model_digest(other, memo)
