"""The judge behind an endpoint: whatever the server does, every game is judged or null, and no answer is paid for twice."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from evaluation.benchmarks import arena_hard
from evaluation.engines import open_engine
from evaluation.judging.answers import Answers
from evaluation.judging.client import ModelJudge
from evaluation.judging.run import judge
from evaluation.spending import Meter, Price, SpendingCapReached
from evaluation.types import Sampling
from tests.stub_server import FAULTS, StubServer
from tests.unit.evaluation.fake_engine import no_progress

ROOT = Path(__file__).parents[3]
QUESTIONS = arena_hard.load("sample", None)
GOOD = Answers("new", {item["id"]: [f"good {item['id']}"] for item in QUESTIONS})
POOR = Answers("old", {item["id"]: [f"poor {item['id']}"] for item in QUESTIONS})
PRICE = Price(10.0, 30.0)
# 100 tokens read and 10 written, as the stub says.
COST = (100 * 10 + 10 * 30) / 1e6


SLOW_S = 1.6


def patience_s(fault):
    """Short where the server is to be too slow; long elsewhere, as a busy machine is no fault."""
    return 1.0 if fault == "timeout" else 60.0


def fair(messages, attempt=0):
    """Finds the good answer wherever it stands."""
    text = messages[1]["content"]
    return "Because. [[A>B]]" if text.index("good") < text.index("poor") else "So: [[B>A]]"


def judged(server, folder, *, mode="text", cap=None, questions=QUESTIONS, price=PRICE, ledger=None, tokens=64, **options):
    meter = Meter({"stub-judge": price} if price else {}, cap, ledger)
    engine = open_engine("openai", "stub-judge", base_url=server.url, meter=meter, **{"max_retries": 2, **options})
    asked = ModelJudge(engine, None, {"model": "stub-judge"}, mode, tokens, meter)
    try:
        return judge(
            asked,
            "pairwise",
            judge_name="stub-judge",
            questions=questions,
            models={"new": GOOD},
            baseline=POOR,
            output_dir=folder / "out",
            calls_file=folder / "calls.jsonl",
            progress=no_progress,
        )
    finally:
        engine.close()


@pytest.fixture(autouse=True)
def quick_back_off(monkeypatch):
    monkeypatch.setattr("evaluation.engines.openai.FIRST_WAIT_S", 0.01)


def test_every_game_is_judged_counted_and_paid_once(tmp_path):
    with StubServer(fair) as server:
        summary = judged(server, tmp_path)
        assert summary["models"]["new"]["score"] == 100.0 and summary["models"]["new"]["position_bias"] == 0.0
        assert summary["cost"] == {
            "num_requests": 24,
            "num_prompt_tokens": 2400,
            "num_completion_tokens": 240,
            "usd": pytest.approx(24 * COST),
        }
        again = judged(server, tmp_path)
    assert again == summary, "the same bytes, whichever run asked"
    assert set(server.billed.values()) == {1} and len(server.billed) == 24
    records = [json.loads(line) for line in (tmp_path / "out" / "games.jsonl").read_text().splitlines()]
    assert [(record["game"], record["reply"]) for record in records[:2]] == [(1, "So: [[B>A]]"), (2, "Because. [[A>B]]")]
    assert records[0]["cost_usd"] == pytest.approx(COST) and records[0]["judge"] == "stub-judge"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_first_is_overcome_or_a_null_that_the_next_run_asks_again(tmp_path, fault):
    with StubServer(lambda messages, attempt: fault if attempt == 0 else fair(messages), slow_s=SLOW_S) as server:
        first = judged(server, tmp_path, questions=QUESTIONS[:4], timeout_s=patience_s(fault))["models"]["new"]
        assert first["n_games"] == 8
        # What was answered with a 200 may have been billed: it is not asked again in the same run.
        assert first["n_null"] == (8 if fault in ("garbage", "no choices") else 0)
        second = judged(server, tmp_path, questions=QUESTIONS[:4])["models"]["new"]
    assert second["n_null"] == 0 and second["score"] == 100.0
    assert set(server.billed.values()) == {1} and len(server.billed) == 8


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_is_a_null_and_untrusted(tmp_path, fault):
    def behave(messages, attempt):
        return fault if "good sample-01" in messages[1]["content"] else fair(messages)

    with StubServer(behave, slow_s=SLOW_S) as server:
        result = judged(server, tmp_path, questions=QUESTIONS[:4], timeout_s=patience_s(fault))["models"]["new"]
    assert result["n_games"] == 8 and result["n_null"] == 2 and result["score"] == 100.0
    assert not result["trusted"] and "25% of the games have no verdict" in result["untrusted_reason"]
    assert set(server.billed.values()) == {1} and len(server.billed) == 6


def test_an_always_a_judge_is_50_and_flagged(tmp_path):
    with StubServer(lambda *_: "[[A>>B]]") as server:
        result = judged(server, tmp_path)["models"]["new"]
    assert result["score"] == 50.0 and result["position_bias"] == 1.0 and not result["trusted"]


def test_retry_after_is_honoured(tmp_path):
    with StubServer(lambda messages, attempt: "429" if attempt == 0 else fair(messages), retry_after="0.4") as server:
        judged(server, tmp_path, questions=QUESTIONS[:1], max_concurrency=1)
    assert server.times[1] - server.times[0] >= 0.4


def test_a_server_that_asks_for_an_hour_is_not_waited_for(tmp_path):
    started = time.monotonic()
    with StubServer(lambda *_: "429", retry_after="3600") as server:
        result = judged(server, tmp_path, questions=QUESTIONS[:1])["models"]["new"]
    assert result["n_null"] == 2 and time.monotonic() - started < 10 and len(server.requests) == 2


def test_back_off_doubles_with_jitter():
    engine = open_engine("openai", "m", base_url="http://127.0.0.1:9/v1")
    waits = [[engine._wait_s(attempt) for _ in range(200)] for attempt in range(4)]
    for attempt, drawn in enumerate(waits):
        assert 0.5 * 0.01 * 2**attempt <= min(drawn) < max(drawn) <= 0.01 * 2**attempt
        assert len(set(drawn)) > 100
    assert engine._wait_s(50) <= 60.0
    engine.close()


@pytest.mark.parametrize("fault", ["401", "quota"])
def test_what_no_request_can_pass_ends_the_run_and_keeps_what_was_paid(tmp_path, monkeypatch, fault):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    answered = []

    def behave(messages, attempt):
        answered.append(1)
        return fair(messages) if len(answered) <= 3 else fault

    with StubServer(behave) as server:
        with pytest.raises(ValueError, match=r"OPENAI_API_KEY must be accepted by the endpoint") as failed:
            judged(server, tmp_path, max_concurrency=1)
        assert len(server.requests) == 4 and "sk-secret" not in str(failed.value)
    assert len((tmp_path / "calls.jsonl").read_text().splitlines()) == 3
    with StubServer(fair) as server:
        judged(server, tmp_path)
    assert len(server.billed) == 21


def test_the_key_is_sent_and_written_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    with StubServer(lambda messages, attempt: "400" if attempt == 0 else fair(messages)) as server:
        judged(server, tmp_path, questions=QUESTIONS[:2], api_key_variable="MY_KEY", ledger=tmp_path / "spending.jsonl")
    assert set(server.keys) == {"Bearer sk-very-secret"}
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"sk-very-secret" not in path.read_bytes()


def test_azure_is_spoken_to_as_it_wants(monkeypatch):
    monkeypatch.delenv("AZURE_OPENAI_API_KEY", raising=False)
    with pytest.raises(
        ValueError, match=r"azure must have a key, a base_url and an api_version, got none for AZURE_OPENAI_API_KEY"
    ):
        open_engine("openai", "deployment", api="azure", base_url="http://127.0.0.1:9", api_version="2024-10-21")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "azure-secret")
    with StubServer(lambda *_: "hello") as server:
        url = server.url.removesuffix("/v1")
        engine = open_engine("openai", "deployment", api="azure", base_url=url, api_version="2024-10-21")
        ((_, (reply,)),) = engine.generate([[{"role": "user", "content": "q"}]], Sampling(7))
    assert reply.completion == "hello" and server.keys == ["azure-secret"]
    assert server.requests[0]["max_completion_tokens"] == 7 and server.requests[0]["model"] == "deployment"


def test_requests_are_bounded(tmp_path):
    def slow(messages, attempt):
        time.sleep(0.02)
        return fair(messages)

    with StubServer(slow) as server:
        judged(server, tmp_path, max_concurrency=3)
    assert server.most_running <= 3


def test_the_cap_stops_before_it_is_exceeded_and_a_higher_one_goes_on(tmp_path):
    cap = 0.02
    with StubServer(fair) as server:
        with pytest.raises(SpendingCapReached, match=r"spending.max_usd must leave room for the next call, got 0.02"):
            judged(server, tmp_path, cap=cap)
        paid = len(server.billed)
        assert 5 <= paid < 24 and paid * COST <= cap, "it stops early enough, and not much too early"
        calls = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
        assert len([call for call in calls if call["finish_reason"] == "stop"]) == paid, "what was paid for is written down"
        assert judged(server, tmp_path, cap=1.0)["models"]["new"]["score"] == 100.0
    assert set(server.billed.values()) == {1} and len(server.billed) == 24


def test_the_cap_is_the_runs_whatever_process_spends(tmp_path):
    ledger = tmp_path / "spending.jsonl"
    with StubServer(fair) as server:
        judged(server, tmp_path, cap=1.0, ledger=ledger, questions=QUESTIONS[:6])
        assert Meter(cap_usd=1.0, ledger=ledger).spent_usd == pytest.approx(12 * COST)
        with pytest.raises(SpendingCapReached, match=r"with \$0.0156 spent"):
            judged(server, tmp_path, cap=12 * COST, ledger=ledger)
    assert len(server.billed) == 12


def test_an_unknown_outcome_counts_as_if_it_had_cost_the_most():
    meter = Meter({"m": PRICE}, cap_usd=1.0)
    meter.lose("m", meter.reserve("m", 1000, 1000))
    assert meter.spent_usd == meter.unknown_usd == pytest.approx((1000 * 10 + 1000 * 30) / 1e6)
    meter.release(meter.reserve("m", 1000, 1000))
    assert meter.spent_usd == pytest.approx(0.04)


def test_a_cap_needs_a_price(tmp_path):
    with StubServer(fair) as server, pytest.raises(ValueError, match=r"spending.prices must have the price of 'stub-judge'"):
        judged(server, tmp_path, cap=1.0, price=None)
    assert server.requests == []


def test_the_estimate_comes_before_the_first_call_and_is_not_too_low(tmp_path, capsys):
    printed = []
    with StubServer(lambda messages, _: printed.append(capsys.readouterr().out) or fair(messages)) as server:
        judged(server, tmp_path, max_concurrency=1)
    assert "judging 24 games, 0 already judged: 24 requests, about " in printed[0] and "at most $" in printed[0]
    meter = Meter({"m": PRICE})
    found = meter.estimate("m", [[{"role": "user", "content": "four letter word here " * 30}]], 50)
    assert found.num_prompt_tokens >= 120 and found.most_usd >= PRICE.cost(22 * 30, 50), "at most is a byte a token"


def test_structured_verdicts_and_their_check(tmp_path):
    def obedient(messages, attempt):
        return json.dumps({"reasons": "…", "verdict": f"[[{fair(messages)[-5:-2]}]]"})

    with StubServer(obedient) as server:
        assert judged(server, tmp_path / "a", mode="structured")["models"]["new"]["score"] == 100.0
    asked = server.requests[0]["response_format"]["json_schema"]
    assert asked["strict"] and asked["schema"]["properties"]["verdict"]["enum"][0] == "[[A>>B]]"
    assert list(asked["schema"]["properties"]) == ["reasons", "verdict"], "the reasons come first"
    with (
        StubServer(fair) as server,
        pytest.raises(ValueError, match=r"judge.verdict must be what the server can do, got structured, which its first 3"),
    ):
        judged(server, tmp_path / "b", mode="structured", max_concurrency=1)
    assert len(server.requests) <= 4, "a server that ignores the constraint is not paid for all games"


def test_verdicts_by_the_likelier_letter(tmp_path):
    def letters(messages, attempt):
        first = "A>B" in fair(messages)
        # "A" with and without a space are one letter; the rest of the probability lies elsewhere.
        logprobs = {"A": -1.0, " A": -3.0, "B": -1.1} if first else {"A": -1.0, "B": -0.9, "The": -2.0}
        return {"text": "A", "logprobs": logprobs, "finish_reason": "length"}

    with StubServer(letters) as server:
        result = judged(server, tmp_path, mode="logprobs")["models"]["new"]
    assert result["score"] == 100.0 and server.requests[0]["max_tokens"] == 1 and server.requests[0]["top_logprobs"] == 20
    # (e⁻¹ + e⁻³ + e⁻¹·¹ + e⁻¹ + e⁻⁰·⁹) / 2
    assert result["letter_mass"] == pytest.approx((0.36788 + 0.04979 + 0.33287 + 0.36788 + 0.40657) / 2, abs=1e-4)


def test_letters_that_the_judge_did_not_mean_are_not_trusted(tmp_path):
    unlikely = {"text": "The", "logprobs": {"The": -0.01, "A": -6.0, "B": -7.0}, "finish_reason": "length"}
    with StubServer(lambda *_: unlikely) as server:
        result = judged(server, tmp_path, mode="logprobs")["models"]["new"]
    assert not result["trusted"] and "the letters have 0% of the probability" in result["untrusted_reason"]


@pytest.mark.integration
def test_a_killed_judge_loses_no_answer_and_pays_none_twice(tmp_path):
    """Kill -9 while requests are under way: what had come back is there, and is not asked again."""
    seen = []

    def behave(messages, attempt):
        seen.append(1)
        if len(seen) > 10:
            time.sleep(0.3)  # under way when the process dies
        return fair(messages)

    script = f"""
        import os, signal, sys, threading
        sys.path.insert(0, {str(ROOT)!r})
        from tests.unit.evaluation import test_judge_client as t
        from types import SimpleNamespace
        from pathlib import Path
        path = Path({str(tmp_path)!r})
        def kill():
            while not (path / "calls.jsonl").exists() or len((path / "calls.jsonl").read_text().splitlines()) < 9:
                pass
            os.kill(os.getpid(), signal.SIGKILL)
        threading.Thread(target=kill, daemon=True).start()
        t.judged(SimpleNamespace(url=sys.argv[1]), path, max_concurrency=2)
    """
    with StubServer(behave) as server:
        command = [sys.executable, "-c", textwrap.dedent(script), server.url]
        died = subprocess.run(command, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert died.returncode == -9, died.stderr.decode()
        kept = len((tmp_path / "calls.jsonl").read_text().splitlines())
        assert kept >= 9
        time.sleep(1)  # what was under way is answered, and paid for, all the same
        under_way = len(server.billed) - kept
        assert under_way <= 2, "only what was under way is not there"
        calls = tmp_path / "calls.jsonl"
        calls.write_bytes(calls.read_bytes()[:-7])  # and the kill hit the last write
        result = judged(server, tmp_path)["models"]["new"]
    assert result["n_games"] == 24 and result["score"] == 100.0
    assert sum(count - 1 for count in server.billed.values()) <= under_way + 1
