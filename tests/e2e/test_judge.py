"""Judging through the command line: a run that is killed while an endpoint judges, a cap, two judges, MT-bench's two turns."""

import contextlib
import itertools
import json
import signal
import threading

import pytest

from tests.e2e.conftest import Bnf
from tests.stub_server import StubServer

pytestmark = [pytest.mark.e2e]

RECIPE = "flows/recipes/judge.yaml"
PRICES = "spending.prices={stub-judge: {input: 10, output: 30}}"


def words(server, tmp_path, *more):
    """Two questions of each benchmark, answered in a few tokens by the transformers engine, judged by the stub."""
    baseline = tmp_path / "baseline.jsonl"
    rows = [{"id": f"sample-{n:02d}", "completion": "poor baseline"} for n in range(2)]
    baseline.write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmarks = f"{{arena_hard: {{source: sample, limit: 2, baseline: {baseline}}}, mt_bench: {{source: sample, limit: 2}}}}"
    judge = f"{{engine: openai, model: stub-judge, base_url: {server.url}, max_new_tokens: 8, max_retries: 0, benchmarks: {benchmarks}}}"
    return ("run", RECIPE, "evaluation.engine=transformers", f"judge={judge}", PRICES, *more)


def verdict(messages, attempt=0):
    text = messages[1]["content"]
    if "The answer to rate" in text:
        return "[[7]]" if "Turn 2: the user" in text else "[[5]]"
    return "[[B>A]]" if text.index("poor baseline") < text.index("# Answer of B") else "[[A>B]]"


def calls(bnf):
    return [json.loads(line) for line in (bnf.home / "state" / "judgments" / "stub-judge.jsonl").read_text().splitlines()]


def test_a_run_that_is_killed_while_the_endpoint_judges_goes_on_and_pays_nothing_twice(model, tmp_path):
    bnf, killed, numbers = Bnf(tmp_path), threading.Event(), itertools.count()

    ill = threading.Event()

    def behave(messages, attempt):
        if next(numbers) >= 3:
            killed.wait(300)  # under way when the run is killed
        if ill.is_set() and "The answer to rate" in messages[1]["content"]:
            return "500"
        return verdict(messages)

    with StubServer(behave) as server, contextlib.ExitStack() as rest:
        process = bnf.process(*words(server, tmp_path))
        path = bnf.home / "state" / "judgments" / "stub-judge.jsonl"

        def judges_alone():
            answers = (bnf.home / "state" / "artifacts" / "generate").glob("*/manifest.json")
            return len(list(answers)) == 2 and path.exists() and len(path.read_text().splitlines()) >= 3

        # The first questions are judged while the second ones are answered.
        bnf.wait(process, judges_alone)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        before = calls(bnf)
        killed.set()
        requests = len(server.requests)
        shown = bnf.json(*words(server, tmp_path))
        assert len(before) == 3 and len(server.requests) == requests + 8 - 3, (
            "four games and four rated turns, less what was there"
        )
        assert bnf.executed() == {"judge/arena_hard", "judge/mt_bench", "report"}
        judges = shown["summary"]["judges"]
        arena, mt = judges["arena_hard"]["models"]["base"], judges["mt_bench"]["models"]["base"]
        assert (
            arena["score"] == 100.0 and arena["n_games"] == 4 and mt["score"] == 6.0 and mt["by_turn"] == {"1": 5.0, "2": 7.0}
        )
        assert judges["arena_hard"]["deviations"][0] == "judge stub-judge instead of gpt-4-1106-preview"
        spending = (bnf.home / "state" / "runs" / shown["run"] / "spending.jsonl").read_text().splitlines()
        assert [json.loads(line)["outcome"] for line in spending].count("answered") == 5
        report = (bnf.home / "state" / "runs" / shown["run"] / "report.html").read_text()
        assert "stub-judge" in report and "Not as published" in report

        rest.enter_context(bnf.served())
        # Another question costs what is new alone; a second judge is asked everything, and agrees with itself.
        second = f"judge.second={{engine: openai, model: stub-judge, base_url: {server.url}, max_judgment_tokens: 512}}"
        requests = len(server.requests)
        shown = bnf.json(*words(server, tmp_path, second))
        assert len(server.requests) == requests + 8
        assert shown["summary"]["judges"]["arena_hard/second"]["agreement"]["base"]["same_verdict"] == 1.0
        requests = len(server.requests)
        bnf.json(*words(server, tmp_path), "--refresh", "judge")
        assert len(server.requests) == requests + 8, "forced"

        # An endpoint that failed some games is asked those again by the next run that comes by, and by no run that may not judge.
        ill.set()
        longer = words(server, tmp_path, "judge.max_judgment_tokens=768")
        shown = bnf.json(*longer)
        assert shown["summary"]["judges"]["mt_bench"]["models"]["base"]["n_null"] == 4
        ill.clear()
        requests = len(server.requests)
        planned = {(task["stage"], task["benchmark"]): task for task in bnf.json("plan", *longer[1:])["stages"]}
        assert "4 of its requests failed" in planned["judge", "mt_bench"]["problem"]
        bnf.json(*longer, "--only", "report")
        assert len(server.requests) == requests
        shown = bnf.json(*longer)
        assert len(server.requests) == requests + 4 and bnf.executed() == {"judge/mt_bench", "report"}
        assert shown["summary"]["judges"]["mt_bench"]["models"]["base"]["n_null"] == 0

        # A cap that the first request would exceed: nothing is asked, and the error says what to do.
        requests = len(server.requests)
        bnf(*words(server, tmp_path, "judge.max_judgment_tokens=1024", "spending.max_usd=0.001"), code=1)
        assert "spending.max_usd must leave room" in bnf.err and len(server.requests) == requests


def test_an_endpoint_that_is_not_there_is_refused_before_anything_runs(model, tmp_path):
    bnf = Bnf(tmp_path)
    with StubServer(verdict) as server:
        pass
    bnf(*words(server, tmp_path), code=2)
    assert "base_url must answer" in bnf.err and not (bnf.home / "state" / "runs").exists()
