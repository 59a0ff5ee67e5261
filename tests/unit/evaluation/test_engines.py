"""Engines by name, and the openai engine against a server that misbehaves."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from evaluation import engines
from evaluation.engines import openai as openai_engine
from evaluation.engines.vllm import VllmEngine
from evaluation.spending import Meter, Price, most_prompt_tokens
from evaluation.types import Sampling

ROOT = Path(__file__).parents[3]


class Server:
    """An endpoint; `respond(text, attempt)` gives (status, headers, body), or None to cut the connection."""

    def __init__(self, respond):
        self.requests = []
        self.attempts = Counter()
        self.running = self.most_running = 0
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = body["messages"][-1]["content"]
                with lock:
                    outer.requests.append(body)
                    attempt = outer.attempts[text]
                    outer.attempts[text] += 1
                    outer.running += 1
                    outer.most_running = max(outer.most_running, outer.running)
                try:
                    response = respond(text, attempt)
                finally:
                    with lock:
                        outer.running -= 1
                if response is None:
                    self.connection.close()
                    return
                status, headers, data = response
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


def reply(text, n=1):
    choices = [
        {"index": index, "finish_reason": "stop", "message": {"role": "assistant", "content": f"<{text}>"}}
        for index in range(n)
    ]
    usage = {"prompt_tokens": 5, "completion_tokens": 3 * n, "total_tokens": 5 + 3 * n}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": choices, "usage": usage}
    return 200, {}, json.dumps(body).encode()


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    servers = []

    def start(respond, **options):
        server = Server(respond)
        servers.append(server)
        threading.Thread(target=server.http.serve_forever, daemon=True).start()
        return server, engines.open_engine("openai", "model-1", base_url=server.url, **options)

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


def _ask(engine, texts, sampling=None):
    prompts = [[{"role": "user", "content": text}] for text in texts]
    return dict(engine.generate(prompts, sampling or Sampling(16)))


def test_unknown_engine_lists_what_there_is():
    for use in (lambda: engines.open_engine("vlm", "m"), lambda: engines.environment("vlm")):
        with pytest.raises(ValueError, match=r"one of openai, transformers, vllm, got 'vlm'.*evaluation/engines/vlm.py"):
            use()


def test_environment_is_known_without_importing_anything_heavy_and_leaves_what_is_set():
    script = (
        "import sys, json; from evaluation.engines import environment; e = environment('vllm');"
        "print(json.dumps([e, sorted({'torch', 'vllm', 'transformers'} & set(sys.modules))]))"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "OMP_"))}
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=True
    )
    variables, loaded = json.loads(run.stdout)
    assert loaded == []
    assert variables["VLLM_NO_USAGE_STATS"] == "1"
    assert variables.get("OMP_NUM_THREADS", "1") == "1", "what the user has set stays"


def test_openai_gives_every_prompt_its_completions_with_bounded_concurrency(serve):
    server, engine = serve(lambda text, _: reply(text, 2), max_concurrency=3)
    texts = [f"q{number}" for number in range(20)]
    results = _ask(engine, texts, Sampling(16, temperature=0.5, top_p=0.9, n=2))
    assert sorted(results) == list(range(20))
    assert [one.completion for one in results[7]] == ["<q7>", "<q7>"]
    assert (results[7][0].num_prompt_tokens, results[7][0].num_completion_tokens) == (5, 3)
    assert len(server.requests) == 20 and server.most_running <= 3
    request = server.requests[0]
    assert (request["model"], request["temperature"], request["top_p"], request["n"], request["max_tokens"]) == (
        "model-1",
        0.5,
        0.9,
        2,
        16,
    )


def test_openai_retries_what_passes(serve):
    failures = {
        "limited": (429, {"Retry-After": "0"}, b"{}"),
        "broken": (500, {"Retry-After": "0"}, b"oops"),
        "cut": None,
    }
    server, engine = serve(lambda text, attempt: failures[text] if attempt == 0 else reply(text), max_retries=2)
    results = _ask(engine, list(failures))
    assert [results[index][0].completion for index in range(3)] == ["<limited>", "<broken>", "<cut>"]
    assert set(server.attempts.values()) == {2}


def test_openai_counts_what_does_not_pass_as_an_error_and_goes_on(serve):
    failures = {
        "always 500": (500, {"Retry-After": "0"}, b"{}"),
        "bad request": (400, {}, b'{"error": {"message": "context too long"}}'),
        "garbage": (200, {}, b"<html>not json"),
        "no choices": (200, {}, b'{"id": "1"}'),
    }
    server, engine = serve(lambda text, _: failures.get(text) or reply(text), max_retries=1)
    results = _ask(engine, [*failures, "fine"], Sampling(16))
    for index, text in enumerate(failures):
        assert results[index][0].finish_reason.startswith("error: "), text
        assert results[index][0].completion == ""
    assert "context too long" in results[1][0].finish_reason
    assert results[4][0].completion == "<fine>"
    assert server.attempts == {"always 500": 2, "bad request": 1, "garbage": 1, "no choices": 1, "fine": 1}


def test_openai_times_out(serve):
    import time

    def slow(text, attempt):
        time.sleep(1.5)
        return reply(text)

    _, engine = serve(slow, max_retries=0, timeout_s=0.2)
    assert _ask(engine, ["q"])[0][0].finish_reason.startswith("error: APITimeoutError")


def test_openai_stops_at_a_refused_key_without_spending_more(serve):
    server, engine = serve(lambda *_: (401, {}, b'{"error": {"message": "no"}}'), max_concurrency=2)
    with pytest.raises(
        ValueError, match="OPENAI_API_KEY must be accepted by the endpoint for model-1, got AuthenticationError"
    ):
        _ask(engine, [f"q{number}" for number in range(50)])
    assert len(server.requests) <= 4


def test_openai_asks_for_a_key_and_refuses_choices(serve, monkeypatch):
    _, engine = serve(lambda text, _: reply(text))
    with pytest.raises(ValueError, match="choices must not be given"):
        _ask(engine, ["q"], Sampling(16, choices=["a"]))
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ValueError, match="OPENAI_API_KEY must be set"):
        engines.open_engine("openai", "model-1")


def test_a_prompt_has_a_seed_of_its_own_where_the_engine_can_give_it(serve):
    server, engine = serve(lambda text, attempt: reply(text))
    engine.reseed(1)
    _ask(engine, ["a", "b"], Sampling(16, temperature=0.6, seeds=[7, 8]))
    assert {body["messages"][0]["content"]: body["seed"] for body in server.requests} == {"a": 7, "b": 8}
    # vLLM's requests: by the place of their prompt, whatever else is asked for.
    vllm = VllmEngine.__new__(VllmEngine)
    vllm._seed = 5
    assert [vllm._request_seed(index, Sampling(16, temperature=0.6, seeds=[7, 8])) for index in (0, 1)] == [7, 8]
    assert [vllm._request_seed(index, Sampling(16, n=2)) for index in (0, 1)] == [5, 7]
    can = {name: "seeds" in engines.load(engines.ENGINES, name).SUPPORTS for name in ("openai", "transformers")}
    assert can == {"openai": True, "transformers": False}


# As vLLM 0.32 and OpenAI write them.
TOO_LONG = {
    "vllm": "This model's maximum context length is 128 tokens. However, your prompt contains at least 129 input tokens, which exceeds",
    "characters": "This model's maximum context length is 128 tokens. However, your prompt contains 9000 characters (more than 2048",
    "openai": "This model's maximum context length is 128 tokens. However, your messages resulted in 150 tokens. Please reduce the",
    "limit": "This model's maximum context length is 128 tokens. However, you requested 150 tokens (50 in the messages, 100 in the",
}


def test_openai_tells_a_prompt_that_is_too_long_from_a_limit_that_is(serve):
    def respond(text, _):
        return 400, {}, json.dumps({"error": {"message": TOO_LONG[text], "code": "context_length_exceeded"}}).encode()

    _, engine = serve(respond)
    results = _ask(engine, list(TOO_LONG), Sampling(16, temperature=0.5, n=2))
    found = [[(one.finish_reason, one.num_prompt_tokens, one.completion) for one in results[index]] for index in range(3)]
    assert found == [2 * [("prompt_too_long", length, "")] for length in (129, 0, 150)]
    assert results[3][0].finish_reason.startswith("error: BadRequestError")


def test_openai_ends_where_no_server_takes_connections_and_keeps_what_came(serve, monkeypatch):
    monkeypatch.setattr(openai_engine, "FIRST_WAIT_S", 0.01)
    gone = threading.Event()

    def respond(text, _):
        if text == "q2":
            gone.set()
            # Nobody takes connections from here on.
            server.http.socket.close()
        return reply(text)

    price = Price(10.0, 30.0)
    meter = Meter({"model-1": price})
    server, engine = serve(respond, max_concurrency=1, max_retries=3, meter=meter)
    prompts = [[{"role": "user", "content": f"q{number}"}] for number in range(50)]
    kept = {}
    with pytest.raises(
        ConnectionError, match=r"/v1/ must take connections, got none in [34] tries \(ConnectError: .*; start the"
    ):
        for index, found in engine.generate(prompts, Sampling(16)):
            kept[index] = found[0].completion
    assert gone.is_set() and kept == {0: "<q0>", 1: "<q1>", 2: "<q2>"}, "one of the 47 others was tried, and none after it"
    # Three replies, each of 5 tokens for the prompt and 3 of its own. A request that nobody took costs nothing; the first of the last four
    # may have been on its way when the server went.
    assert engine.meter is meter and meter.spent_usd - meter.unknown_usd == pytest.approx(3 * price.cost(5, 3))
    assert meter.unknown_usd <= price.cost(most_prompt_tokens(prompts[3]), 16) * 1.001
