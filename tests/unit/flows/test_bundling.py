"""A bundle holds what its servers list: nothing that is cut, and nothing outside its folder."""

import fsspec
import pytest

from evaluation.bundle import read_bundle
from flows.dag import bundling
from flows.dag.bundling import bundle_at, complete
from flows.dag.wanted import Wanted
from flows.errors import RecipeError

URL = "memory://somebody/pairs.jsonl"
ASKED = [Wanted("data.0.path", "url", URL, "v1")]


@pytest.fixture
def server():
    system = fsspec.filesystem("memory")
    system.pipe("/somebody/pairs.jsonl", b"12345")
    yield system
    system.rm("/somebody", recursive=True)


def test_a_url_that_comes_short_is_no_part_and_comes_whole_the_next_time(server, tmp_path, monkeypatch):
    said = []
    with bundle_at(tmp_path) as bundle:
        with monkeypatch.context() as patched:
            patched.setattr(type(server), "size", lambda self, path: 9)
            with pytest.raises(RecipeError, match=r"data.0.path must come as its server lists it, got another pairs.jsonl of"):
                complete(bundle, ASKED, said.append)
        assert read_bundle(tmp_path).parts == {}
        bundle, fetched = complete(bundle, ASKED, said.append)
        assert fetched == ASKED and complete(bundle, ASKED, said.append)[1] == []
    (part,) = read_bundle(tmp_path).parts.values()
    assert (tmp_path / part.place).read_bytes() == b"12345" and part.num_bytes == 5
    assert said == [f"fetching url {URL} (9 bytes)", f"fetching url {URL} (5 bytes)"]


@pytest.mark.parametrize("name", ["../outside.jsonl", "inner/../../outside.jsonl", "/etc/outside.jsonl"])
def test_no_name_leads_out_of_the_bundle(name, tmp_path, monkeypatch):
    monkeypatch.setattr(bundling, "_list_url", lambda one: bundling._Listing(one, "urls/1", {name: bundling._Listed(1)}))
    with bundle_at(tmp_path) as bundle, pytest.raises(RecipeError, match=r"files must lie below it, got '.*outside.jsonl'"):
        complete(bundle, ASKED, print)
