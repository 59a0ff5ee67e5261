"""The shared store, on an S3 server on loopback: two machines are two folders with one store."""

import dataclasses
import json
import os
import re
import shutil

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from tasks.keys import Ingredients
from tasks.remote import Remote, RemoteError
from tasks.store import Store

MADE_OF = Ingredients("train", {"seed": 0}, {"data": "abc"}, {"tasks.stages.train": "def"})
KEY = MADE_OF.key()


@pytest.fixture(scope="module")
def s3():
    server = ThreadedMotoServer(port=0)
    server.start()
    address, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{address}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield
    server.stop()


@pytest.fixture(params=["s3", "folder"])
def url(request, tmp_path):
    if request.param == "folder":
        return f"file://{tmp_path}/shared"
    request.getfixturevalue("s3")
    bucket = f"bucket-{os.urandom(4).hex()}"
    fsspec.filesystem("s3", use_listings_cache=False).mkdir(bucket)
    return f"s3://{bucket}/artifacts"


def machine(tmp_path, name, url) -> Store:
    return Store(tmp_path / name, Remote(url))


def make(store, text="weights"):
    work = store.work_folder("train", KEY)
    (work / "policy").mkdir()
    (work / "policy" / "model.safetensors").write_text(text)
    (work / "metrics.jsonl").write_text("{}")
    return store.commit(MADE_OF, work, content=("policy/*",), fingerprint=None, about={"seconds": 1.0})


def files(url) -> set[str]:
    system, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return {name.removeprefix(root).lstrip("/") for name in system.find(root)}


def test_what_one_machine_made_the_other_has(tmp_path, url):
    first, second = machine(tmp_path, "first", url), machine(tmp_path, "second", url)
    assert first.find("train", KEY) is None
    made = make(first)
    assert first.publish(made) == made
    found = second.find("train", KEY)
    assert found is not None and found.fingerprint == made.fingerprint and second.manifest(found) == made.manifest
    # Nothing is brought before it is read.
    assert not found.path.exists() and second.available(found)
    assert (second.fetch(found) / "policy" / "model.safetensors").read_text() == "weights"
    offline = Store(tmp_path / "second")
    assert offline.find("train", KEY) == found


def test_a_reader_that_needs_no_weights_brings_none(tmp_path, url):
    make_and_publish(tmp_path, url)
    second = machine(tmp_path, "second", url)
    folder = second.fetch(second.find("train", KEY), ["*.safetensors"])
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {"metrics.jsonl", "manifest.json"}
    # A part is no artifact; the whole is brought when it is asked for.
    assert Store(tmp_path / "second").find("train", KEY) is None
    assert (second.fetch(second.find("train", KEY)) / "policy" / "model.safetensors").exists()


def make_and_publish(tmp_path, url, text="weights"):
    store = machine(tmp_path, "first", url)
    return store.publish(make(store, text))


def test_the_first_to_put_wins(tmp_path, url):
    first, second = machine(tmp_path, "first", url), machine(tmp_path, "second", url)
    # Both found nothing, and both made it, with other bits.
    assert first.find("train", KEY) is None and second.find("train", KEY) is None
    winner = first.publish(make(first, "one"))
    loser = make(second, "two")
    held = second.publish(loser)
    assert held.fingerprint == winner.fingerprint != loser.fingerprint
    assert (second.fetch(held) / "policy" / "model.safetensors").read_text() == "one"
    assert Store(tmp_path / "second").find("train", KEY) == held
    # A forced run says otherwise.
    forced = second.publish(loser, replace=True)
    assert forced == loser
    assert machine(tmp_path, "third", url).find("train", KEY).fingerprint == loser.fingerprint


def test_one_that_another_machine_did_not_wait_for_is_shared_beside_the_one_that_counts(tmp_path, url):
    counts = make_and_publish(tmp_path, url)
    second = machine(tmp_path, "second", url)
    made = make(second, "other weights")
    assert second.share(made) == made and second.share(made) == made
    third = machine(tmp_path, "third", url)
    here = third.fetch(dataclasses.replace(made, path=third.root / made.folder))
    assert (here / "policy" / "model.safetensors").read_text() == "other weights"
    found = machine(tmp_path, "fourth", url).find("train", KEY)
    assert found is not None and found.fingerprint == counts.fingerprint
    # Without a shared store there is nobody to share with.
    alone = Store(tmp_path / "alone")
    assert alone.share(one := make(alone)) == one


def test_an_upload_that_broke_off_is_nothing_yet_and_is_gone_on_with(tmp_path, url, monkeypatch):
    first = machine(tmp_path, "first", url)
    made = make(first)
    put = first.remote._files.put_file

    def break_off(source, target):
        if target.endswith("manifest.json"):
            raise ConnectionError("the line is down")
        put(source, target)

    monkeypatch.setattr(first.remote._files, "put_file", break_off)
    with pytest.raises(RemoteError, match=r"BNF_STORE must be reachable, got ConnectionError .*the line is down"):
        first.publish(made)
    assert machine(tmp_path, "second", url).find("train", KEY) is None
    monkeypatch.undo()
    machine(tmp_path, "first", url).publish(made)
    assert machine(tmp_path, "second", url).find("train", KEY) is not None


def test_a_download_that_broke_off_is_gone_on_with(tmp_path, url, monkeypatch):
    make_and_publish(tmp_path, url)
    second = machine(tmp_path, "second", url)
    get, fetched = second.remote._files.get_file, []

    def break_off(source, target):
        if fetched:
            raise ConnectionError("the line is down")
        fetched.append(source)
        get(source, target)

    monkeypatch.setattr(second.remote._files, "get_file", break_off)
    with pytest.raises(RemoteError, match=r"BNF_STORE must be reachable, got ConnectionError .*the line is down"):
        second.fetch(second.find("train", KEY))
    assert Store(tmp_path / "second").find("train", KEY) is None
    rest = []
    monkeypatch.setattr(second.remote._files, "get_file", lambda source, target: (rest.append(source), get(source, target)))
    second.fetch(second.find("train", KEY))
    assert not set(rest) & set(fetched)
    assert Store(tmp_path / "second").find("train", KEY) is not None


def test_what_was_altered_there_is_refused(tmp_path, url):
    made = make_and_publish(tmp_path, url)
    system, root = fsspec.core.url_to_fs(url)
    system.pipe_file(f"{root}/train/{made.path.name}/policy/model.safetensors", b"WEIGHTS")
    second = machine(tmp_path, "second", url)
    with pytest.raises(RemoteError, match=r"model\.safetensors must have sha256 .* --refresh train"):
        second.fetch(second.find("train", KEY))
    # The remedy: a forced run puts its files there, though they have the same fingerprint.
    assert second.publish(make(second), replace=True).fingerprint == made.fingerprint
    third = machine(tmp_path, "third", url)
    assert (third.fetch(third.find("train", KEY)) / "policy" / "model.safetensors").read_text() == "weights"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("policy/model.safetensors", None, r"policy/model\.safetensors is missing"),
        ("policy/model.safetensors", b"weig", r"policy/model\.safetensors has 4 bytes, its manifest says 7"),
        ("manifest.json", None, r"has no manifest\.json that can be read"),
        ("manifest.json", b"{", r"has no manifest\.json that can be read"),
        ("manifest.json", b"{}", r"has no manifest\.json that can be read"),
        (None, b"", None),
        (None, b"\xff\xfe", None),
        (None, b"[]", None),
        (None, b'{"fingerprint": "../../../escaped"}', None),
    ],
)
@pytest.mark.parametrize("bits", ["weights", "WEIGHTS"])
def test_what_is_damaged_there_is_made_anew_and_put_again(tmp_path, url, name, content, problem, bits):
    """A lost or cut file, manifest or pointer in the shared store is a miss; the machine that notices mends it."""
    made = make_and_publish(tmp_path, url)
    system, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    path = f"{root}/train/{made.path.name}/{name}" if name else f"{root}/train/{KEY}.json"
    system.rm_file(path) if content is None else system.pipe_file(path, content)
    second = machine(tmp_path, "second", url)
    there = dataclasses.replace(made, path=second.root / "train" / made.path.name)
    assert second.find("train", KEY) is None and second.available(there) == (name is None)
    found = second.problem("train", KEY)
    assert found is None if problem is None else re.search(problem, found)
    mended = second.publish(make(second, bits))
    third = machine(tmp_path, "third", url)
    assert third.find("train", KEY).fingerprint == mended.fingerprint
    assert (third.fetch(third.find("train", KEY)) / "policy" / "model.safetensors").read_text() == bits


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped"])
def test_a_manifest_there_cannot_name_files_outside_its_folder(tmp_path, url, name):
    made = make_and_publish(tmp_path, url)
    system, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    path = f"{root}/train/{made.path.name}/manifest.json"
    manifest = json.loads(system.cat_file(path))
    manifest["files"][name] = manifest["files"]["metrics.jsonl"]
    system.pipe_file(path, json.dumps(manifest).encode())
    second = machine(tmp_path, "second", url)
    assert second.find("train", KEY) is None
    with pytest.raises(RemoteError, match=r"must be a complete artifact, got no manifest\.json"):
        second.fetch(dataclasses.replace(made, path=second.root / "train" / made.path.name))
    assert not list(tmp_path.rglob("escaped")) and not os.path.exists("/tmp/escaped")


def test_verify_notices_what_was_altered_here_and_takes_it_from_there(tmp_path, url):
    made = make_and_publish(tmp_path, url)
    (made.path / "policy" / "model.safetensors").write_text("WEIGHTS")
    strict = Store(tmp_path / "first", Remote(url), verify=True)
    found = strict.find("train", KEY)
    assert "was altered" in strict.problem("train", KEY)
    assert (strict.fetch(found) / "policy" / "model.safetensors").read_text() == "weights"


def test_verify_puts_nothing_there_that_was_altered_here(tmp_path, url):
    made = make(Store(tmp_path / "first"))
    (made.path / "policy" / "model.safetensors").write_text("WEIGHTS")
    Store(tmp_path / "first", Remote(url), verify=True).publish(made)
    assert files(url) == set()


def test_what_was_lost_here_comes_back_from_there(tmp_path, url):
    made = make_and_publish(tmp_path, url)
    shutil.rmtree(made.path)
    store = machine(tmp_path, "first", url)
    assert "has no manifest.json" in store.problem("train", KEY)
    assert (store.fetch(store.find("train", KEY)) / "metrics.jsonl").exists()


def test_a_model_folder_of_one_machine_stays_there(tmp_path, url):
    store = machine(tmp_path, "first", url)
    work = store.work_folder("train", KEY)
    (work / "model.json").write_text("{}")
    artifact = store.commit(MADE_OF, work, content=("model.json",), fingerprint="f" * 64, about={"model_path": str(tmp_path)})
    assert store.publish(artifact) == artifact
    assert files(url) == set()


def test_the_pointer_comes_last(tmp_path, url):
    make_and_publish(tmp_path, url)
    names = files(url)
    assert {name.rsplit("/", 1)[-1] for name in names} == {"model.safetensors", "metrics.jsonl", "manifest.json", f"{KEY}.json"}
    system, root = fsspec.core.url_to_fs(url)
    assert set(json.loads(system.cat_file(f"{root}/train/{KEY}.json"))) == {"fingerprint"}


def test_an_unknown_protocol_is_refused_with_the_remedy():
    with pytest.raises(RemoteError, match="BNF_STORE must be a folder or an fsspec URL, got 'warp://x'"):
        Remote("warp://x")


def test_a_bucket_that_is_not_there_is_named_when_something_is_put(s3, tmp_path):
    store = machine(tmp_path, "first", "s3://nowhere/artifacts")
    assert store.find("train", KEY) is None
    with pytest.raises(RemoteError, match=r"BNF_STORE must be reachable, got .* from s3://nowhere/artifacts \(.*bucket"):
        store.publish(make(store))


def test_a_server_that_does_not_answer_is_named(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(RemoteError, match=r"got EndpointConnectionError from s3://bucket/artifacts"):
        Remote("s3://bucket/artifacts").fingerprint("train", KEY)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
