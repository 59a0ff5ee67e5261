"""An endpoint gets prompts at the address that was given alone, and its replies are read to a bound."""

import gzip
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from evaluation.engines import open_engine
from evaluation.types import Sampling
from tests.stub_server import StubServer

MESSAGES = [{"role": "user", "content": "a private prompt"}]


class Endpoint:
    """A server that does with each request what `behave(handler)` says."""

    def __init__(self, behave):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                behave(self)

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()


def asked(url, **options):
    engine = open_engine("openai", "m", base_url=url, **{"max_retries": 0, "timeout_s": 30.0, **options})
    try:
        ((_, (reply,)),) = list(engine.generate([MESSAGES], Sampling(8)))
        return reply
    finally:
        engine.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_prompt_follows_a_redirect(status, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hunter2")
    with StubServer(lambda messages, attempt: "from the other one") as other:

        def away(handler):
            handler.send_response(status)
            handler.send_header("Location", f"{other.url}/chat/completions?token=hunter2")
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        with (
            Endpoint(away) as endpoint,
            pytest.raises(ValueError, match="base_url must be the address of the endpoint itself") as refused,
        ):
            asked(endpoint.url)
    said = str(refused.value)
    assert other.requests == [] and other.keys == []
    assert endpoint.url in said and f"{other.url}/chat/completions?…" in said and "hunter2" not in said


def packed(handler, encoding, parts):
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    if encoding:
        handler.send_header("Content-Encoding", encoding)
    handler.send_header("Connection", "close")
    handler.end_headers()
    for part in parts:
        handler.wfile.write(part)


def test_a_reply_has_a_bounded_size(monkeypatch):
    monkeypatch.setattr("evaluation.engines._bounded_reply.MAX_BYTES", 1 << 20)
    sent = []

    def endless(handler):
        for _ in range(1000):
            handler.wfile.write(b" " * (1 << 16))
            sent.append(1)

    with Endpoint(lambda handler: (packed(handler, None, []), endless(handler))) as endpoint:
        reply = asked(endpoint.url)
    assert reply.finish_reason.startswith("error: OpenAIError: the reply must have at most 1 MiB") and len(sent) < 900


def test_a_packed_reply_is_measured_unpacked(monkeypatch):
    monkeypatch.setattr("evaluation.engines._bounded_reply.MAX_BYTES", 1 << 20)
    bomb = gzip.compress(b" " * (32 << 20))
    assert len(bomb) < 1 << 16
    with Endpoint(lambda handler: packed(handler, "gzip", [bomb])) as endpoint:
        assert "at most 1 MiB" in asked(endpoint.url).finish_reason


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x" * 300])
def test_packings_that_nobody_asked_for_are_not_unpacked(encoding):
    with Endpoint(lambda handler: packed(handler, encoding, [b"x"])) as endpoint:
        said = asked(endpoint.url).finish_reason
    assert said.startswith("error: OpenAIError: the reply must be plain, or packed with gzip, deflate") and len(said) < 200


def test_a_packed_reply_is_read():
    import json

    from tests.stub_server import completion

    body = gzip.compress(json.dumps(completion("said", {"model": "m"})).encode())
    with Endpoint(lambda handler: packed(handler, "gzip", [body])) as endpoint:
        assert asked(endpoint.url).completion == "said"


def test_a_reply_has_a_bounded_time():
    def drop_by_drop(handler):
        packed(handler, None, [])
        for _ in range(600):
            handler.wfile.write(b" ")
            time.sleep(0.1)

    began = time.monotonic()
    with Endpoint(drop_by_drop) as endpoint:
        reply = asked(endpoint.url, timeout_s=1.0)
    assert reply.finish_reason.startswith("error: APITimeoutError") and time.monotonic() - began < 30
