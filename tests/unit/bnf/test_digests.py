import json
import shutil
from pathlib import Path

import pytest

from bnf.model import digests
from bnf.model.digests import model_digest


def test_digest_follows_content_and_nothing_else(tiny_model_dir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_model_dir, tmp_path / "elsewhere"))
    base = model_digest(tiny_model_dir)
    (copy / "README.md").write_text("notes")
    (copy / "trainer_state.json").write_text("{}")
    assert model_digest(copy) == base
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        original = (copy / name).read_bytes()
        changed = bytearray(original)
        changed[-1] ^= 1
        (copy / name).write_bytes(changed)
        assert model_digest(copy) != base, name
        (copy / name).write_bytes(original)
        assert model_digest(copy) == base, name
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert model_digest(copy) != base


def test_memo_file_saves_reading(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memo = tmp_path / "cache" / "digests.json"
    monkeypatch.setattr(digests, "_memo", {})
    base = model_digest(tiny_model_dir, memo)
    assert any("model.safetensors" in key for key in json.loads(memo.read_text()))

    def refuse(*args: object) -> None:
        raise AssertionError("read a file that was known")

    monkeypatch.setattr(digests, "_memo", {})
    monkeypatch.setattr(digests, "file_digest", refuse)
    assert model_digest(tiny_model_dir, memo) == base


def test_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must be a folder with config.json"):
        model_digest(tmp_path)


def test_a_weights_file_that_leads_to_nothing_is_named(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../blobs/1")
    with pytest.raises(FileNotFoundError, match=r"got .*model.safetensors, which leads to nothing \(\.\./blobs/1\)"):
        model_digest(folder)
