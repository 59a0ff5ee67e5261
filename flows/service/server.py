"""The Prefect server of a home: the first command that needs it starts it, others share it, and it ends with the last.

Every command that uses it holds a shared flock on `prefect/users.lock`. A keeper process starts the server and then waits for the
lock exclusively: the kernel grants it when the last user is gone, however it ended, and the keeper stops the server.
Run as `python -m flows.service.server HOME PORT` it is the keeper.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import functools
import http.client
import json
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from bnf.process import die_with_parent, module_command, module_environment
from flows.errors import RecipeError
from flows.runs.home import kept_server, set_prefect_environment
from tasks.store import write_json

START_TIMEOUT_S = 180
STOP_GRACE_S = 5
DRAIN_TIMEOUT_S = 10
# A server that dies sooner than this dies for a reason that stays.
_LIVED_S = 60
# How long a server is given to come back, and how long one that takes the connection is given to answer: a busy one takes its time.
RESTART_TIMEOUT_S = 5
ANSWER_TIMEOUT_S = 30
# Prefect's own port and the next ones: systems give none of these to a connection that asks for any port.
PORTS = range(4200, 4300)


class ServerError(RuntimeError):
    """The Prefect server could not be started or reached."""


@contextlib.contextmanager
def prefect_server(home: Path, meanwhile: Callable[[], None] = lambda: None) -> Iterator[str]:
    """The address of the UI of a running server for this home. Inside the block PREFECT_API_URL names the server; where it is set
    already, that server is used and none is started.

    `meanwhile` is called while the server boots: importing Prefect takes about as long. When the block ends, logs and events that
    are still to be sent are sent first.

    Raises:
        ServerError: it did not become healthy; with the end of its log.
        RecipeError: nothing answers where PREFECT_API_URL points.
    """
    # Prefect's handler would write to the terminal once a minute that a server which is gone takes no logs. A run says it once itself.
    logging.raiseExceptions = False
    if os.environ.get("PREFECT_API_URL"):
        _require_answer(os.environ["PREFECT_API_URL"])
        meanwhile()
        try:
            yield os.environ["PREFECT_API_URL"].removesuffix("/api")
        finally:
            _drain()
        return
    folder = home / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "users.lock").open("w") as users:
        # While a keeper stops a server it holds the lock alone; then this waits, and starts another.
        fcntl.flock(users, fcntl.LOCK_SH)
        try:
            url = _ensure(home, meanwhile)
            try:
                yield url
            finally:
                _drain()
        finally:
            os.environ.pop("PREFECT_API_URL", None)


def _require_answer(api: str) -> None:
    """Refuse an address where nothing answers, though a server was given the time to restart, or a busy one to answer."""
    deadline_s = time.monotonic() + RESTART_TIMEOUT_S
    while True:
        try:
            urllib.request.urlopen(f"{api.rstrip('/')}/health", timeout=ANSWER_TIMEOUT_S).close()
            return
        except urllib.error.HTTPError:
            return  # It answers. What it asks for, such as a password, Prefect's client says.
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLError):
                return  # Prefect's client may have been told to trust it.
            if time.monotonic() < deadline_s and isinstance(error, OSError):
                time.sleep(0.5)
                continue
            raise RecipeError(
                "PREFECT_API_URL must be the address of a Prefect server that answers, such as http://HOST:4200/api, "
                f"got {api} ({reason}); start that server, or unset the variable for the home's own"
            ) from error


def _drain() -> None:
    """Send what Prefect's background workers still hold: at the interpreter's exit the server may be gone.

    What could not be sent in this time is left out. Python would wait for the workers when it ends, and they try for a minute to send
    each log and each event to a server that is gone: so they count as done.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    kinds = (APILogWorker, EventsWorker)
    workers = [worker for kind in kinds for worker in kind._instances.values()]  # type: ignore[misc]
    for kind in kinds:
        kind.drain_all(timeout=DRAIN_TIMEOUT_S)
    for worker in workers:
        if worker._loop is not None and worker._done_event is not None:
            worker._loop.call_soon_threadsafe(worker._done_event.set)


def _ensure(home: Path, meanwhile: Callable[[], None]) -> str:
    """The address of this home's server, after starting it where none answers; one that another command starts is waited for."""
    folder = home / "prefect"
    with (folder / "start.lock").open("w") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        known = kept_server(home)
        if known is not None and _serves(known, folder):
            os.environ["PREFECT_API_URL"] = f"{known}/api"
            meanwhile()
            return known
        with free_port() as port:
            url, log = f"http://127.0.0.1:{port}", folder / "server.log"
            with log.open("ab") as output:
                keeper = subprocess.Popen(
                    module_command("flows.service.server", str(home), str(port)),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    env=module_environment(),
                )
            # Prefect reads its settings when it is imported.
            os.environ["PREFECT_API_URL"] = f"{url}/api"
            meanwhile()
            deadline_s = time.monotonic() + START_TIMEOUT_S
            while not _serves(url, folder):
                if keeper.poll() is not None or time.monotonic() > deadline_s:
                    end = log.read_text(errors="replace")[-1500:]
                    raise ServerError(f"the Prefect server must become healthy at {url}, got none; the end of {log}:\n{end}")
                time.sleep(0.1)
        write_json(folder / "server.json", {"url": url, "keeper": keeper.pid})
        return url


def _serves(url: str, folder: Path) -> bool:
    """Whether a server answers there that keeps its state in this folder: another home's may have taken the port."""
    try:
        with urllib.request.urlopen(_asking(f"{url}/api/admin/settings"), timeout=ANSWER_TIMEOUT_S) as answer:
            return Path(json.load(answer)["home"]) == folder
    except (urllib.error.URLError, OSError, ValueError, KeyError):
        return False


def _asking(url: str) -> urllib.request.Request:
    """A request with the password of Prefect's clients, where the person has set one."""
    said = os.environ.get("PREFECT_API_AUTH_STRING")
    headers = {"Authorization": f"Basic {base64.b64encode(said.encode()).decode()}"} if said else {}
    return urllib.request.Request(url, headers=headers)


@contextlib.contextmanager
def free_port() -> Iterator[int]:
    """A free port of `PORTS`, kept from other homes until the server has bound it, which is seconds later.

    Raises:
        ServerError: none is free.
    """
    for port in PORTS:
        with Path(tempfile.gettempdir(), f"bnf-port-{port}-{os.getuid()}.lock").open("w") as claim:
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # Another home's server is starting there.
            if _is_free(port):
                yield port
                return
    raise ServerError(f"one of the ports {PORTS[0]} to {PORTS[-1]} must be free, got none; close some programs")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # A port that an earlier server has just left is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def own_pages_alone(port: int) -> dict[str, str]:
    """Prefect's settings by which no page of another site reads the API, or changes anything by it, through the person's browser.

    By default Prefect lets every site do so, and a server gives out the keys in its blocks and lets deployments start commands.
    """
    return {
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port}",
        # What a page may send without asking, Prefect takes for JSON. Its own clients and its UI send a token with every change.
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    }


def keep(home: Path, port: int) -> None:
    """Run the server until nobody uses it. One that dies, as by the kernel's out-of-memory killer, is started again at the same address,
    unless it dies at once; and it dies with its keeper.
    """
    set_prefect_environment(home)
    for name, value in own_pages_alone(port).items():
        os.environ.setdefault(name, value)
    # What a server can't do is in its log, though the terminal of a run doesn't show Prefect's lines.
    if os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] == "CRITICAL":
        os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "ERROR"
    with (home / "prefect" / "users.lock").open("w") as users:
        server, began_s = _start(port), time.monotonic()

        def start_again(*_: object) -> None:
            nonlocal server, began_s
            if server.poll() is None:
                return
            if time.monotonic() - began_s < _LIVED_S:
                sys.exit(1)
            server, began_s = _start(port), time.monotonic()

        signal.signal(signal.SIGCHLD, start_again)
        fcntl.flock(users, fcntl.LOCK_EX)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        (home / "prefect" / "server.json").unlink(missing_ok=True)
        server.terminate()
        try:
            server.wait(timeout=STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _start(port: int) -> subprocess.Popen[bytes]:
    die_too = functools.partial(die_with_parent, os.getpid())
    # The keeper has one thread: nothing can be locked where it forks.
    return subprocess.Popen(_command(port), stdin=subprocess.DEVNULL, preexec_fn=die_too)


def _command(port: int) -> list[str]:
    return [str(Path(sys.executable).parent / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]


if __name__ == "__main__":
    keep(Path(sys.argv[1]), int(sys.argv[2]))
