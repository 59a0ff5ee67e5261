"""Models and data by hub id against a hub on this machine: commits in keys, downloads that are cut, refusals, and a hub that goes away.

The hub's libraries read their settings when they are imported, so each test has processes of its own.
"""

import hashlib
import io
import json
import os
import re
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from tasks.keys import ROOT
from tests.hub_server import HubServer

pytestmark = [pytest.mark.integration]

TOKEN = "hf_thisIsNobodysToken"
MODEL = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer_config.json": b'{"chat_template": "{{ messages[0].content }}"}',
    "tokenizer.json": b"{}",
    "model-00001-of-00002.safetensors": b"a" * 40_000,
    "model-00002-of-00002.safetensors": b"b" * 50_000,
    "pytorch_model.bin": b"pickled",
    "modeling.py": b"raise SystemExit('code of a hub ran')",
}
FETCHED = {name for name in MODEL if not name.endswith((".bin", ".py"))}
CARD = b"""---
configs:
- config_name: first
  data_files:
  - {split: train, path: first/train-*}
  - {split: test, path: first/test-*}
- config_name: second
  data_files:
  - {split: train, path: second/*}
---
A set.
"""


def parquet(*texts):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": list(texts)}), file)
    return file.getvalue()


def a_set(*texts):
    return {
        "README.md": CARD,
        "first/train-0.parquet": parquet(*texts),
        "first/test-0.parquet": parquet("of test"),
        "second/0.parquet": parquet("of second"),
    }


@pytest.fixture
def hub():
    with HubServer() as server:
        server.accounts[TOKEN] = "somebody"
        yield server


class Machine:
    """A machine with a cache of its own, which knows one hub."""

    def __init__(self, hub, folder):
        self.folder, self.variables = folder, {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0"}
        self.variables |= {
            "BNF_HOME": str(folder / "home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }

    def __call__(self, code, *values, **variables):
        """What `code` gives as `found`; `values` are its `given`. An error is given as its text, under `error`, with its cause."""
        program = (
            "import json, os, sys, traceback\nfrom bnf.failures import cause_of\ngiven = json.loads(sys.argv[1])\nfound = None\n"
            f"try:\n{''.join(f'    {line}{chr(10)}' for line in code.strip().splitlines())}"
            "except Exception as error:\n    found = {'error': str(error), 'cause': cause_of(error)}\n"
            "print(json.dumps(found), flush=True)\n"
            # As a stage's process ends: threads that read a stream may abort an interpreter that waits for nobody.
            "os._exit(0)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, json.dumps(values)],
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.variables, **variables},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def machine(hub, tmp_path):
    return Machine(hub, tmp_path)


RESOLVE = """
from pathlib import Path
from tasks.job import Job
from tasks.stages.resolve import run
output = Path("resolved"); output.mkdir(exist_ok=True)
run(Job({"model_name_or_path": given[0], "revision": given[1]}, {}, output, lambda *_: None))
folder = Path(json.loads((output / "model.json").read_text())["path"])
found = {file.name: file.stat().st_size for file in folder.iterdir()}
"""


def test_a_download_that_is_cut_goes_on_and_a_half_model_is_never_used(hub, machine):
    commit = hub.commit("model", "some/model", MODEL)
    hub.cut("model-00001-of-00002.safetensors", 1_000, 20_000)
    whole = {name: len(MODEL[name]) for name in FETCHED}
    assert machine(RESOLVE, "some/model", commit, HF_TOKEN=TOKEN) == whole
    # Large files come from elsewhere, which is shown no token; pickles and code come from nowhere.
    large = [one for one in hub.requests if one.path.startswith("/lfs/")]
    assert len(large) == 4 and not any(one.has_token for one in large)
    assert not hub.asked(r"\.bin|\.py") and any(one.has_token for one in hub.requests)

    # The second shard never comes whole: nothing is resolved, and the error is one that may pass.
    later = hub.commit("model", "some/model", {**MODEL, "model-00002-of-00002.safetensors": b"c" * 60_000})
    hub.cut("model-00002-of-00002.safetensors", *7 * [30_000])
    cut = machine(RESOLVE, "some/model", later)
    assert cut["cause"] == "passing" and "model_name_or_path must be a folder or a hub id" in cut["error"]
    # With the hub gone, what is there of it is no model either, while the first commit's is whole.
    hub.close()
    gone = machine(RESOLVE, "some/model", later)
    assert gone["cause"] == "passing" and "got 'some/model'" in gone["error"]
    assert machine(RESOLVE, "some/model", commit) == whole


def test_a_refusal_says_what_to_do_and_no_token(hub, machine):
    commit = hub.commit("model", "some/gated", MODEL)
    hub.gate("model", "some/gated", "somebody else")
    unknown = machine(RESOLVE, "some/gated", commit)
    refused = machine(RESOLVE, "some/gated", commit, HF_TOKEN=TOKEN)
    absent = machine(RESOLVE, "some/absent", None, HF_TOKEN=TOKEN)
    wrong = machine(RESOLVE, "some/gated", "no-such-branch")
    for said in (unknown, refused, absent, wrong):
        assert said["error"].startswith("model_name_or_path must be a folder or a hub id that can be fetched, got 'some/")
    assert (
        "it is gated, and it must be known who asks (401); ask for access on the hub's page some/gated, and set HF_TOKEN"
        in unknown["error"]
    )
    assert "it is gated, and this account has not been let in (403)" in refused["error"]
    assert "no public model of this id (401); correct the id, or for a private one set HF_TOKEN" in absent["error"]
    assert "has no such revision (404); correct the revision" in wrong["error"]
    assert {unknown["cause"], refused["cause"], absent["cause"], wrong["cause"]} == {"user"}
    hub.gate("model", "some/gated", "somebody")
    assert set(machine(RESOLVE, "some/gated", commit, HF_TOKEN=TOKEN)) == FETCHED


ASK = """
from flows.dag import hub
found = []
for kind, name, revision in given:
    one = hub.ask(kind, name, revision)
    found.append([one.commit, one.wrong, one.seen, one.is_reached, hub.pinned(kind, name, revision)])
"""


def test_the_hub_says_its_commit_and_the_cache_says_the_last_one(hub, machine):
    model, data = hub.commit("model", "some/model", MODEL), hub.commit("dataset", "some/MySet", a_set("one"))
    old = hub.commit("model", "some/model", {**MODEL, "config.json": b"{}"}, branch="old")
    asked = (("model", "some/model", None), ("model", "some/model", "old"), ("dataset", "some/MySet", None))
    commits = [model, old, data]
    found = machine(ASK, *asked)
    assert [one[0] for one in found] == commits == [one[4] for one in found] and all(one[2] == "on the hub" for one in found)
    # Nothing but the first has been fetched when the hub goes.
    machine(RESOLVE, "some/model", model)
    machine(
        "from evaluation.hub_loading import load_set\nload_set('some/MySet', 'first', split='train', revision=given[0])", data
    )
    hub.close()
    first, second, third = machine(ASK, *asked)
    assert [one[0] for one in (first, second, third)] == commits
    for one, commit in ((first, model), (third, data)):
        assert one[1] is None and not one[3] and one[2].endswith(f"; in this machine's cache at commit {commit[:12]}")
    assert "the hub wasn't reached" in first[2] and second[1].endswith("and this machine's cache has none")


LOAD = """
from dataclasses import replace
from data.reading.records import DataSource, Reader
found = []
for one in given:
    try:
        found.append([raw.value["text"] for raw in Reader(replace(DataSource("pairs", "some/MySet"), **one))])
    except Exception as error:
        found.append([cause_of(error), str(error)])
"""


def test_a_hubs_set_is_read_at_its_commit(hub, machine):
    first = hub.commit("dataset", "some/MySet", a_set("one", "two"))
    second = hub.commit("dataset", "some/MySet", a_set("three"))
    of = {"config": "first", "revision": first}
    now = {"config": "first", "revision": second}
    reads = [of, {**of, "split": "test"}, now, {**now, "config": "second"}, {**now, "revision": None}]
    wrong = [{**now, "config": "third"}, {**now, "split": "dev"}]
    streamed = [{**one, "streaming": True} for one in (*reads, *wrong)]
    texts = [["one", "two"], ["of test"], ["three"], ["of second"], ["three"]]
    # Streaming first: nothing is in a cache yet that it could come from.
    found = machine(LOAD, *streamed, *reads, *wrong)
    assert found[:5] == found[7:12] == texts
    for cause, said in (*found[5:7], *found[12:]):
        assert cause == "user" and "data.path must be" in said and ("third" in said or "dev" in said)
    hub.gate("dataset", "some/MySet", "somebody")
    later = hub.commit("dataset", "some/MySet", a_set("four"))
    (refused,) = machine(LOAD, {**now, "revision": later})
    assert (
        "it is gated, and it must be known who asks (401); ask for access on the hub's page datasets/some/MySet" in refused[1]
    )
    hub.close()
    # The library alone takes the commit that it read last, whichever was asked for.
    *found, (cause, said) = machine(LOAD, of, now, {**now, "revision": later})
    assert found == [["one", "two"], ["three"]]
    assert cause == "passing" and f"this machine's cache has not some/MySet at {later}" in said


def test_no_other_configuration_is_taken_for_the_one_that_is_read_by_default(hub, tmp_path):
    first = CARD.replace(b"- config_name: first\n", b"- config_name: first\n  default: true\n")
    commit = hub.commit("dataset", "some/MySet", {**a_set("one"), "README.md": first})
    of = {"revision": commit}
    machines = []
    for name, reads in (("one", [{**of, "config": "second"}]), ("two", [{**of, "config": "second"}, of])):
        (tmp_path / name).mkdir()
        machines.append(Machine(hub, tmp_path / name))
        assert machines[-1](LOAD, *reads) == [["of second"], ["one"]][: len(reads)]
    hub.close()
    (cause, said), read = machines[0](LOAD, of, {**of, "config": "second"})
    assert cause == "passing" and f"this machine's cache has not some/MySet at {commit}" in said and read == ["of second"]
    assert machines[1](LOAD, of) == [["one"]]


def test_the_hub_is_asked_for_what_is_read_and_for_nothing_else(hub, machine):
    commit = hub.commit("model", "some/model", MODEL)
    at = f"/some/model/resolve/{commit}"
    machine(RESOLVE, "some/model", commit)
    small = sorted(name for name in FETCHED if not name.endswith(".safetensors"))
    assert sorted(hub.asked()) == sorted(
        [
            f"GET /api/models/some/model/tree/{commit}",
            *(f"HEAD {at}/{name}" for name in FETCHED),
            *(f"GET {at}/{name}" for name in small),
            *(f"GET /lfs/{hashlib.sha256(MODEL[name]).hexdigest()}" for name in FETCHED.difference(small)),
        ]
    )
    hub.requests.clear()
    machine(RESOLVE, "some/model", commit)
    assert hub.requests == [], "a commit that is whole in the cache is not asked for"

    content = a_set("one", "two")
    later = hub.commit("dataset", "some/MySet", {**content, "README.md": CARD + b"More.\n"})
    commit = hub.commit("dataset", "some/MySet", content, branch="other")
    of = {"config": "first", "revision": commit, "streaming": True}
    assert machine(LOAD, of) == [["one", "two"]]
    # No other commit, and of the set's files the split's alone.
    assert commit != later and not hub.asked(later) and not hub.asked("main")
    read = {f"/datasets/some/MySet/resolve/{commit}/first/train-0.parquet"}
    read |= {f"/lfs/{hashlib.sha256(content['first/train-0.parquet']).hexdigest()}"}
    assert {one.path for one in hub.requests if re.search(r"parquet|/lfs/", one.path)} == read
    assert {one.path for one in hub.requests if one.method == "GET" and "/resolve/" in one.path} - read == {
        f"/datasets/some/MySet/resolve/{commit}/README.md"
    }


KEYS = """
from pathlib import Path
from flows.dag.graph import build
from flows.recipe.config import make_recipe
from tasks.keys import digest
recipe = {"name": "r", "model_name_or_path": "some/model", "evaluation": {"benchmarks": {"gsm8k": {}}}}
if given[0] == "data":
    recipe |= {"data": {"source": "pairs", "path": "some/MySet"}, "train": {}}
else:
    recipe |= {"sample": {"source": "gsm8k", "num_prompts": 2}, "label": {"labeler": "verifier"}, "train": {}}
found = {node.id: dict(node.settings) for node in build(make_recipe(recipe))}
found.pop("report")
"""


def test_what_changes_on_the_hub_changes_keys(hub, machine):
    names = (("model", "some/model"), ("dataset", "some/MySet"), ("dataset", "openai/gsm8k"))
    commits = {name: hub.commit(kind, name, a_set("one")) for kind, name in names}

    def keys(kind="data"):
        return machine(KEYS, kind)

    before = keys()
    assert before["resolve/base"]["revision"] == commits["some/model"]
    assert before["prepare"]["sources"][0]["revision"] == commits["some/MySet"]
    readers = ["generate/base/gsm8k", "generate/aligned/gsm8k", "contamination/gsm8k"]
    assert {before[name]["revision"] for name in readers} == {commits["openai/gsm8k"]}
    assert keys("samples")["sample"]["place"]["revision"] == commits["openai/gsm8k"]
    hub.commit("dataset", "openai/gsm8k", a_set("two"))
    after = keys()
    assert {name for name in before if before[name] != after[name]} == set(readers)
    hub.commit("model", "some/model", MODEL)
    hub.commit("dataset", "some/MySet", a_set("two"))
    last = keys()
    assert {name for name in after if after[name] != last[name]} == {"resolve/base", "prepare"}
    hub.close()
    assert keys() == last


ITEMS = """
from evaluation.benchmarks import gsm8k
from evaluation.types import hub_source
gsm8k.NUM_ITEMS = 1
found = [item["question"] for item in gsm8k.load(hub_source(given[0]) if given[0] else None, None)]
"""


def test_a_benchmark_is_read_at_its_commit(hub, machine):
    def items(question):
        return {"main/test.jsonl": json.dumps({"question": question, "answer": "#### 1"}).encode(), "README.md": CONFIG}

    first, _ = (hub.commit("dataset", "openai/gsm8k", items(question)) for question in ("one", "two"))
    assert machine(ITEMS, first) == ["one"] and machine(ITEMS, None) == ["two"]
    hub.close()
    assert machine(ITEMS, first) == ["one"]
    said = machine(ITEMS, "0" * 40)
    assert said["cause"] == "passing" and said["error"].startswith(
        "gsm8k.source must be reachable, got the hub's openai/gsm8k ("
    )


CONFIG = b"---\nconfigs:\n- config_name: main\n  data_files:\n  - {split: test, path: main/test.jsonl}\n---\n"
