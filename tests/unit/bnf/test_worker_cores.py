"""Cores that the workers of a machine share out."""

import fcntl
import os
import sys
import tempfile
from pathlib import Path

import pytest

from bnf.parallel import worker_cores
from bnf.parallel.worker_cores import stay_on_cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason=f"{sys.platform} gives a process no cores of its own")
def test_a_worker_that_finds_too_few_free_cores_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stays: list[set[int]] = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(worker_cores, "own_cores", lambda: [4, 5, 6])
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, cores: stays.append(set(cores)))
    folder = tmp_path / f"bnf-cores-{os.getuid()}"
    held = stay_on_cores(2)
    assert set(map(frozenset, stays)) == {frozenset({4, 5})} and capsys.readouterr().out == ""
    stays.clear()
    assert stay_on_cores(2) == [] and stays == []
    said = capsys.readouterr().out
    assert "to have 2 cores of its own, and 1 of 3 are free" in said and str(folder) in said
    # What it had taken meanwhile is free again.
    with (folder / "6").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for file in held:
        file.close()
    assert len(stay_on_cores(2)) == 2
