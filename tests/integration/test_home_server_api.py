"""A home's Prefect server: pages of other sites can't use its API, Prefect's own clients can, and a password of one's own is obeyed."""

import json
import os
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request

import pytest

from bnf.process import ROOT

# In a process of its own: Prefect reads its settings when it is imported.
CLIENT = textwrap.dedent(
    """
    import os, sys
    from pathlib import Path
    from flows.runs.home import set_prefect_environment
    from flows.service.server import prefect_server

    home = Path(sys.argv[1])
    set_prefect_environment(home)
    with prefect_server(home) as url:
        from prefect.artifacts import create_markdown_artifact, Artifact
        create_markdown_artifact("words", key="one")
        assert Artifact.get("one").data == "words"
        print("URL", url, flush=True)
        sys.stdin.readline()
    """
)


def asked(url, body=None, **headers):
    """(status, headers) of a request."""
    request = urllib.request.Request(url, body, {name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


@pytest.fixture
def serving(tmp_path):
    """The address of a home's server that a client of Prefect's has just written to and read from."""
    started = []

    def start(**variables):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(tmp_path / "home")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**kept, **variables},
        )
        started.append(process)
        for line in process.stdout:
            if line.startswith("URL "):
                return line.split()[1]
        raise AssertionError(f"the client ended with {process.wait()}")

    yield start
    for process in started:
        process.communicate("\n", timeout=120)


def test_a_page_of_another_site_reads_and_changes_nothing(serving):
    url = serving()
    evil, api = "http://evil.example", f"{url}/api"
    # What a browser asks before it lets a page read blocks with their secrets, or send JSON.
    status, headers, _ = asked(f"{api}/admin/version", Origin=evil)
    assert status == 200 and headers.get("Access-Control-Allow-Origin") not in ("*", evil)
    preflight = urllib.request.Request(
        f"{api}/block_documents/filter",
        headers={"Origin": evil, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"},
        method="OPTIONS",
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(preflight, timeout=60)
    assert refused.value.code == 400 and refused.value.headers.get("Access-Control-Allow-Origin") not in ("*", evil)
    # What it sends without asking: a body that Prefect takes for JSON.
    body = json.dumps({"name": "evil"}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json"):
        status, _, said = asked(f"{api}/flows/", body, Origin=evil, Content_Type=kind)
        assert status == 403 and b"CSRF" in said
    # The UI, which the server brings, is the same site.
    assert asked(f"{url}/")[0] == 200


def test_a_password_of_ones_own_is_asked_for(serving):
    url = serving(PREFECT_SERVER_API_AUTH_STRING="me:hunter2", PREFECT_API_AUTH_STRING="me:hunter2")
    assert asked(f"{url}/api/admin/settings")[0] == 401 and asked(f"{url}/api/health")[0] == 200
