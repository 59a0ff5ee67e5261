"""`bnf fetch` against a hub on this machine, and what its bundle is good for when the hub is gone and the network with it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tasks.keys import ROOT
from tests.hub_server import HubServer

pytestmark = [pytest.mark.integration]

PAIRS = [{"prompt": f"Which is larger, {n} or {n + 1}?", "chosen": f"{n + 1}", "rejected": f"{n}"} for n in range(8)]
LINES = "".join(json.dumps(row) + "\n" for row in PAIRS).encode()
# As many as the benchmark has.
QUESTIONS = "".join(json.dumps({"question": f"{n} + 1?", "answer": f"#### {n + 1}"}) + "\n" for n in range(1319)).encode()
GSM8K = b"""---
configs:
- config_name: socratic
  data_files:
  - {split: test, path: socratic/*}
- config_name: main
  data_files:
  - {split: train, path: main/train*}
  - {split: test, path: main/test*}
---
"""
TOKEN = "hf_thisIsNobodysToken"
# A task of lm-eval of the person's own, which reads a set of the hub at the revision that it names.
TASK = """task: larger
dataset_path: some/Pairs
dataset_kwargs: {revision: old}
output_type: generate_until
test_split: train
doc_to_text: "{{prompt}}"
doc_to_target: "{{chosen}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4}
metric_list: [{metric: exact_match}]
"""
# Without a network there is not even the machine's own address, which Prefect listens on.
CUT_OFF = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def why_not_cut_off() -> str | None:
    """Why this machine can't start a process without a network; None where it can."""
    try:
        done = subprocess.run([*CUT_OFF, "ip", "-brief", "link"], capture_output=True, text=True)
    except FileNotFoundError as error:
        return str(error)
    return done.stderr.strip() or None if done.returncode else None


class Person:
    """Somebody at a terminal who has a recipe, and a hub's account."""

    def __init__(self, hub, folder, model):
        self.hub, self.folder, self.bundle = hub, folder, folder / "bundle"
        self.model = hub.commit("model", "some/model", model)
        self.data = hub.commit(
            "dataset", "some/Pairs", {"README.md": b"Pairs.", "train.jsonl": LINES, "other/notes.txt": b"no data"}
        )
        files = {
            "README.md": GSM8K,
            "main/train.jsonl": QUESTIONS,
            "main/test.jsonl": QUESTIONS,
            "socratic/test.jsonl": QUESTIONS,
        }
        self.gsm8k = hub.commit("dataset", "openai/gsm8k", files)
        hub.files["more.jsonl"] = LINES
        hub.accounts[TOKEN] = "somebody"
        hub.gate("model", "some/model", "somebody")
        self.write({})

    def write(self, more):
        sources = [{"source": "pairs", "path": "some/Pairs"}, {"source": "pairs", "path": f"{self.hub.url}/plain/more.jsonl"}]
        recipe = {"name": "r", "model_name_or_path": "some/model", "data": sources, "train": {"max_steps": 1}}
        self.recipe = recipe | {"evaluation": {"benchmarks": {}}, **more}
        (self.folder / "r.yaml").write_text(json.dumps(self.recipe))

    def variables(self, **more):
        own = {"HF_ENDPOINT": self.hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(self.folder / "hf"), "HF_TOKEN": TOKEN}
        # On a busy machine the hub may take long to answer.
        own |= {"HF_HUB_DOWNLOAD_TIMEOUT": "120", "HF_HUB_ETAG_TIMEOUT": "120"}
        return {**os.environ, **own, "BNF_HOME": str(self.folder / "home"), "PYTHONPATH": str(ROOT), **more}

    def start(self, *words, before=(), **more):
        command = [*before, sys.executable, "-P", "-m", "bnf", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=self.variables(**more), start_new_session=True, **pipes)

    def __call__(self, *words, code=0, before=(), **more):
        process = self.start(*words, before=before, **more)
        out, self.err = process.communicate(timeout=500)
        assert process.returncode == code, f"{out}\n{self.err}"
        assert TOKEN not in out + self.err
        return json.loads(out) if "--json" in words else out

    def fetch(self, **more):
        return self("fetch", "r.yaml", "--to", "bundle", "--json", **more)

    def steps(self, *steps):
        command = [sys.executable, "-P", "-m", "tests.integration.fetch_worker", json.dumps(steps)]
        pipes = {"capture_output": True, "text": True, "timeout": 500}
        done = subprocess.run(command, cwd=self.folder, env=self.variables(), **pipes)
        assert done.returncode == 0 and TOKEN not in done.stdout + done.stderr, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def cut_off(self, *words, code=0):
        """The same on a machine of nobody: without a network, a cache or an account."""
        other = {"BNF_OFFLINE": "bundle", "HF_HOME": str(self.folder / "no-hf"), "BNF_HOME": str(self.folder / "no-home")}
        return self(*words, code=code, before=CUT_OFF, HF_TOKEN="", HF_HUB_OFFLINE="", **other)


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


def keys(planned):
    return {(one["stage"], one["model"], one["benchmark"]): one["key"] for one in planned["stages"]}


SMALL = {
    "config.json": b"{}",
    "tokenizer_config.json": b"{}",
    "model.safetensors": b"w" * 300_000,
    "extra.safetensors": b"x" * 200_000,
}


def test_fetching_adds_what_is_missing_and_goes_on_after_a_kill(hub, tmp_path):
    person = Person(hub, tmp_path, {**SMALL, "code.py": b"", "pytorch_model.bin": b"pickled"})
    # Killed while the second of two weights files comes, of which the first is whole.
    hub.slow_down("model.safetensors")
    process = person.start("fetch", "r.yaml", "--to", "bundle")
    deadline = time.monotonic() + 200
    while not hub.is_slow and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert process.poll() is None, process.communicate()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    hub.go_on()
    assert not (tmp_path / "bundle" / "bundle.json").exists()
    before = len(hub.requests)
    model = tmp_path / "bundle" / "models" / "some--model" / person.model
    with_gsm8k = {**person.recipe, "evaluation": {"benchmarks": {"gsm8k": {}}}}
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    first, second, third, full, denied, offline = person.steps(
        {},
        {},
        {"recipe": with_gsm8k, "damage": str(model / "config.json")},
        {"to": "full"},
        {"to": "other", "variables": {"HF_TOKEN": ""}},
        {"variables": {"BNF_OFFLINE": "bundle"}},
    )
    assert [(one["kind"], one["name"], one["fetched"]) for one in first["parts"]] == [
        ("model", "some/model", True),
        ("dataset", "some/Pairs", True),
        ("url", f"{hub.url}/plain/more.jsonl", True),
    ]
    # The weights that were whole are not fetched again, and nothing twice, but what was damaged.
    asked = [
        one.path for one in hub.requests[before:] if one.method == "GET" and re.search(r"/resolve/|/lfs/|/plain/", one.path)
    ]
    assert sum(path.startswith("/lfs/") for path in asked) == 1, asked
    own = [path for path in asked if "/resolve/" in path and not path.endswith((".md", ".yaml"))]
    assert Counter(path.rpartition("/")[2] for path in own) == {
        **{"tokenizer_config.json": 1, "config.json": 1},
        **{"train.jsonl": 2, "test.jsonl": 1},
    }
    assert not list((tmp_path / "bundle").rglob("*.incomplete")) and first["left_out"] == []
    assert not any(one["fetched"] for one in second["parts"])
    found = {one["name"]: one for one in third["parts"]}
    assert {name for name, one in found.items() if one["fetched"]} == {"openai/gsm8k", "some/model"}
    assert found["openai/gsm8k"]["variant"] == "main" and found["openai/gsm8k"]["commit"] == person.gsm8k
    files = (tmp_path / "bundle" / "datasets" / "openai--gsm8k").rglob("*.*")
    assert sorted(file.name for file in files) == ["README.md", "test.jsonl", "train.jsonl"]
    assert "--to must be a bundle, an empty folder or a new one, got" in full["error"]
    assert "model_name_or_path must be a model that the hub gives, got 'some/model': it is gated" in denied["error"]
    assert "BNF_OFFLINE must" in offline["error"]


def test_a_bundle_runs_a_recipe_without_a_network_by_the_same_keys(hub, tmp_path):
    model = ROOT / "models" / "SmolLM2-135M-Instruct"
    if not model.exists():
        pytest.skip(f"the demonstration model is not at {model}; run `make env`")
    if why := why_not_cut_off():
        pytest.skip(f"this machine starts no process without a network: {why}")
    person = Person(hub, tmp_path, model)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "larger.yaml").write_text(TASK)
    old = hub.commit("dataset", "some/Pairs", {"train.jsonl": LINES.replace(b'"chosen": "', b'"chosen": "old ')}, branch="old")
    evaluation = {"engine": "transformers", "max_new_tokens": 4, "benchmarks": {"gsm8k": {"limit": 2}}}
    person.write({"evaluation": {**evaluation, "lm_eval": {"larger": {"limit": 2}}, "lm_eval_include_path": "tasks"}})
    fetched = person.fetch()
    assert Counter(one["kind"] for one in fetched["parts"]) == {"model": 1, "dataset": 3, "url": 1}
    assert {one["commit"] for one in fetched["parts"] if one["name"] == "some/Pairs"} == {person.data, old}
    assert fetched["left_out"] == [str(tmp_path / "tasks")]
    online = keys(person("plan", "r.yaml", "--json"))
    hub.close()
    planned = person.cut_off("plan", "r.yaml", "--json")
    assert keys(planned) == online and planned["problems"] == []
    # The whole run, to its report: training, a benchmark and a task of lm-eval, each from the bundle.
    shown = person.cut_off("run", "r.yaml", "--json")
    artifacts = tmp_path / "no-home" / "artifacts"
    (prepared,) = artifacts.glob("prepare/*/ledger.json")
    assert json.loads(prepared.read_text())["num_groups"] == len(PAIRS)
    assert shown["summary"]["benchmarks"]["gsm8k"]["aligned"]["n"] == 2
    (samples, _) = artifacts.glob("lm_eval/*/samples.jsonl")
    assert [json.loads(line)["target"] for line in samples.read_text().splitlines()] == ["old 1", "old 2"]
    assert not list((tmp_path / "no-hf").rglob("*.safetensors"))

    # What it lacks is said, with the remedy; so is what has changed in it.
    (wrong,) = person.cut_off("plan", "r.yaml", "revision=old", "--json", code=2)["problems"]
    assert wrong.startswith("model_name_or_path must be a folder or a hub id that can be fetched, got 'some/model': the bundle")
    assert "has not the model some/model at old; run `bnf fetch RECIPE --to" in wrong
    file = tmp_path / "bundle" / "datasets" / "some--Pairs" / person.data / "default" / "train.jsonl"
    file.write_bytes(LINES.replace(b"larger", b"LARGER"))
    person.cut_off("run", "r.yaml", "--only", "resolve,prepare", "--refresh", "prepare", code=1)
    assert "train.jsonl, which has changed since it was fetched" in person.err


def test_a_disk_without_room_is_refused_before_anything_is_fetched(tmp_path, monkeypatch):
    from flows.dag import bundling
    from flows.errors import RecipeError

    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 400 << 20})())
    bundling._require_room(Path(tmp_path), 100 << 20)
    with pytest.raises(RecipeError, match=r"must have 457 MiB free for what is to be fetched, got 400 MiB; free some, or name"):
        bundling._require_room(Path(tmp_path), 201 << 20)
