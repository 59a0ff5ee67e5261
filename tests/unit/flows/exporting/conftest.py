"""A home, and a base model with a licence, for what is done with a run's policy."""

import shutil

import pytest

from tests.unit.flows.exporting.exports import PROGRAMS


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("BNF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("flows.runs.policy.package_version", {"vllm": "0.32.0"}.get)
    monkeypatch.setenv("PATH", f"{PROGRAMS}:/usr/bin")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def base(tiny_model_dir, tmp_path):
    """A base model's folder of its own, with a licence."""
    folder = tmp_path / "base-model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "README.md").write_text("---\nlicense: llama3\n---\n# Base\n")
    (folder / "LICENSE").write_text("terms")
    return folder
