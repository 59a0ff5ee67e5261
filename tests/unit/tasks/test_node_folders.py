"""On a node of a cluster a folder of the run's machine is found under its path, or fetched from the shared store."""

import json
from pathlib import Path

import pytest

from flows.errors import RecipeError
from flows.runs.garbage import collect
from tasks import node_folders
from tasks.keys import Ingredients
from tasks.node_folders import ArtifactFolder
from tasks.remote import Remote, RemoteError
from tasks.store import Store

MADE_OF = Ingredients("train", {"seed": 0}, {"data": "abc"}, {"tasks.stages.train": "def"})


@pytest.fixture
def node(tmp_path, monkeypatch):
    """The environment of Ray on a node: a home of its own and the shared store."""
    monkeypatch.setenv("BNF_HOME", str(tmp_path / "node"))
    monkeypatch.setenv("BNF_STORE", f"file://{tmp_path}/shared")
    return tmp_path / "node"


@pytest.fixture
def policy(tmp_path) -> Path:
    """The policy's folder on the run's machine, published and then out of the node's sight."""
    store = Store(tmp_path / "first" / "artifacts", Remote(f"file://{tmp_path}/shared"))
    work = store.work_folder("train", MADE_OF.key())
    (work / "policy").mkdir()
    (work / "policy" / "model.safetensors").write_text("weights")
    made = store.publish(store.commit(MADE_OF, work, content=("policy/*",), fingerprint=None, about={"seconds": 1.0}))
    (tmp_path / "first").rename(tmp_path / "out of sight")
    return made.path / "policy"


def test_an_artifact_comes_from_the_store_into_the_nodes_home(tmp_path, policy, node, capsys):
    found = ArtifactFolder(str(tmp_path / "first" / "artifacts"))(str(policy))
    assert found == str(node / "artifacts" / policy.relative_to(tmp_path / "first" / "artifacts"))
    assert (Path(found) / "model.safetensors").read_text() == "weights"
    assert f"from file://{tmp_path}/shared in" in capsys.readouterr().out
    # It is an artifact of that home now, and isn't fetched twice.
    assert Store(node / "artifacts").find("train", MADE_OF.key()) is not None
    ArtifactFolder(str(tmp_path / "first" / "artifacts"))(str(policy))
    assert capsys.readouterr().out == ""


def test_one_that_is_damaged_under_the_same_path_is_fetched_anew(tmp_path, policy, node, monkeypatch):
    monkeypatch.setenv("BNF_HOME", str(tmp_path / "first"))
    policy.mkdir(parents=True)
    (policy / "model.safetensors").write_text("half")
    found = ArtifactFolder(str(tmp_path / "first" / "artifacts"))(str(policy))
    assert found == str(policy) and (policy / "model.safetensors").read_text() == "weights"


def test_what_the_store_lacks_is_refused(tmp_path, policy, node):
    for manifest in (tmp_path / "shared").rglob("manifest.json"):
        manifest.write_text(json.dumps({}))
    with pytest.raises(RemoteError, match=r"must be a complete artifact, got no manifest\.json"):
        ArtifactFolder(str(tmp_path / "first" / "artifacts"))(str(policy))


def test_a_folder_of_links_comes_from_no_store_and_the_remedy_says_so(tmp_path, node):
    """A recipe's chat template is in a folder that links to the model's files."""
    model, root = tmp_path / "model", tmp_path / "first" / "artifacts"
    linked = root / "resolve" / "abc.def" / "model"
    with pytest.raises(
        ValueError,
        match=r"chat_template_kwargs must be on every node .* comes from no BNF_STORE; mount the home of the run's machine",
    ):
        ArtifactFolder(str(root))(str(linked))
    linked.mkdir(parents=True)
    (linked / "model.safetensors").symlink_to(model / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"must be on every node under the same path, got .*/model/model\.safetensors, which isn't on"
    ):
        ArtifactFolder(str(root))(str(linked))
    model.mkdir()
    (model / "model.safetensors").write_text("weights")
    assert ArtifactFolder(str(root))(str(linked)) == str(linked)


def test_without_a_store_the_home_must_be_mounted(tmp_path, policy, node, monkeypatch):
    monkeypatch.delenv("BNF_STORE")
    folder = ArtifactFolder(str(tmp_path / "first" / "artifacts"))
    with pytest.raises(
        ValueError, match=r"BNF_STORE must be set where Ray is started on .*, got none, and .*/policy isn't there"
    ):
        folder(str(policy))
    policy.mkdir(parents=True)
    assert folder(str(policy)) == str(policy)


def test_a_home_must_have_an_absolute_path(tmp_path, policy, node, monkeypatch):
    monkeypatch.setenv("BNF_HOME", "here")
    with pytest.raises(ValueError, match=r"BNF_HOME must be an absolute path where Ray is started on .*, got here"):
        ArtifactFolder(str(tmp_path / "first" / "artifacts"))(str(policy))


@pytest.mark.parametrize("store", ["shared", "./shared", "file://shared", "file:shared"])
def test_a_store_must_have_an_absolute_path(tmp_path, policy, node, monkeypatch, store):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BNF_STORE", store)
    with pytest.raises(
        ValueError, match=r"BNF_STORE must be an absolute path or a URL where Ray is started on .*, got " + store
    ):
        ArtifactFolder(str(tmp_path / "first" / "artifacts"))(str(policy))
    for whole in (f"{tmp_path}/shared", f"file:{tmp_path}/shared"):
        monkeypatch.setenv("BNF_STORE", whole)
        assert Path(ArtifactFolder(str(tmp_path / "first" / "artifacts"))(str(policy))).is_dir()


def test_gc_on_a_node_waits_for_the_workers_end_and_then_drops_what_was_fetched(tmp_path, policy, node):
    found = ArtifactFolder(str(tmp_path / "first" / "artifacts"))(str(policy))
    with pytest.raises(RecipeError, match=r"gc must have .* or a worker on Ray of another machine's run; wait for it"):
        collect(node, dry_run=False)
    assert Path(found).is_dir()
    node_folders._held.close()
    assert [one["stage"] for one in collect(node, dry_run=False)] == ["train"] and not Path(found).exists()


def test_what_is_no_artifact_must_be_at_the_same_path(tmp_path, node):
    folder = ArtifactFolder(str(tmp_path / "first" / "artifacts"))
    (tmp_path / "base").mkdir()
    assert folder(str(tmp_path / "base")) == str(tmp_path / "base")
    with pytest.raises(ValueError, match=r"must be on every node under the same path, got .*/other"):
        folder(str(tmp_path / "other"))
