"""The Prefect server of a home: another home's is never taken for it."""

import json
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.errors import RecipeError
from flows.runs.home import set_prefect_environment
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
