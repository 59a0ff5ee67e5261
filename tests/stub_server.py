"""An OpenAI-compatible endpoint on this machine that can misbehave in every way that endpoints do.

    with StubServer(behave) as server: …

`behave(messages, attempt)` says what happens to a request: a text is answered with it, {"body": …} with that JSON; "429", "500", "400",
"401", "quota", "garbage", "no choices", "timeout" and "cut" are the faults. `attempt` counts the requests with the same messages from 0.
`server.billed` counts the requests that were answered in full, by their messages: what a real server would take money for.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("429", "500", "garbage", "no choices", "timeout", "cut")
_ERROR = {"error": {"message": "the stub refuses", "type": "stub", "code": None}}


class StubServer:
    """Threads, standard library only. Args: `slow_s` is how long "timeout" takes; `retry_after` what "429" asks for, in seconds."""

    def __init__(self, behave: Callable[[list[dict[str, str]], int], Any], *, slow_s: float = 1.0, retry_after: str = "0"):
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: list[str | None] = []
        self.billed: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()
        self.most_running = self.running = 0
        self._behave, self._slow_s, self._retry_after = behave, slow_s, retry_after
        self._lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(200, {"object": "list", "data": [{"id": "stub-judge", "object": "model"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stub.handle(self, body)

            def reply(self, status: int, body: Any, **headers: str) -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that went away is part of the tests

        self._http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> StubServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def handle(self, handler: Any, body: dict[str, Any]) -> None:
        key = json.dumps(body["messages"])
        with self._lock:
            self.requests.append(body)
            self.times.append(time.monotonic())
            self.keys.append(handler.headers.get("Authorization") or handler.headers.get("api-key"))
            attempt = self.attempts[key]
            self.attempts[key] += 1
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            action = self._behave(body["messages"], attempt)
        finally:
            # Before the reply: whoever has it may ask again before this thread goes on.
            with self._lock:
                self.running -= 1
        self._answer(handler, body, key, action)

    def _answer(self, handler: Any, body: dict[str, Any], key: str, action: Any) -> None:
        if action == "429":
            handler.reply(429, _ERROR, Retry_After=self._retry_after)
        elif action == "quota":
            handler.reply(429, {"error": {**_ERROR["error"], "code": "insufficient_quota"}})
        elif action in ("400", "401", "500"):
            handler.reply(int(action), _ERROR)
        elif action == "garbage":
            handler.reply(200, b"<html>not json")
        elif action == "no choices":
            handler.reply(200, {"id": "1", "choices": []})
        elif action == "timeout":
            time.sleep(self._slow_s)
        elif action == "cut":
            handler.connection.close()
        else:
            with self._lock:
                self.billed[key] += 1
            raw = isinstance(action, dict) and "body" in action
            handler.reply(200, action["body"] if raw else completion(action, body))


def completion(action: Any, body: dict[str, Any]) -> dict[str, Any]:
    """A reply: `action` is its text, or {"text", "finish_reason", "logprobs": {token: logprob}}."""
    given = action if isinstance(action, dict) else {"text": action}
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": given.get("finish_reason", "stop"),
        "message": {"role": "assistant", "content": given["text"]},
    }
    if "logprobs" in given:
        top = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in given["logprobs"].items()]
        choice["logprobs"] = {"content": [{"token": given["text"], "logprob": 0.0, "bytes": None, "top_logprobs": top}]}
    return {
        "id": "stub",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{**choice, "index": index} for index in range(body.get("n") or 1)],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }
