"""A run whose models load on Ray: the same artifacts under the same keys, also after a kill of everything."""

import json
import os
import signal

import pytest

from tests.e2e.conftest import MODEL, Bnf

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores, and Linux"
    ),
]
RECIPE = {
    "model_name_or_path": str(MODEL),
    "evaluation": {
        "engine": "transformers",
        "max_new_tokens": 8,
        # Four of the engine's batches: what is computed together stays together.
        "benchmarks": {"number_comparison": {"limit": 64}},
    },
}
ON_RAY = ("ray.address=local", "evaluation.num_replicas=2")
TASK = "generate/base/number_comparison"


def run(bnf: Bnf, *words: str) -> dict:
    return bnf.json("run", recipe(bnf), *words)["tasks"][TASK]


def recipe(bnf: Bnf) -> str:
    path = bnf.home / "ray.yaml"
    path.write_text(json.dumps(RECIPE))
    return str(path)


@pytest.fixture(scope="module")
def plain(model, shared_api, tmp_path_factory) -> dict:
    """The task that generates, of a run without Ray."""
    return run(Bnf(tmp_path_factory.mktemp("plain"), PREFECT_API_URL=shared_api))


def manifest(bnf: Bnf) -> dict:
    (path,) = (bnf.home / "state" / "artifacts" / "generate").glob("*/manifest.json")
    return json.loads(path.read_text())


def test_a_run_on_ray_has_the_keys_and_texts_of_one_without(plain, shared_api, tmp_path):
    bnf = Bnf(tmp_path, PREFECT_API_URL=shared_api)
    task = run(bnf, *ON_RAY)
    assert (task["key"], task["fingerprint"]) == (plain["key"], plain["fingerprint"])
    assert manifest(bnf)["ray"] == "local" and manifest(bnf)["engine_placement"] == {"num_replicas": 2}
    bnf.wait_for_no_processes()
    # Without Ray it is found: the address is part of no key.
    assert run(bnf)["cached"]


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_on_ray_leaves_nothing_and_goes_on(number, plain, shared_api, tmp_path):
    bnf = Bnf(tmp_path, PREFECT_API_URL=shared_api)
    stopped = bnf.process("run", recipe(bnf), *ON_RAY)
    bnf.wait(stopped, lambda: recorded(bnf) >= 16)
    stopped.send_signal(number)
    stopped.communicate(timeout=60)
    assert stopped.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    bnf.wait_for_no_processes()
    assert 16 <= recorded(bnf) < 64
    task = run(bnf, *ON_RAY)
    assert task["fingerprint"] == plain["fingerprint"] and not task["cached"]


def recorded(bnf: Bnf) -> int:
    """How many completions the stage has on record."""
    files = (bnf.home / "state" / "artifacts" / "generate").glob("*.work/completions.jsonl")
    return sum(file.read_bytes().count(b"\n") for file in files)
