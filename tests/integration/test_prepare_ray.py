"""Preparation on Ray: the bytes are those of one process, also where a worker is killed, and what one refuses is heard."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import psutil
import pytest

from bnf.data.groups import read_groups
from bnf.failures import Cause, cause_of
from bnf.parallel.ray_workers import START_SECONDS
from data.preparing.config import PrepareConfig
from data.preparing.prepare import prepare_sources
from data.reading.records import DataSource
from tasks.keys import ROOT
from tests.integration.test_prepare_pool import _digest, _running, _small_chunks  # noqa: F401
from tests.unit.data.helpers import LENIENT, MODEL, needs_model, write_rows
from tests.unit.evaluation.fake_engine import no_progress

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.integration, needs_model]


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.update(RAY_gcs_server_port_wait_time_s=START_SECONDS)
    ray.init("local", num_cpus=4, include_dashboard=False, object_store_memory=1 << 28)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr("data.preparing.write.PART_PROMPTS", 3)
    monkeypatch.setattr("data.preparing.write._PARTS_WORTH_PROCESSES", 2)


def prepare(folder, sources, config, *, num_proc, on_ray=True, progress=no_progress):
    prepare_sources(sources, MODEL, folder, config, num_proc=num_proc, ray="local" if on_ray else None, progress=progress)
    return _digest(folder)


def test_the_bytes_are_those_of_one_process(tmp_path):
    for name, first in (("a", 0), ("b", 20)):
        rows = [
            {
                "prompt": f"p{n % 17}",
                "chosen": f"yes {n}",
                "rejected": f"no {n}" * (n % 5 > 0),
                "id": n % 17 + n % 7 // 6,
                "note": "not read",
            }
            for n in range(first, first + 40)
        ]
        write_rows(tmp_path / "in" / f"{name}.jsonl", rows)
    rated = [{"prompt": f"q{n % 30}", "completions": [f"{n}", "no", "yes"], "ratings": [n % 3, 1, 2]} for n in range(60)]
    sources = [
        DataSource("pairs", str(tmp_path / "in"), weight=1),
        DataSource("ratings", str(write_rows(tmp_path / "r.jsonl", rated)), weight=1, limit=28),
    ]
    config = PrepareConfig(
        mask_fraction=0.5, dev_fraction=0.2, flip_fraction=0.1, contradict_fraction=0.1, pairing="all", max_dropped_share=1
    )
    one = prepare(tmp_path / "one", sources, config, num_proc=1, on_ray=False)
    assert prepare(tmp_path / "pool", sources, config, num_proc=2, on_ray=False) == one
    for num_proc in (1, 2, 4):
        assert prepare(tmp_path / f"ray {num_proc}", sources, config, num_proc=num_proc) == one
    assert len(read_groups(tmp_path / "one")) > 10 and len(read_groups(tmp_path / "one" / "dev")) > 2
    assert {file.name for file in (tmp_path / "pool").iterdir()} == {
        "groups.safetensors", "groups.jsonl", "ledger.json", "ledger.jsonl", "dev",
    }  # fmt: skip


def test_a_streamed_set_is_rendered_there_too(tmp_path, monkeypatch):
    rows = [{"prompt": f"p{n}", "chosen": "yes", "rejected": "no"} for n in range(60)]

    def load(path, config, *, split, revision, streaming):
        assert (path, streaming) == ("somebody/pairs", True)
        return iter(rows)

    monkeypatch.setattr("datasets.load_dataset", load)
    sources = [DataSource("pairs", "somebody/pairs", streaming=True)]
    one = prepare(tmp_path / "one", sources, LENIENT, num_proc=1, on_ray=False)
    assert prepare(tmp_path / "ray", sources, LENIENT, num_proc=2) == one


def test_a_killed_worker_costs_its_chunk_alone(tmp_path):
    rows = [{"prompt": f"p{n % 70}", "chosen": f"yes {n}", "rejected": "no"} for n in range(400)]
    sources = [DataSource("pairs", str(write_rows(tmp_path / "p.jsonl", rows)))]
    killed, seen = [], []

    def kill_one(done, total, note):
        seen.append(note)
        own = psutil.Process().children(recursive=True) if len(seen) > 30 and not killed else []
        if at_work := [child for child in own if child.is_running() and child.cmdline()[:1] == ["ray::_do"]]:
            at_work[0].kill()
            killed.append(at_work[0].pid)

    one = prepare(tmp_path / "one", sources, LENIENT, num_proc=1, on_ray=False)
    assert prepare(tmp_path / "ray", sources, LENIENT, num_proc=2, progress=kill_one) == one
    assert killed and not _running(killed[0])


def test_what_a_worker_refuses_reaches_the_caller(tmp_path):
    rows = [{"prompt": "p" * n, "chosen": "yes " * n, "rejected": "no"} for n in range(1, 60)]
    config = replace(LENIENT, max_length=80, truncation="raise")
    sources = [DataSource("pairs", str(write_rows(tmp_path / "p.jsonl", rows)))]
    with pytest.raises(ValueError, match=r"prepare.max_length must hold the row, got \d+ tokens against 80 at line \d+; raise"):
        prepare(tmp_path / "out", sources, config, num_proc=2)
    assert list((tmp_path / "out").iterdir()) == []


def timed(_):
    def work(_):
        begun = time.monotonic()
        time.sleep(0.3)
        return begun, time.monotonic()

    return work


def test_no_more_processes_are_at_work_than_were_asked_for():
    from data.preparing.ray_pool import on_ray

    times = [*on_ray("local", timed, None, range(12), 2)]
    assert max(sum(begun <= one < ended for begun, ended in times) for one, _ in times) == 2


def ends_at_once(_):
    def end(_):
        os._exit(1)

    return end


def test_rows_that_end_every_worker_are_refused():
    from data.preparing.ray_pool import on_ray

    with pytest.raises(
        RuntimeError, match="a worker on Ray must live until its rows are rendered, got 4 that ended with the same"
    ):
        list(on_ray("local", ends_at_once, None, [1], 1))


def cannot_fetch(_):
    """What makes, on a node, the renderer."""
    from tasks.remote import RemoteError

    raise RemoteError("BNF_STORE must be reachable") from ConnectionResetError()


def test_what_fails_on_a_node_is_known_for_what_it_is():
    from data.preparing.ray_pool import on_ray

    with pytest.raises(OSError, match="BNF_STORE must be reachable") as failed:
        list(on_ray("local", cannot_fetch, None, [1], 1))
    assert cause_of(failed.value) is Cause.PASSING


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_interrupt_leaves_no_process_and_no_file_behind(tmp_path):
    rows = write_rows(tmp_path / "p.jsonl", [{"prompt": f"p{n}", "chosen": "a", "rejected": "b"} for n in range(30000)])
    program = f"""
        from pathlib import Path
        from data.preparing.config import PrepareConfig
        from data.reading.records import DataSource
        from data.preparing.prepare import prepare_sources

        def say(done, total, note):
            if note == "bytes, 5120 rows":
                print("at work", flush=True)

        if __name__ == "__main__":
            prepare_sources([DataSource("pairs", {str(rows)!r})], Path({str(MODEL)!r}), Path({str(tmp_path / "out")!r}),
                            PrepareConfig(), num_proc=1, ray="local", progress=say)
    """
    script = tmp_path / "job.py"
    script.write_text(textwrap.dedent(program))
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        # A process in the background of a shell ignores it, and so do those that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert parent.stdout is not None and "at work" in parent.stdout.readline(), "the parent must be caught at work"
    children = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
    parent.send_signal(signal.SIGINT)
    assert parent.wait(60) != 0
    end = time.monotonic() + 60
    while any(map(_running, children)) and time.monotonic() < end:
        time.sleep(0.1)
    assert len(children) > 2 and not any(map(_running, children))
    assert list((tmp_path / "out").iterdir()) == []
