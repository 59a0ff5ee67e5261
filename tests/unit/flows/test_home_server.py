"""The Prefect server of a home: another home's is never taken for it, and it ends with its users and its keeper."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.errors import RecipeError
from flows.runs.home import kept_server, own_server, set_prefect_environment
from flows.service import server


@pytest.fixture
def delay_s():
    return 0


@pytest.fixture
def somebodys(tmp_path, delay_s):
    """A Prefect server that keeps its state elsewhere."""

    class Settings(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(delay_s)
            body = json.dumps({"home": str(tmp_path / "theirs" / "prefect")}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Settings) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_a_server_is_a_homes_own_only_if_it_keeps_its_state_there(somebodys, tmp_path):
    assert server._serves(somebodys, tmp_path / "theirs" / "prefect")
    assert not server._serves(somebodys, tmp_path / "ours" / "prefect")
    assert not server._serves("http://127.0.0.1:9", tmp_path)


def test_prefects_own_home_is_this_homes_whatever_is_set(tmp_path, monkeypatch):
    """A server is told to be this home's by it: with another's it would never be taken as healthy."""
    monkeypatch.setattr(os, "environ", {"PREFECT_HOME": "/elsewhere", "PREFECT_SERVER_ANALYTICS_ENABLED": "true"})
    set_prefect_environment(tmp_path)
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "prefect") and os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "true"


def test_a_home_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match=r"BNF_HOME must be a folder that can be written, got .*/file"):
        set_prefect_environment(tmp_path / "file")


def test_two_homes_that_start_at_once_take_different_ports(tmp_path, monkeypatch):
    monkeypatch.setattr(server.tempfile, "gettempdir", lambda: str(tmp_path))
    with server.free_port() as first, server.free_port() as second:
        assert first != second


def test_a_port_is_none_that_a_connection_may_be_given_before_the_server_binds_it(tmp_path, monkeypatch):
    monkeypatch.setattr(server.tempfile, "gettempdir", lambda: str(tmp_path))
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    with server.free_port() as first, server.free_port() as second:
        assert 1024 < first < second < lowest


def test_ports_that_are_taken_are_left_out_until_none_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(server.tempfile, "gettempdir", lambda: str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(server, "PORTS", range(port, port + 1))
        with (
            pytest.raises(server.ServerError, match=f"one of the ports {port} to {port} must be free, got none"),
            server.free_port(),
        ):
            raise AssertionError("it is taken")


@pytest.mark.parametrize("api", ["http://127.0.0.1:9/api", "127.0.0.1:4200/api"])
def test_an_address_where_no_server_answers_is_named(api, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "RESTART_TIMEOUT_S", 0.1)
    monkeypatch.setenv("PREFECT_API_URL", api)
    with (
        pytest.raises(
            RecipeError, match=rf"PREFECT_API_URL must be the address .* got {api} \(.*; start that server, or unset"
        ),
        server.prefect_server(tmp_path),
    ):
        raise AssertionError("it is not there")


def test_a_server_that_answers_anything_is_used(somebodys, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", f"{somebodys}/api")
    with server.prefect_server(tmp_path) as url:
        assert url == somebodys


@pytest.mark.parametrize("delay_s", [0.3])
def test_a_server_that_is_busy_is_used(somebodys, tmp_path, monkeypatch):
    """It has more time to answer than one that is gone has to come back."""
    monkeypatch.setattr(server, "RESTART_TIMEOUT_S", 0.1)
    monkeypatch.setenv("PREFECT_API_URL", f"{somebodys}/api")
    with server.prefect_server(tmp_path) as url:
        assert url == somebodys
    assert server._serves(somebodys, tmp_path / "theirs" / "prefect")


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"[]", b"{}"])
def test_an_address_that_a_power_cut_left_unreadable_is_as_good_as_none(tmp_path, monkeypatch, content):
    """Else every command of the home would fail, and no command would mend it."""
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "server.json").write_bytes(content)
    assert kept_server(tmp_path) is None and not own_server(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    begun = []

    class Keeper:
        pid = 1

        def __init__(self, command, **options):
            begun.append(command)

        def poll(self):
            return None

    monkeypatch.setattr(server, "_serves", lambda url, folder: bool(begun))
    monkeypatch.setattr(server.subprocess, "Popen", Keeper)
    monkeypatch.setattr(server.tempfile, "gettempdir", lambda: str(tmp_path))
    try:
        url = server._ensure(tmp_path, lambda: None)
        assert len(begun) == 1 and kept_server(tmp_path) == url and own_server(tmp_path)
    finally:
        os.environ.pop("PREFECT_API_URL", None)


@pytest.fixture
def keeper(tmp_path):
    """A keeper whose server is a process that sleeps; `servers` are the numbers of its servers."""
    script = f"""
        from pathlib import Path
        from flows.service import server
        server._command = lambda port: ["sleep", "1000"]
        server._LIVED_S = 0.2
        server.set_prefect_environment = lambda home: None
        import os
        os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "ERROR"
        server.keep(Path({str(tmp_path)!r}), 1)
    """
    (tmp_path / "prefect").mkdir()
    with (tmp_path / "prefect" / "users.lock").open("w") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
        yield process
        process.kill()
        process.wait()


def servers(keeper):
    """The server that the keeper has, once it has become one."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        found = Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text().split()
        if found and Path(f"/proc/{found[0]}/comm").read_text().strip() == "sleep":
            return int(found[0])
        time.sleep(0.02)
    raise AssertionError("the keeper has no server")


def ends(pid):
    deadline_s = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_a_server_ends_with_its_keeper_however_that_one_ended(keeper):
    server = servers(keeper)
    keeper.kill()
    keeper.wait()
    ends(server)


def test_a_server_that_is_killed_is_started_again_unless_it_dies_at_once(keeper):
    """The kernel's out-of-memory killer takes it where a training needs all memory."""
    first = servers(keeper)
    time.sleep(0.5)
    os.kill(first, signal.SIGKILL)
    ends(first)
    second = servers(keeper)
    assert second != first
    os.kill(second, signal.SIGKILL)
    assert keeper.wait(timeout=30) == 1


@pytest.mark.integration
def test_logs_that_a_server_never_took_do_not_hold_up_the_end_of_the_program():
    """Prefect's workers try for a minute to send each to a server that is gone, and Python waits for them at its end."""
    script = """
        import asyncio
        import os
        os.environ["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
        from prefect.logging.handlers import APILogWorker
        from flows.service import server

        async def hang(self, items):
            print("sent", flush=True)
            await asyncio.sleep(1000)

        APILogWorker._handle_batch = hang
        APILogWorker.instance().send({"message": "hello"})
        server.DRAIN_TIMEOUT_S = 0.5
        server._drain()
        print("drained", flush=True)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.split() == ["sent", "drained"], done.stderr
