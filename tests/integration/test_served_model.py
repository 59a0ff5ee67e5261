"""vLLM's own server on this machine as the endpoint that answers benchmarks and that judges, beside the engine that loads the model."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from evaluation.engines import environment
from flows.service.server import free_port
from tests.e2e.conftest import MODEL, Bnf

pytestmark = [
    pytest.mark.integration,
    pytest.mark.vllm,
    pytest.mark.skipif(not MODEL.is_dir(), reason="the demonstration model is not there; make env fetches it"),
]
NAME, LENGTH, LIMIT = "smollm2", 1024, 32
START_TIMEOUT_S = 300
BENCHMARKS = "evaluation.benchmarks={number_comparison: {limit: 48}, gsm8k: {source: sample, limit: 8}}"


class Server:
    """`vllm serve` with the real model, on one port from start to start."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.address = f"http://127.0.0.1:{port}"
        self.url = f"{self.address}/v1"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [str(Path(sys.executable).parent / "vllm"), "serve", str(MODEL), "--served-model-name", NAME]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--generation-config", "vllm"]
        # As the engine here loads it.
        command += ["--max-model-len", str(LENGTH), "--dtype", "bfloat16", "--enforce-eager", "--block-size", "32"]
        log = self.folder / "server.log"
        with log.open("a") as output:
            variables = {**os.environ, **environment("vllm")}
            self._process = subprocess.Popen(command, env=variables, stdout=output, stderr=output, start_new_session=True)
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"{self.address}/health", timeout=5).close()
                return
            time.sleep(0.5)
        self.kill()
        pytest.fail(f"the server didn't come up\n{log.read_text()[-5000:]}", pytrace=False)

    def kill(self) -> None:
        """At once, with the process in which the model is."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=60)
            self._process = None

    def answered(self) -> int:
        """How many completions it has given since it started, by its own count."""
        with urllib.request.urlopen(f"{self.address}/metrics", timeout=30) as page:
            text = page.read().decode()
        return round(sum(map(float, re.findall(r"^vllm:request_success_total\{[^}]*\} (\S+)", text, re.M))))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("vllm.version")
    with free_port() as port:
        server = Server(tmp_path_factory.mktemp("served"), port)
        server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def bnf(server, tmp_path_factory):
    bnf = Bnf(tmp_path_factory.mktemp("client"), OPENAI_API_KEY="nobody's")
    with bnf.served():
        yield bnf


def words(server, *more):
    engine = ["evaluation.engine=openai", f"evaluation.base_url={server.url}", f"evaluation.model={NAME}"]
    return ("evaluate", str(MODEL), *engine, f"evaluation.max_new_tokens={LIMIT}", *more)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def completions(bnf, run):
    """The records of each benchmark's completions in a run, by id."""
    found = {}
    for folder in (bnf.home / "state" / "runs" / run / "artifacts" / "generate").rglob("completions.jsonl"):
        found |= {record["id"]: record for record in lines(folder)}
    return found


def test_a_run_goes_on_when_the_server_was_killed_and_its_texts_are_the_engines(server, bnf):
    asked = words(server, "name=served", BENCHMARKS)
    artifacts = bnf.home / "state" / "artifacts" / "generate"

    def kept():
        return sum(len(path.read_text().splitlines()) for path in artifacts.rglob("completions.jsonl"))

    process = bnf.process(*asked)
    bnf.wait(process, lambda: kept() >= 5)
    server.kill()
    killed = time.monotonic()
    _, err = process.communicate(timeout=500)
    assert process.returncode == 1, err
    print("ended after", time.monotonic() - killed, "s", kept(), "kept", err[-1500:])
    before = kept()
    assert 5 <= before < 56
    server.start()
    shown = bnf.json(*asked)
    assert server.answered() == 56 - before
    served = completions(bnf, shown["run"])
    here = bnf.json(
        *("evaluate", str(MODEL), "name=here", BENCHMARKS, "evaluation.engine=vllm"),
        *(f"evaluation.max_new_tokens={LIMIT}", f"evaluation.max_model_len={LENGTH}"),
    )
    loaded = completions(bnf, here["run"])
    assert served.keys() == loaded.keys() and len(served) == 56
    # The server's template writes the prompts that are written here, to the token.
    assert {one: served[one]["num_prompt_tokens"] for one in served} == {
        one: loaded[one]["num_prompt_tokens"] for one in loaded
    }
    same = [one for one in served if served[one]["completion"] == loaded[one]["completion"]]
    print("same", len(same), [(served[o]["completion"], loaded[o]["completion"]) for o in served if o not in same])
    for one in same:
        assert served[one]["finish_reason"] == loaded[one]["finish_reason"]
        assert served[one]["num_completion_tokens"] == loaded[one]["num_completion_tokens"]
    assert len(same) >= 50


def test_a_prompt_that_the_server_cannot_read_is_counted_and_a_limit_that_it_cannot_is_refused(server, bnf):
    long = bnf.home / "long.jsonl"
    rows = [{"question": "What is 1 + 1?", "answer": "#### 2"}, {"question": "Add. " + "1 " * 3000, "answer": "#### 3000"}]
    long.write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmark = f"evaluation.benchmarks={{gsm8k: {{source: {long}}}}}"
    shown = bnf.json(*words(server, "name=long", benchmark))
    assert [one["finish_reason"] for one in completions(bnf, shown["run"]).values()][1] == "prompt_too_long"
    assert "1 of 2 prompts leave no room" in bnf.err
    bnf(*words(server, "name=limit", benchmark, f"evaluation.max_new_tokens={LENGTH + 1}"), code=2)
    assert f"evaluation.base_url must serve texts that are long enough, got {LENGTH} tokens" in bnf.err


def test_it_judges_and_every_verdict_is_on_record(server, bnf):
    baseline = bnf.home / "baseline.jsonl"
    rows = [{"id": f"sample-{n:02d}", "completion": "I don't know what to say to that."} for n in range(3)]
    baseline.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one = f"engine: openai, base_url: '{server.url}', model: {NAME}, max_judgment_tokens: 200"
    judge = f"judge={{{one}, verdict: logprobs, demonstration: true, max_new_tokens: 24, "
    judge += f"benchmarks: {{arena_hard: {{source: sample, limit: 3, baseline: {baseline}}}}}, second: {{{one}, verdict: structured}}}}"
    before = server.answered()
    shown = bnf.json(*words(server, "name=judged", "evaluation.benchmarks={}", judge))
    asked = server.answered() - before
    files = sorted((bnf.home / "state" / "judgments").glob("*.jsonl"))
    calls = [call for file in files for call in lines(file)]
    print(asked, [f.name for f in files], json.dumps(shown["summary"]["judges"], indent=1)[:6000])
    games = [game for path in (bnf.home / "state" / "artifacts" / "judge").rglob("games.jsonl") for game in lines(path)]
    print(json.dumps(games, indent=1)[:9000])
    assert len(games) == 12
    assert len(calls) + 3 == asked
