"""A Prefect server of its own: runs use it by PREFECT_API_URL, the home starts none, and judges' keys come from its Secret blocks."""

import json
import urllib.request
from uuid import uuid4

import pytest

from flows.errors import RecipeError
from flows.recipe.config import Recipe, load_recipe, make_recipe
from flows.runs.record import start_run
from flows.service.keys import service_keys
from tests.e2e.conftest import Bnf

pytestmark = [pytest.mark.e2e]

WORDS = ("run", "flows/recipes/pairs.yaml", "evaluation.benchmarks={}", "--only", "prepare")


def test_runs_use_the_server_that_is_named(model, shared_api, tmp_path):
    """All that the server has seen are these runs."""
    bnf = Bnf(tmp_path, PREFECT_API_URL=shared_api)
    first = bnf.json(*WORDS)
    again = bnf.json(*WORDS)
    assert bnf.executed(first["run"]) == {"resolve/base", "prepare"} and bnf.executed(again["run"]) == set()
    assert not (tmp_path / "state" / "prefect" / "server.json").exists()
    body = json.dumps({"sort": "START_TIME_ASC"}).encode()
    request = urllib.request.Request(f"{shared_api}/flow_runs/filter", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        seen = [(run["name"], run["state_type"]) for run in json.load(answer)]
    assert seen == [(first["run"], "COMPLETED"), (again["run"], "COMPLETED")]
    # The log of a cached task says what was taken, and where it was made.
    tasks, logs = posted(shared_api, "task_runs"), posted(shared_api, "logs")
    cached = {one["id"]: one["name"] for one in tasks if one["state_name"] == "Cached"}
    told = {
        cached[line["task_run_id"]]: line["message"]
        for line in logs
        if line["task_run_id"] in cached and line["message"].startswith("cached: ")
    }
    assert told.keys() == {"resolve-base", "prepare"}
    for name, task in again["tasks"].items():
        message = told[name.replace("/", "-")]
        assert message.startswith(f"cached: {task['path']} (fingerprint {task['fingerprint']}), made in run {first['run']} on ")
    # Runs that have ended are watched to the end that they had.
    bnf("watch", again["run"])
    assert "2 cached: resolve-base, prepare\n" in bnf.err and "2 tasks, 2 from the cache" in bnf.err
    # A run at work that another server knows can't be cancelled through this one.
    elsewhere = start_run(tmp_path / "state", load_recipe(WORDS[1]), str(uuid4()))
    bnf("cancel", elsewhere.id, code=2)
    assert f"got {elsewhere.id}, which {shared_api} has not; set PREFECT_API_URL as it was" in bnf.err


def posted(api: str, what: str) -> list[dict]:
    """What the server has of task runs or logs."""
    request = urllib.request.Request(f"{api}/{what}/filter", b"{}", {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def test_a_home_of_any_name_keeps_its_own_records(model, tmp_path):
    """`?` and `#` end a path in a URL, and `%` begins an escape: the database is in the home all the same, and nothing beside it."""
    name = "a?50% b #'c"
    bnf = Bnf(tmp_path, BNF_HOME=str(tmp_path / name))
    assert bnf("plan", *WORDS[1:3]) and not (tmp_path / name).exists()
    run = bnf.json(*WORDS)["run"]
    assert f"home {tmp_path / name}, new" in bnf.err
    assert (tmp_path / name / "prefect" / "prefect.db").exists() and [one["run"] for one in bnf.json("runs")["runs"]] == [run]
    assert {path.name for path in tmp_path.iterdir()} == {name}


def judged_with(block: str) -> Recipe:
    judge = {"engine": "openai", "model": "m", "api_key_block": block}
    return make_recipe({"name": "j", "model_name_or_path": "some/model", "judge": judge})


def test_a_judges_key_comes_from_its_block_and_a_missing_block_is_named(shared_api):
    from prefect.blocks.system import Secret
    from prefect.events.worker import EventsWorker
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: shared_api}):
        Secret(value="sk-block").save("judge-key")
        assert service_keys(judged_with("judge-key")) == {"OPENAI_API_KEY": "sk-block"}
        with pytest.raises(RecipeError, match=r"judge\.api_key_block must be a Prefect Secret block, got 'none-such'"):
            service_keys(judged_with("none-such"))
        # What is still to be sent goes to the server while it is there.
        EventsWorker.drain_all(timeout=30)
