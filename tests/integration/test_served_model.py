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

SERVED = ("name=served", BENCHMARKS)


class Server:
    """The server of `vllm serve` with the real model, on one port from start to start."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.address = f"http://127.0.0.1:{port}"
        self.url = f"{self.address}/v1"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        # What `vllm serve` starts, whose program looks for a distribution of another name than the CPU's.
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL)]
        command += ["--served-model-name", NAME]
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
    """The records of all completions of a run, by id."""
    files = (bnf.home / "state" / "runs" / run / "artifacts").glob("generate-*/completions.jsonl")
    return {record["id"]: record for file in files for record in lines(file)}


def test_a_run_goes_on_when_the_server_was_killed(server, bnf):
    artifacts = bnf.home / "state" / "artifacts" / "generate"

    def kept():
        return sum(len(path.read_text().splitlines()) for path in artifacts.rglob("completions.jsonl"))

    process = bnf.process(*words(server, *SERVED))
    bnf.wait(process, lambda: kept() >= 5)
    server.kill()
    time.sleep(1)  # what it had answered is written down
    before = kept()
    assert 5 <= before < 56
    server.start()
    _, err = process.communicate(timeout=500)
    # The stage waits for the server for two minutes and a half; on a busy machine that takes longer to start.
    if process.returncode:
        assert process.returncode == 1 and "must take connections, got none in" in err, err
        bnf(*words(server, *SERVED))
    assert server.answered() == 56 - before, "what was answered before the kill is not asked again"


def test_its_texts_are_those_of_the_engine_that_loads_the_model(server, bnf):
    """The served ones are those of the run above, where it ran."""
    served = completions(bnf, bnf.json(*words(server, *SERVED))["run"])
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
    said = ("completion", "finish_reason", "num_completion_tokens")
    differ = [one for one in served if any(served[one][key] != loaded[one][key] for key in said)]
    # None here; elsewhere bfloat16 may round otherwise in batches of another size, and turn a near tie.
    assert len(differ) <= 3, [(served[one]["completion"], loaded[one]["completion"]) for one in differ]


def test_a_prompt_that_the_server_cannot_read_is_counted_and_a_limit_that_it_cannot_is_refused(server, bnf):
    long = bnf.home / "long.jsonl"
    rows = [{"question": "What is 1 + 1?", "answer": "#### 2"}, {"question": "Add. " + "1 " * 3000, "answer": "#### 3000"}]
    long.write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmark = f"evaluation.benchmarks={{gsm8k: {{source: {long}}}}}"
    shown = bnf.json(*words(server, "name=long", benchmark))
    assert [one["finish_reason"] for one in completions(bnf, shown["run"]).values()][1] == "prompt_too_long"
    assert [one["num_prompt_tokens"] for one in completions(bnf, shown["run"]).values()][1] > LENGTH
    assert "1 of 2 prompts leave no room" in bnf.err
    bnf(*words(server, "name=limit", benchmark, f"evaluation.max_new_tokens={LENGTH + 1}"), code=2)
    assert f"evaluation.base_url must serve texts that are long enough, got {LENGTH} tokens" in bnf.err


def test_it_judges_and_every_verdict_is_on_record(server, bnf):
    baseline = bnf.home / "baseline.jsonl"
    rows = [{"id": f"sample-{n:02d}", "completion": "I don't know what to say to that."} for n in range(4)]
    baseline.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one = f"engine: openai, base_url: '{server.url}', model: {NAME}, max_judgment_tokens: 200"
    judge = f"judge={{{one}, verdict: logprobs, demonstration: true, max_new_tokens: 24, "
    judge += f"benchmarks: {{arena_hard: {{source: sample, limit: 3, baseline: {baseline}}}}}, second: {{{one}, verdict: structured}}}}"
    before = server.answered()
    shown = bnf.json(*words(server, "name=judged", "evaluation.benchmarks={}", judge))
    asked = server.answered() - before
    calls = [call for file in (bnf.home / "state" / "judgments").glob("*.jsonl") for call in lines(file)]
    games = [game for file in (bnf.home / "state" / "artifacts" / "judge").rglob("games.jsonl") for game in lines(file)]
    # Three answers, and each of two judges reads each in both orders. What the server said is on record, word by word.
    assert asked == 3 + 12 and len(calls) == len(games) == 12
    assert {call["key"]: call["reply"] for call in calls} == {game["key"]: game["reply"] for game in games}
    letters = [game for game in games if game["letter_mass"] is not None]
    written = [game for game in games if game["letter_mass"] is None]
    assert len(letters) == len(written) == 6
    assert all(game["verdict"] in ("A>B", "B>A") and 0 < game["letter_mass"] <= 1 for game in letters)
    for game in written:
        # An object that was cut off holds no verdict; one that is whole has a label, to which the server held the model.
        label = json.loads(game["reply"])["verdict"] if game["finish_reason"] == "stop" else None
        assert (game["verdict"], game["null_reason"]) == (
            (label.strip("[]"), None) if label else (None, "no verdict in the reply")
        )
    assert any(game["verdict"] for game in written)
    judges = shown["summary"]["judges"]
    assert judges["arena_hard"]["models"]["base"]["n_games"] == 6
    assert judges["arena_hard/second"]["agreement"]["base"]["n_games"] == sum(game["verdict"] is not None for game in written)
    # Raising a limit asks for an answer and four games more, and once again for the games without a verdict.
    before = server.answered()
    bnf.json(*words(server, "name=judged", "evaluation.benchmarks={}", judge.replace("limit: 3", "limit: 4")))
    assert server.answered() - before == 1 + 4 + sum(game["verdict"] is None for game in games)
