"""Two machines with a home each, one shared store and one Prefect server: a run is executed over both, either dies, and it is finished."""

import json
import re
import secrets
import time
from collections import Counter
from pathlib import Path

import pytest

from tasks.keys import ROOT
from tests.e2e.conftest import prefect_server
from tests.e2e.machines import BIN, HUB, Machine, hub
from tests.e2e.test_deployments import MODEL, Server, wait_until
from tests.e2e.test_postgres import postgres, server  # noqa: F401

pytestmark = [pytest.mark.e2e]

LIMIT = 128
PAIRS = 24
EVALUATION = {
    "name": "evaluated",
    "model_name_or_path": MODEL,
    "evaluation": {
        "engine": "transformers",
        "max_new_tokens": 16,
        "benchmarks": {"number_comparison": {"limit": 2}, "gsm8k": {"source": "sample", "limit": 12}},
    },
    "ray": {"address": "auto"},
}
RAY = ("--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats")


@pytest.fixture
def network():
    with hub():
        yield


@pytest.fixture
def machines(network, model, tmp_path):
    made = []

    def make(api: str, **environment: str) -> tuple[Machine, Machine]:
        there = {
            "PREFECT_API_URL": api.replace("127.0.0.1", HUB),
            "BNF_STORE": f"file://{tmp_path}/store",
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        for letter, other in ("ab", "ba"):
            made.append(Machine(tmp_path, letter, other, **there))
            made[-1].boot()
        return made[0], made[1]

    yield make
    for machine in made:
        machine.shut_down()


def training(folder: Path) -> dict:
    """A whole pipeline on pairs that all machines see. Each benchmark has more items than an engine computes at once, so both machines
    have some of them. And they take so long that Ray has seen a machine's death before the next engine opens.
    """
    rows = (ROOT / "data" / "samples" / "pairs.jsonl").read_text().splitlines()[:PAIRS]
    (folder / "pairs.jsonl").write_text("\n".join(rows) + "\n")
    return {
        **EVALUATION,
        "name": "trained",
        "data": {"source": "pairs", "path": str(folder / "pairs.jsonl")},
        "train": {"max_steps": 2, "max_tokens_per_row": 512, "global_batch_size": 8, "learning_rate": 1e-5},
        "evaluation": {
            "engine": "transformers",
            "num_replicas": 2,
            "max_new_tokens": 128,
            "benchmarks": {"number_comparison": {"limit": LIMIT}, "gsm8k": {"source": "sample"}},
        },
    }


def alone(recipe: dict) -> dict:
    """The recipe where no cluster is: these keys say where it computes, and are part of no artifact's key."""
    return {**recipe, "evaluation": {**recipe["evaluation"], "num_replicas": 1}, "ray": {"address": "none"}}


def submit(machine: Machine, recipe: dict) -> str:
    """Start a run of the deployment from a machine's terminal, and return the flow run's id."""
    words = ("deployment", "run", "align/pipeline", "--params", json.dumps({"recipe": recipe}))
    return re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", machine.run(BIN / "prefect", *words))[0]


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def fingerprints(shown: dict) -> dict[str, tuple[str, str]]:
    """Key and fingerprint of every task of a run, from what `bnf run --json` or `bnf show --json` says of it."""
    return {name: (task["key"], task["fingerprint"]) for name, task in shown["tasks"].items()}


@pytest.mark.usefixtures("network")
def test_a_run_whose_machine_dies_is_finished_on_another(machines, tmp_path):
    with prefect_server(tmp_path, HUB) as address:
        a, b = machines(address)
        api, first = Server(address), {"sort": "START_TIME_ASC", "limit": 1}
        for machine in (a, b):
            (machine.home / "recipe.yaml").write_text(json.dumps(EVALUATION))
            (machine.home / "alone.yaml").write_text(json.dumps(alone(EVALUATION)))
        a.run(BIN / "ray", "start", "--head", "--include-dashboard=false", *RAY)
        running = a.process("run", "recipe.yaml")
        a.wait(running, lambda: list((tmp_path / "store" / "generate").glob("*.json")))
        a.power_off()

        finished = b.json("run", "alone.yaml")
        executed = {name for name, task in finished["tasks"].items() if not task["cached"]}
        assert finished["state"] == "completed"
        assert "generate/base/gsm8k" in executed and "generate/base/number_comparison" not in executed
        # It may be at work, for all that the other machine knows.
        assert api("/flow_runs/filter", first)[0]["state"]["type"] == "RUNNING"

        a.boot()
        assert a.json("runs")["runs"][0]["state"] == "crashed"
        again = a.json("run", "alone.yaml")
        assert api("/flow_runs/filter", first)[0]["state"]["type"] == "CRASHED"
        assert {name for name, task in again["tasks"].items() if not task["cached"]} <= {"resolve/base"}
        assert fingerprints(again) == fingerprints(finished)


@pytest.mark.nightly
@pytest.mark.usefixtures("network")
def test_a_run_over_two_machines_goes_on_where_either_dies(server, machines, tmp_path):  # noqa: F811
    a, b = machines(server, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    api, recipe = Server(server), training(tmp_path)

    def state(flow_run: str) -> str:
        return api(f"/flow_runs/{flow_run}")["state"]["name"]

    a.run(BIN / "ray", "start", "--head", "--port=6379", "--include-dashboard=false", *RAY)
    b.run(BIN / "ray", "start", f"--address={a.address}:6379", *RAY)
    say("Ray: machine-a is the head, machine-b a node")
    a("deploy")
    a.process("worker")
    first = submit(a, recipe)
    wait_until(lambda: state(first) == "Running")
    b.process("worker")
    say("the run is submitted on machine-a, and its worker has it; machine-b's worker waits")

    # Machine b dies while both generate: the run goes on.
    base = "generate-base"
    wait_until(lambda: a.counts("generate-base-gsm8k") and a.stage_log(base).count("open on machine-") == 2)
    say(f"generate/base over both:\n{a.stage_log(base)}")
    # Each has some of the items now; a batch of them takes half a minute.
    time.sleep(5)
    b.power_off()
    say("machine-b is off")
    wait_until(lambda: "the others take over" in a.stage_log(base))
    say(f"generate/base:\n{a.stage_log(base)}")
    assert state(first) == "Running"

    b.boot()

    # The policy's engine opens on what is left. The other machine is back while it generates: it has no file of the run's home, and gets
    # the policy from the store.
    aligned = "generate-aligned"
    wait_until(lambda: "open on machine-a" in a.stage_log(aligned))
    say("generate/aligned on machine-a alone")
    b.run(BIN / "ray", "start", f"--address={a.address}:6379", *RAY)
    b.process("worker")
    say("machine-b is back")
    wait_until(lambda: "open on machine-b" in a.stage_log(aligned))
    say(f"generate/aligned over both:\n{a.stage_log(aligned)}")
    assert "room for 1 of 2 replicas" in a.stage_log(aligned)
    assert re.search(rf"machine-b: train/\S+ from file://{tmp_path}/store in ", a.stage_log(aligned))
    time.sleep(1)
    a.power_off()
    say("machine-a is off")

    # The same run on what is left. It doesn't touch the other's, which may be at work for all that this machine knows.
    second = submit(b, alone(recipe))
    wait_until(lambda: state(second) == "Running")
    assert state(first) == "Running"
    api.wait(second, "Completed")
    say(f"the second run on machine-b is completed\n{b('runs')}\n{b('show', 'latest')}")
    # What the other had complete came from the store. A base model lies outside of it, so each machine names its own.
    executed = b.executed()
    assert {name for name in executed if not name.startswith(("generate/aligned/", "score/"))} == {"resolve/base", "report"}
    assert any(name.startswith("generate/aligned/") for name in executed)

    # What both machines generated, with one of them dying in between, is what one generates.
    before = fingerprints(b.json("show", "latest"))
    (b.home / "alone.yaml").write_text(json.dumps(alone(recipe)))
    assert fingerprints(b.json("run", "alone.yaml", "--refresh", "generate")) == before
    rows = (b.home / "state" / "runs").glob("*/artifacts/generate-*-number_comparison/completions.jsonl")
    assert [len(file.read_text().splitlines()) for file in rows] == [LIMIT] * 4
    folders = Counter(folder.name.split(".")[0] for folder in (tmp_path / "store").glob("*/*.*/"))
    assert set(folders.values()) == {1}
    limits = api("/v2/concurrency_limits/filter", {"limit": 10})
    assert {f"accelerator-{machine.name}" for machine in (a, b)} <= {limit["name"] for limit in limits}

    assert state(first) in ("Running", "Crashed") and state(second) == "Completed"


@pytest.mark.nightly
@pytest.mark.usefixtures("network")
def test_a_dead_machines_run_does_not_stay_at_work(machines, tmp_path):
    """Nobody looks into its home: the server's automation marks the run. One that was only silent goes on, and its end counts."""
    with prefect_server(tmp_path, HUB) as address:
        a, b = machines(address)
        api = Server(address)
        a("deploy")
        assert "automation   bnf-crashed, as it was" in b("deploy")
        for machine in (a, b):
            (machine.home / "alone.yaml").write_text(json.dumps({**alone(EVALUATION), "name": machine.name}))
        a.process("run", "alone.yaml")

        def runs() -> dict[str, dict]:
            return {re.sub("-[0-9].*", "", run["name"]): run for run in api("/flow_runs/filter", {})}

        def states() -> dict[str, str]:
            return {name: run["state"]["name"] for name, run in runs().items()}

        def accelerators() -> dict[str, int]:
            return {limit["name"]: limit["active_slots"] for limit in api("/v2/concurrency_limits/filter", {"limit": 10})}

        wait_until(lambda: states() == {a.name: "Running"} and accelerators() == {f"accelerator-{a.name}": 1})
        # Its first sign of life is with the server.
        sign = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}}}
        wait_until(lambda: api("/events/filter", sign)["total"] > 0)
        a.power_off()

        running = b.process("run", "alone.yaml")
        b.wait(running, lambda: states().get(b.name) == "Running")
        api(f"/flow_runs/{runs()[b.name]['id']}/set_state", {"state": {"type": "CRASHED", "name": "Crashed"}, "force": True})
        assert states() == {a.name: "Running", b.name: "Crashed"}
        wait_until(lambda: states()[b.name] == "Completed")
        assert wait_until(lambda: states()[a.name] == "Crashed") < 240
        assert runs()[a.name]["state"]["message"] == "its machine says nothing any more"
        assert states()[b.name] == "Completed"
        # Nobody gave its accelerator back.
        assert accelerators() == {f"accelerator-{machine.name}": 0 for machine in (a, b)}
