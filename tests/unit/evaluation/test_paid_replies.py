"""Replies that are paid for: what can't be read is a null, and what is under way when the asking ends is on file."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from evaluation.engines import open_engine
from evaluation.judging.calls import About, Calls
from evaluation.spending import Meter, SpendingCapReached
from evaluation.types import Generation, Sampling
from tests.stub_server import StubServer, completion
from tests.unit.evaluation.test_judge_client import PRICE, QUESTIONS, ROOT, fair, judged


def on_file(folder):
    return [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]


def changed(text, **fields):
    """A reply whose only choice has other fields."""
    body = completion(text, {"model": "stub-judge"})
    body["choices"][0] |= fields
    return {"body": body}


GARBAGE = {
    "list": [],
    "text": "hi",
    "choices [null]": {"choices": [None]},
    "choices text": {"choices": "a"},
    "choices [text]": {"choices": ["a"]},
    "choices [{}]": {"choices": [{}]},
    "choices object": {"choices": {"a": 1}},
    "message null": changed("", message=None)["body"],
    "message text": changed("", message="x")["body"],
    "content list": changed("", message={"role": "assistant", "content": [{"type": "text", "text": "[[A>B]]"}]})["body"],
}


@pytest.mark.parametrize("body", GARBAGE.values(), ids=GARBAGE)
def test_a_reply_that_cannot_be_read_is_a_null_that_counts_at_its_most(tmp_path, body):
    with StubServer(lambda messages, attempt: {"body": body} if attempt == 0 else fair(messages)) as server:
        first = judged(server, tmp_path, questions=QUESTIONS[:2], ledger=tmp_path / "1.jsonl")["models"]["new"]
        assert first["n_null"] == 4 and len(server.requests) == 4
        meter = Meter({"stub-judge": PRICE}, ledger=tmp_path / "1.jsonl")
        assert meter.spent_usd == meter.unknown_usd > 0
        assert judged(server, tmp_path, questions=QUESTIONS[:2])["models"]["new"]["score"] == 100.0
    assert {call["finish_reason"][:6] for call in on_file(tmp_path)} == {"error:", "stop"}


@pytest.mark.parametrize(
    "logprobs",
    [
        "x",
        {"content": "x"},
        {"content": [None]},
        {"content": [{}]},
        {"content": [{"token": "A", "logprob": 0.0, "top_logprobs": [{"token": "A", "logprob": "high"}]}]},
        {"content": [{"token": "A", "logprob": 0.0, "top_logprobs": [{"token": "A", "logprob": float("nan")}]}]},
        {"content": [{"token": "A", "logprob": 0.0, "top_logprobs": [{"token": "A", "logprob": 1e9}]}]},
    ],
)
def test_log_probabilities_that_cannot_be_are_a_null_where_they_were_asked_for(tmp_path, logprobs):
    with StubServer(lambda *_: changed("A", logprobs=logprobs, finish_reason="length")) as server:
        result = judged(server, tmp_path / "a", mode="logprobs", questions=QUESTIONS[:2])["models"]["new"]
    assert result["n_null"] == 4 and {call["finish_reason"][:6] for call in on_file(tmp_path / "a")} == {"error:"}
    with StubServer(lambda messages, _: changed(fair(messages), logprobs=logprobs)) as server:
        assert judged(server, tmp_path / "b", questions=QUESTIONS[:2])["models"]["new"]["score"] == 100.0


@pytest.mark.parametrize(
    ("mode", "answer"),
    [
        ("logprobs", {"text": "A", "finish_reason": "length"}),
        ("structured", json.dumps({"reasons": "x", "verdict": ["[[A>B]]"]})),
        ("structured", json.dumps({"reasons": "x", "verdict": {"label": "[[A>B]]"}})),
    ],
)
def test_a_constraint_that_is_ignored_ends_the_run_with_every_paid_reply_on_file(tmp_path, mode, answer):
    def behave(messages, attempt):
        time.sleep(0.05)
        return answer

    ledger = tmp_path / "spending.jsonl"
    with (
        StubServer(behave) as server,
        pytest.raises(ValueError, match=f"judge.verdict must be what the server can do, got {mode}, which its first 3"),
    ):
        judged(server, tmp_path, mode=mode, max_concurrency=8, ledger=ledger)
    assert len(server.requests) <= 3 + 8
    assert len(on_file(tmp_path)) == sum(server.billed.values()) == len(server.requests)


@pytest.fixture
def interruptible():
    """As in a terminal, though a shell that runs the tests in the background has them ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_keeps_the_replies_that_were_under_way(tmp_path, interruptible):
    def behave(messages, attempt):
        if len(server.requests) > 4:
            time.sleep(0.5)
            if len(server.requests) >= 8 and not interrupted:
                interrupted.append(True)
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.3)
        return fair(messages)

    interrupted = []
    with StubServer(behave) as server:
        with pytest.raises(KeyboardInterrupt):
            judged(server, tmp_path, max_concurrency=4)
        assert interrupted and len(on_file(tmp_path)) == sum(server.billed.values()) < 24
        server._behave = lambda messages, attempt: fair(messages)
        assert judged(server, tmp_path)["models"]["new"]["score"] == 100.0
    assert set(server.billed.values()) == {1} and len(server.billed) == 24


def test_an_error_of_whoever_takes_the_replies_keeps_those_under_way(tmp_path, monkeypatch):
    def full(done, total, note):
        if done == 2:
            raise OSError("the pipe is closed")

    def behave(messages, attempt):
        time.sleep(0.05 * (len(server.requests) % 4))  # not all at once
        return fair(messages)

    monkeypatch.setattr("tests.unit.evaluation.test_judge_client.no_progress", full)
    with StubServer(behave) as server, pytest.raises(OSError, match="the pipe is closed"):
        judged(server, tmp_path, max_concurrency=4)
    assert len(on_file(tmp_path)) == sum(server.billed.values()) < 24


def test_an_interrupt_while_a_reply_is_looked_at_keeps_those_under_way_and_a_rerun_asks_the_rest(tmp_path, monkeypatch):
    """The interrupt comes outside of the engine: nobody takes its replies any more."""

    def interrupted(self, protocol, reply):
        raise KeyboardInterrupt

    def behave(messages, attempt):
        time.sleep(0.05 * (len(server.requests) % 4))
        return fair(messages)

    with StubServer(behave) as server:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr("evaluation.judging.client.ModelJudge._took_effect", interrupted)
            judged(server, tmp_path, max_concurrency=4)
        assert 1 < len(on_file(tmp_path)) == sum(server.billed.values()) < 24
        assert judged(server, tmp_path)["models"]["new"]["score"] == 100.0
    assert set(server.billed.values()) == {1} and len(server.billed) == 24
    games = [json.loads(line) for line in (tmp_path / "out" / "games.jsonl").read_text().splitlines()]
    assert [(game["question_id"], game["game"]) for game in games] == [(item["id"], n) for item in QUESTIONS for n in (1, 2)]


def test_a_cap_that_is_reached_with_requests_under_way_keeps_their_replies(tmp_path):
    def behave(messages, attempt):
        time.sleep(0.05 * (len(server.requests) % 4))
        return fair(messages)

    with StubServer(behave) as server:
        with pytest.raises(SpendingCapReached):
            judged(server, tmp_path, cap=0.03, max_concurrency=4)
        assert 4 <= len(on_file(tmp_path)) == sum(server.billed.values()) < 24
        assert judged(server, tmp_path, cap=1.0)["models"]["new"]["score"] == 100.0
    assert set(server.billed.values()) == {1} and len(server.billed) == 24


@pytest.mark.integration
def test_a_kill_loses_no_reply_that_had_arrived(tmp_path):
    """The process looks at the first reply for ever; the others that were under way arrive meanwhile, and then comes kill -9."""
    script = f"""
        import os, signal, sys, threading, time
        from pathlib import Path
        from types import SimpleNamespace
        sys.path.insert(0, {str(ROOT)!r})
        from evaluation.judging.client import ModelJudge
        from tests.unit.evaluation import test_judge_client as t
        path = Path({str(tmp_path)!r})
        ModelJudge._took_effect = lambda *_: time.sleep(600)
        def kill():
            while not (path / "calls.jsonl").exists() or len((path / "calls.jsonl").read_text().splitlines()) < 4:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        threading.Thread(target=kill, daemon=True).start()
        t.judged(SimpleNamespace(url=sys.argv[1]), path, max_concurrency=4)
    """

    def behave(messages, attempt):
        time.sleep(0.1 * (len(server.requests) % 4))
        return fair(messages)

    with StubServer(behave) as server:
        command = [sys.executable, "-c", textwrap.dedent(script), server.url]
        died = subprocess.run(command, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120)
        assert died.returncode == -9, died.stderr.decode()
        assert len(on_file(tmp_path)) == sum(server.billed.values()) == 4
        assert judged(server, tmp_path)["models"]["new"]["score"] == 100.0
    assert set(server.billed.values()) == {1} and len(server.billed) == 24


def test_replies_are_handed_over_though_nobody_takes_them():
    received = []
    with StubServer(lambda *_: "x") as server:
        engine = open_engine("openai", "m", base_url=server.url, max_concurrency=3)
        prompts = [[{"role": "user", "content": str(number)}] for number in range(3)]
        replies = engine.generate(prompts, Sampling(4), lambda index, found: received.append((index, found[0].completion)))
        next(replies)
        deadline = time.monotonic() + 30
        while len(received) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sorted(received) == [(0, "x"), (1, "x"), (2, "x")]
        replies.close()
        engine.close()


def test_nothing_is_asked_for_nobody(tmp_path):
    with StubServer(lambda *_: "x") as server:
        engine = open_engine("openai", "m", base_url=server.url, max_concurrency=2)
        replies = engine.generate([[{"role": "user", "content": str(number)}] for number in range(9)], Sampling(4))
        next(replies)
        replies.close()
        engine.close()
    assert len(server.requests) <= 3


def test_a_reply_is_on_the_disk_itself_before_it_counts(tmp_path, monkeypatch):
    path, seen = tmp_path / "calls.jsonl", []
    calls = Calls(path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append((os.fstat(descriptor).st_size, calls.get("key"))))
    calls.add("key", Generation("[[A]]", [], "stop", 3, 2), About("judge", "pairs"))
    calls.close()
    assert seen == [(path.stat().st_size, None)] and seen[0][0] > 0 and calls.get("key").completion == "[[A]]"
