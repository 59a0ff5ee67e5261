"""Preparation by several processes: the bytes are the same, what one refuses is heard, and none outlives its parent."""

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import psutil
import pytest

from data.preparing.config import PrepareConfig
from data.preparing.prepare import prepare_sources
from data.reading.records import DataSource
from tasks.keys import ROOT
from tests.unit.data.helpers import LENIENT, MODEL, needs_model, prepare, write_rows

pytestmark = [pytest.mark.integration, needs_model]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr("data.preparing.pool.CHUNK_ROWS", 4)
    monkeypatch.setattr("data.preparing.pool._CHUNKS_WORTH_A_POOL", 2)
    monkeypatch.setattr("data.preparing.write.PART_PROMPTS", 2)
    monkeypatch.setattr("data.preparing.write._PARTS_WORTH_PROCESSES", 2)


def _digest(folder):
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.*")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def test_bytes_do_not_depend_on_processes_place_or_how_much_is_read_at_once(tmp_path, monkeypatch):
    rows = [{"prompt": f"p{n % 7}", "chosen": f"yes {n}", "rejected": f"no {n}" * (n % 3)} for n in range(30)]
    config = PrepareConfig(mask_fraction=0.3, dev_fraction=0.2, flip_fraction=0.1, pairing="all", max_dropped_share=1)
    # The limit is on the records before processes get them: it leaves out one prompt of seven.
    first, second = (
        DataSource("pairs", str(write_rows(tmp_path / place / "p.jsonl", rows)), limit=6) for place in ("", "elsewhere")
    )
    _, lines, _ = prepare(tmp_path / "one", first, config=config)
    assert {line["line"] for line in lines if line["outcome"] == "beyond_limit"} == {7, 14, 21, 28}
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    prepare(tmp_path / "two", second, config=config, num_proc=2)
    assert _digest(tmp_path / "one") == _digest(tmp_path / "two")
    assert {file.name for file in (tmp_path / "two").iterdir()} == {
        "groups.safetensors", "groups.jsonl", "ledger.json", "ledger.jsonl", "dev",
    }  # fmt: skip


def test_what_a_worker_process_refuses_reaches_the_caller(tmp_path):
    rows = [{"prompt": "p" * n, "chosen": "yes " * n, "rejected": "no"} for n in range(1, 60)]
    config = replace(LENIENT, max_length=80, truncation="raise")
    with pytest.raises(ValueError, match=r"prepare.max_length must hold the row, got \d+ tokens against 80 at line \d+; raise"):
        prepare(tmp_path / "out", ("pairs", write_rows(tmp_path / "p.jsonl", rows)), config=config, num_proc=2)
    assert not (tmp_path / "out" / "groups.safetensors").exists() and not (tmp_path / "out" / "staging.sqlite").exists()


def test_a_worker_process_that_is_killed_is_named(tmp_path):
    rows = [{"prompt": f"p{n}", "chosen": "yes", "rejected": "no"} for n in range(400)]
    source = DataSource("pairs", str(write_rows(tmp_path / "p.jsonl", rows)))

    def kill_one(done, total, note):
        if note == "bytes, 200 rows":
            [child, *_] = [one for one in psutil.Process().children() if "spawn_main" in " ".join(one.cmdline())]
            child.kill()

    with pytest.raises(RuntimeError, match=r"the processes of prepare must live until it ends, .* lower prepare.num_proc"):
        prepare_sources([source], MODEL, tmp_path / "out", LENIENT, num_proc=2, progress=kill_one)
    assert list((tmp_path / "out").iterdir()) == []


def _running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_parent_leaves_no_process_behind(tmp_path):
    rows = write_rows(tmp_path / "p.jsonl", [{"prompt": f"p{n}", "chosen": "a", "rejected": "b"} for n in range(9000)])
    program = f"""
        from pathlib import Path
        from data.preparing.config import PrepareConfig
        from data.reading.records import DataSource
        from data.preparing.prepare import prepare_sources
        if __name__ == "__main__":
            prepare_sources([DataSource("pairs", {str(rows)!r})], Path({str(MODEL)!r}), Path({str(tmp_path / "out")!r}),
                            PrepareConfig(), num_proc=2, progress=lambda *_: None)
    """
    script = tmp_path / "job.py"
    script.write_text(textwrap.dedent(program))
    parent = subprocess.Popen([sys.executable, str(script)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    children: list[int] = []
    end = time.monotonic() + 120
    while len(children) < 2 and time.monotonic() < end and parent.poll() is None:
        time.sleep(0.05)
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent.pid)], capture_output=True, text=True).stdout.split()
        children = [int(pid) for pid in found]
    assert len(children) >= 2, "the parent must be caught at work"
    time.sleep(1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 60
    while any(map(_running, children)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(_running, children))
