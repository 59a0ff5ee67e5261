"""A Prefect server of its own: runs use it by PREFECT_API_URL, and the home starts none."""

import json
import urllib.request
from uuid import uuid4

import pytest

from flows.recipe.config import load_recipe
from flows.runs.record import start_run
from tests.e2e.conftest import Bnf, prefect_server

pytestmark = [pytest.mark.e2e]

WORDS = ("run", "flows/recipes/pairs.yaml", "evaluation.benchmarks={}", "--only", "prepare")


@pytest.fixture
def api(tmp_path):
    """The address of a running server that has seen nothing yet."""
    with prefect_server(tmp_path) as address:
        yield address


def test_runs_use_the_server_that_is_named(model, api, tmp_path):
    bnf = Bnf(tmp_path, PREFECT_API_URL=api)
    first = bnf.json(*WORDS)
    again = bnf.json(*WORDS)
    assert bnf.executed(first["run"]) == {"resolve/base", "prepare"} and bnf.executed(again["run"]) == set()
    assert not (tmp_path / "state" / "prefect" / "server.json").exists()
    body = json.dumps({"sort": "START_TIME_ASC"}).encode()
    request = urllib.request.Request(f"{api}/flow_runs/filter", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        seen = [(run["name"], run["state_type"]) for run in json.load(answer)]
    assert seen == [(first["run"], "COMPLETED"), (again["run"], "COMPLETED")]
    # A run at work that another server knows can't be cancelled through this one.
    elsewhere = start_run(tmp_path / "state", load_recipe(WORDS[1]), str(uuid4()))
    bnf("cancel", elsewhere.id, code=2)
    assert f"got {elsewhere.id}, which {api} has not; set PREFECT_API_URL as it was" in bnf.err


def test_homes_of_any_name_keep_their_own_records(model, tmp_path):
    """`?` and `#` end a path in a URL, and `%` begins an escape: each home has its own database all the same."""
    for name in ("a?50%", "a?b #'c"):
        bnf = Bnf(tmp_path, BNF_HOME=str(tmp_path / name))
        assert bnf("plan", *WORDS[1:3]) and not (tmp_path / name).exists()
        run = bnf.json(*WORDS)["run"]
        assert f"home {tmp_path / name}, new" in bnf.err
        assert (tmp_path / name / "prefect" / "prefect.db").exists() and [one["run"] for one in bnf.json("runs")["runs"]] == [
            run
        ]
    assert {path.name for path in tmp_path.iterdir()} == {"a?50%", "a?b #'c"}
