"""Tasks that don't need each other run at the same time: as many as resources allow, with the results of a run one after another."""

import itertools
import json
import signal
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.e2e.conftest import Bnf
from tests.e2e.tiny import Judge, judged, make_inputs, new_home, plain
from tests.stub_server import StubServer

pytestmark = [pytest.mark.e2e]

TWO_DEVICES = "resources.devices=2"
# The times of a run, and which tasks were cached before it, are its own.
OF_THE_RUN = ("path", "cached", "seconds", "started", "ended")


@pytest.fixture(scope="module")
def trained(model, shared_api, tmp_path_factory) -> Path:
    """A home with a random model of a million weights, its data and its training."""
    folder = tmp_path_factory.mktemp("trained")
    make_inputs(folder)
    Bnf(folder, PREFECT_API_URL=shared_api)(*plain(folder), "--only", "prepare,reference,train,analyze")
    return folder


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


@pytest.fixture(scope="module")
def server(judge) -> Iterator[StubServer]:
    with StubServer(judge) as server:
        yield server
        judge.answers.set()


@pytest.fixture(scope="module")
def serial(trained, server, shared_api, tmp_path_factory) -> list[dict]:
    """What two runs show whose tasks can't overlap: one without the endpoint, and one that has nothing left but the endpoint's."""
    home = new_home(trained, tmp_path_factory.mktemp("serial"), PREFECT_API_URL=shared_api)
    return [home.json(*judged(trained, server), *only) for only in (["--only", "contamination,generate,score"], [])]


def executed(shown: dict) -> dict[str, tuple[datetime, datetime]]:
    """When each task that the run executed began and ended, in the order of the record."""
    times = {name: (task.get("started"), task.get("ended")) for name, task in shown["tasks"].items()}
    return {name: (datetime.fromisoformat(a), datetime.fromisoformat(b)) for name, (a, b) in times.items() if a}


def at_once(shown: dict, *names: str) -> bool:
    """Whether there was a moment at which these tasks were all at work."""
    times = [executed(shown)[name] for name in names]
    return max(began for began, _ in times) < min(ended for _, ended in times)


def made(shown: dict) -> list[tuple[str, dict]]:
    """What of the tasks' artifacts does not depend on the run, in the order of the record. A report shows its home's paths."""
    entries = {name: {key: task[key] for key in task if key not in OF_THE_RUN} for name, task in shown["tasks"].items()}
    return [(name, entry) for name, entry in entries.items() if name != "report"]


def test_one_device_without_an_endpoint_runs_one_after_another(serial):
    times = executed(serial[0])
    assert {
        f"{stage}/{model}/number_comparison" for stage in ("generate", "score") for model in ("base", "aligned")
    } <= times.keys()
    assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(times.values())), "the order of the plan"


def test_two_devices_and_an_endpoint_at_once_give_the_same(serial, trained, server, shared_api, tmp_path):
    home = new_home(trained, tmp_path, PREFECT_API_URL=shared_api)
    shown = home.json(*judged(trained, server), TWO_DEVICES)
    assert at_once(shown, "generate/base/number_comparison", "generate/aligned/number_comparison"), executed(shown)
    models = ("generate/base/mt_bench", "generate/aligned/mt_bench")
    assert any(at_once(shown, "judge/arena_hard", model) for model in models), executed(shown)
    assert not at_once(shown, "judge/arena_hard", "judge/mt_bench"), "one endpoint's tasks take turns"
    assert made(shown) == made(serial[1])
    assert list(shown["tasks"]) == list(serial[1]["tasks"]), "the record is in the order of the plan"
    # In Prefect each is one task run, with an edge from each of its inputs.
    body = json.dumps({"flow_runs": {"id": {"any_": [shown["flow_run_id"]]}}}).encode()
    asked = urllib.request.Request(f"{shared_api}/task_runs/filter", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked) as answer:
        runs = {one["name"]: one for one in json.load(answer)}
    assert {name.replace("/", "-") for name in shown["tasks"]} == runs.keys()
    assert {one["state_type"] for one in runs.values()} == {"COMPLETED"}
    judged_from = {entry["id"] for entries in runs["judge-arena_hard"]["task_inputs"].values() for entry in entries}
    answers = ("generate-base-arena_hard", "generate-aligned-arena_hard")
    assert judged_from == {runs[name]["id"] for name in answers}
    logs = {path.name for path in (home.home / "state" / "runs" / shown["run"] / "logs").iterdir()}
    assert {"generate-base.log", "generate-aligned.log", "judge-judge.log"} <= logs
    bars = [line for line in home("show", "latest").splitlines() if "█" in line]
    assert len(bars) == len(executed(shown))


def test_a_run_that_is_stopped_cancelled_and_killed_in_an_overlap_goes_on(serial, trained, judge, server, tmp_path):
    home = new_home(trained, tmp_path)
    words = (*judged(trained, server), TWO_DEVICES)

    def overlapping():
        """A run that judges while it generates, its name, and its flow run."""
        before = set(home.home.glob("state/runs/*"))
        process = home.process(*words)
        home.wait(process, lambda: {"judge", "generate"} <= stages_at_work(home, before), 120)
        (folder,) = set(home.home.glob("state/runs/*")) - before
        return process, folder.name, json.loads((folder / "run.json").read_text())["flow_run_id"]

    judge.answers.clear()
    # Its own server frees at once what a killed run held.
    with home.served():
        api = json.loads((home.home / "state" / "prefect" / "server.json").read_text())["url"] + "/api"
        process, run, flow_run = overlapping()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130 and "stopped by Ctrl-C in generate-" in err and "and judge-arena_hard" in err, err
        assert "Traceback" not in err and home.json("show", run)["state"] == "stopped"
        wait_for_no_stages(home)
        assert state_of(api, flow_run) not in ("RUNNING", "PENDING")

        process, run, flow_run = overlapping()
        assert home.json("cancel", run)["state"] == "cancelled"
        process.communicate(timeout=60)
        wait_for_no_stages(home)
        assert process.returncode == 1 and state_of(api, flow_run) == "CANCELLED"

        process, run, flow_run = overlapping()
        process.kill()
        process.communicate()
        wait_for_no_stages(home)
        shown = home.json("show", run)
        assert shown["state"] == "crashed" and shown["also_working"]

        judge.answers.set()
        shown = home.json(*words)
        assert state_of(api, flow_run) == "CRASHED", "the next run says so"
    assert made(shown) == made(serial[1])


def wait_for_no_stages(bnf: Bnf, timeout_s: float = 20) -> None:
    """Wait until no process of a stage is left; the server's stays."""
    deadline = time.monotonic() + timeout_s
    while left := [line for line in bnf.processes() if "tasks.worker" in line]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def stages_at_work(bnf: Bnf, before: set[Path]) -> set[str]:
    """The stages that a run is at which began after these."""
    found = set()
    for folder in set(bnf.home.glob("state/runs/*")) - before:
        if (folder / "run.json").exists():
            record = json.loads((folder / "run.json").read_text())
            found |= {one["stage"] for one in [record.get("working"), *record.get("also_working", ())] if one}
    return found


def state_of(api: str, flow_run: str) -> str:
    with urllib.request.urlopen(f"{api}/flow_runs/{flow_run}") as answer:
        return json.load(answer)["state"]["type"]
