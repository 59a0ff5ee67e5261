"""An export that is pushed to a hub: all of it and nothing else, or a refusal before anything is copied."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from flows.errors import RecipeError
from tests.unit.flows.exporting.exports import exported, lora
from tests.unit.flows.policy_runs import policy_run


class Hub:
    """Stands in for HfApi, and keeps what it is asked for."""

    def __init__(self, refuses: str | None = None, there: Sequence[str] = ()) -> None:
        self.calls: list[Any] = []
        self.refuses = refuses
        self.there = {".gitattributes", *there}

    def whoami(self) -> dict[str, str]:
        if self.refuses == "whoami":
            raise OSError("no token")
        return {"name": "me"}

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        self.calls.append((repo_id, private, exist_ok))
        return f"https://hub/{repo_id}"

    def model_info(self, repo_id: str) -> SimpleNamespace:
        return SimpleNamespace(sha="c0ffee", siblings=[SimpleNamespace(rfilename=name) for name in sorted(self.there)])

    def create_commit(self, repo_id: str, operations: list[Any], *, commit_message: str, parent_commit: str) -> None:
        if self.refuses == "upload":
            raise OSError("the network is gone")
        assert parent_commit == "c0ffee"
        added = {one.path_in_repo for one in operations if isinstance(one, CommitOperationAdd)}
        self.there = {*self.there, *added} - {one.path_in_repo for one in operations if isinstance(one, CommitOperationDelete)}
        self.calls.append((repo_id, sorted(added), commit_message))


def test_the_push_takes_the_whole_folder_to_a_model_that_nobody_else_sees(home, base, tmp_path, monkeypatch, capsys):
    hub, run = Hub(), policy_run(home, base)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    out = exported(run.id, hub_id="me/mine")
    files = sorted(path.name for path in out.iterdir())
    assert hub.calls == [("me/mine", True, True), ("me/mine", files, f"The policy of {run.id}")]
    assert 'from_pretrained("me/mine"' in (out / "README.md").read_text()
    assert "hub     https://hub/me/mine" in capsys.readouterr().out


def test_a_push_over_an_earlier_model_leaves_none_of_its_files(home, base, tmp_path, monkeypatch, capsys):
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    others = [
        "pytorch_model.bin",
        "adapter_config.json",
        "added_tokens.json",
        "additional_chat_templates/tool_use.jinja",
        "NOTICE",
    ]
    mine = ["figures/loss.png", "notes.md", "runs/old/model.safetensors"]
    hub, run = Hub(there=[*shards, *others, *mine, "config.json", "README.md"]), policy_run(home, base)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    out = exported(run.id, hub_id="me/mine")
    assert hub.there == {".gitattributes", *mine, *(path.name for path in out.iterdir())}
    assert len(hub.calls) == 2, "one commit: nobody loads the parts of two models"
    assert (
        f"deleted there, as they are of an earlier model: {', '.join(sorted([*shards, *others]))};" in capsys.readouterr().out
    )


def test_a_push_that_cannot_succeed_is_refused_before_anything_is_copied(home, base, tmp_path, monkeypatch):
    run = policy_run(home, base, adapter=lora(base, home)[1], train={"lora_r": 12})
    for hub_id, refuses, adapter, message in (
        ("a/b/c", None, False, "--push-to-hub must be a hub id such as owner/name, got 'a/b/c'"),
        ("mine", None, False, "--push-to-hub must be a hub id with its owner, got 'mine'; write OWNER/mine"),
        ("me/mine", "whoami", False, "--push-to-hub must reach the hub with a token .* no token; log in"),
        ("me/mine", None, True, "--push-to-hub must have a base model that others find beside --adapter, got the folder"),
    ):
        monkeypatch.setattr("huggingface_hub.HfApi", lambda refuses=refuses: Hub(refuses))
        with pytest.raises(RecipeError, match=message):
            exported(run.id, hub_id=hub_id, adapter=adapter)
        assert not (tmp_path / "out").exists()


def test_a_push_that_fails_leaves_the_export_and_says_how_to_push_it(home, base, tmp_path, monkeypatch):
    run = policy_run(home, base)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: Hub("upload"))
    with pytest.raises(
        RuntimeError,
        match=r"me/mine was not pushed \(OSError: the network is gone\).*`hf upload me/mine .*/out . --delete '\*'`",
    ):
        exported(run.id, hub_id="me/mine")
    assert (tmp_path / "out" / "README.md").exists()
