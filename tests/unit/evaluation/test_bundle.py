"""A bundle says what it has, what it lacks, and what of it has changed."""

import hashlib
import json

import pytest

from evaluation import bundle
from evaluation.bundle import (
    Bundle,
    NotInBundle,
    Part,
    damage,
    in_bundle,
    opened,
    part_key,
    set_variant,
    url_name,
    write_bundle,
)


def part(folder, kind, name, commit, place, files, revisions=("main",), variant=""):
    noted = {}
    for path, content in files.items():
        file = folder / place / path if path else folder / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        noted[path] = (len(content), hashlib.sha256(content).hexdigest())
    return Part(kind, name, commit, list(revisions), variant, place, noted)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    parts = [
        part(tmp_path, "model", "a/b", "1" * 40, "models/new", {"config.json": b"{}", "deep/w.safetensors": b"weights"}),
        part(tmp_path, "model", "a/b", "0" * 40, "models/old", {"config.json": b"{ }"}, ["v1"]),
        part(tmp_path, "dataset", "a/b", "2" * 40, "datasets/main", {"x.jsonl": b"{}"}, variant="main"),
        part(tmp_path, "url", "https://host/a.jsonl", "tag", "urls/1/a.jsonl", {"": b"{}\n"}),
    ]
    write_bundle(Bundle(tmp_path, {part_key(one.kind, one.name, one.commit, one.variant): one for one in parts}))
    monkeypatch.setenv("BNF_OFFLINE", str(tmp_path))
    return tmp_path


def test_a_branch_a_tag_and_a_commit_lead_to_a_part(folder):
    found = opened()
    assert (
        found.commit("model", "a/b", None)
        == found.commit("model", "a/b", "main")
        == found.commit("model", "a/b", "1" * 40)
        == "1" * 40
    )
    assert found.commit("model", "a/b", "v1") == "0" * 40 and found.commit("model", "a/b", "v2") is None
    assert (
        found.find("model", "a/b", None) == folder / "models/new" and found.find("model", "a/b", "v1") == folder / "models/old"
    )
    assert found.find("dataset", "a/b", "2" * 40, "main") == folder / "datasets/main"
    assert in_bundle("https://host/a.jsonl") == str(folder / "urls/1/a.jsonl")
    assert in_bundle("/a/b.jsonl") == "/a/b.jsonl" and in_bundle("file:///a.jsonl") == "file:///a.jsonl"


def test_what_is_missing_is_named_with_the_remedy(folder):
    remedy = rf"run `bnf fetch RECIPE --to {folder}` on a machine with a network, and bring the folder here"
    for given, what in [
        (("model", "c/d", None), "the model c/d"),
        (("model", "a/b", "v2"), "the model a/b at v2"),
        (("dataset", "a/b", None, "other"), "the data set a/b in the configuration other"),
    ]:
        with pytest.raises(NotInBundle, match=rf"the bundle {folder} has not {what}; {remedy}"):
            opened().find(*given)
    with pytest.raises(NotInBundle, match=r"has not the content of https://host/b.jsonl"):
        in_bundle("https://host/b.jsonl")


def test_a_file_that_is_gone_cut_or_changed_is_refused(folder):
    weights, whole = folder / "models/new/deep/w.safetensors", opened().parts[part_key("model", "a/b", "1" * 40)]
    for content, wrong, sees_by_size in [
        (b"WEIGHTS", "which has changed since it was fetched", False),
        (b"weig", "of 4 bytes instead of 7", True),
        (None, "no models/new/deep/w.safetensors", True),
    ]:
        weights.unlink() if content is None else weights.write_bytes(content)
        bundle._sha256.cache_clear()
        with pytest.raises(NotInBundle, match=wrong):
            opened().find("model", "a/b", None)
        assert (damage(whole, folder, by_size=True) is not None) == sees_by_size
    assert opened().find("model", "a/b", "v1")


def test_what_was_not_fetched_and_what_leads_elsewhere_is_refused(folder, tmp_path):
    place, secret = folder / "models/new", tmp_path.parent / "secret.json"
    secret.write_text("{}")
    (place / "more.json").write_text("{}")
    with pytest.raises(NotInBundle, match=r"more\.json, which was not fetched"):
        opened().find("model", "a/b", None)
    (place / "more.json").unlink()
    (place / "more.json").symlink_to(secret)
    with pytest.raises(NotInBundle, match=r"more\.json, which leads out of it"):
        opened().find("model", "a/b", None)
    (place / "more.json").unlink()
    assert opened().find("model", "a/b", None) == place
    manifest = json.loads((folder / "bundle.json").read_text())
    for change in ({"place": "/etc"}, {"place": "models/../../x"}, {"files": {"../secret.json": [2, "0"]}}):
        key = next(iter(manifest["parts"]))
        changed = {**manifest, "parts": {key: {**manifest["parts"][key], **change}}}
        (folder / "bundle.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match="leads out of its folder"):
            opened()


def test_no_bundle_and_one_of_another_version(folder, tmp_path, monkeypatch):
    (folder / "bundle.json").write_text(json.dumps({"format": 2, "parts": {}}))
    with pytest.raises(ValueError, match="got ValueError: format 2, and this version reads 1; run `bnf fetch"):
        opened()
    monkeypatch.setenv("BNF_OFFLINE", str(tmp_path / "none"))
    with pytest.raises(NotInBundle, match=r"BNF_OFFLINE must name a bundle, got .*/none, which holds no bundle.json"):
        opened()
    monkeypatch.delenv("BNF_OFFLINE")
    assert opened() is None and in_bundle("https://host/a.jsonl") == "https://host/a.jsonl"


def test_names_hold_no_key_and_tell_urls_apart():
    one, other = "https://me:secret@host/a.jsonl?id=1", "https://host/a.jsonl?id=2"
    assert (
        url_name(one).startswith("https://host/a.jsonl?") and "secret" not in url_name(one) and url_name(one) != url_name(other)
    )
    assert url_name("s3://bucket/a") == "s3://bucket/a"
    # The container stands where others have a user.
    assert len({url_name(f"abfs://{container}@account/a.jsonl") for container in ("one", "two")}) == 2
    assert set_variant(None) == "default" and set_variant("main", {"data_dir": None}) == "main"
    assert set_variant(None, {"data_dir": "x"}) == 'default {"data_dir": "x"}'
