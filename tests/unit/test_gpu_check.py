"""How the check of a GPU machine keeps its time, and what it makes of parts that fail, hang or break off."""

import json
import sys
import time
from pathlib import Path

import pytest

from tests.gpu import check

PASSED = {"name": "a", "status": "passed", "seconds": 0.1, "why": None, "figures": {"x": 1.0}}
FAILED = {"name": "b", "status": "failed", "seconds": 0.1, "why": "ValueError: no", "figures": {}}


def part(*lines: object, then: str = "") -> list[str]:
    said = "; ".join(f"print({json.dumps(line)!r}, flush=True)" for line in lines)
    return [sys.executable, "-c", f"import sys, time; {said or 'pass'}\n{then}"]


def test_what_is_done_counts_whatever_comes_after() -> None:
    commands = {
        "good": part(PASSED),
        "bad": part(PASSED, FAILED),
        "broken": part(PASSED, then="print('{not json'); sys.exit('it broke')"),
        "slow": part(PASSED, then="time.sleep(60)"),
        "late": part(PASSED),
    }
    started_s = time.monotonic()
    report = check.run(commands, {"good": 5.0, "bad": 5.0, "broken": 5.0, "slow": 5.0, "late": 5.0}, total_s=4.0)
    assert time.monotonic() - started_s < 15
    status = {name: found["status"] for name, found in report["parts"].items()}
    assert status == {"good": "passed", "bad": "failed", "broken": "failed", "slow": "out of time", "late": "out of time"}
    assert [len(found["checks"]) for found in report["parts"].values()] == [1, 2, 1, 1, 0]
    # The broken part counts as one failure, though each of its checks passed.
    assert (report["passed"], report["failed"], report["skipped"]) == (4, 2, 0)
    assert "it broke" in report["parts"]["broken"]["why"] and "ended after" in report["parts"]["slow"]["why"]
    assert report["parts"]["late"]["why"] == "no time was left"


def test_a_part_takes_what_those_before_it_left() -> None:
    commands = {"quick": part(PASSED), "long": part(then="time.sleep(1.5)")}
    report = check.run(commands, {"quick": 5.0, "long": 0.5}, total_s=60.0)
    assert report["parts"]["long"]["status"] == "passed"


def test_processes_of_a_part_end_with_it(tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    child = f"import time; time.sleep(2); open({str(mark)!r}, 'w')"
    commands = {"slow": part(then=f"import subprocess; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)")}
    check.run(commands, {"slow": 1.5}, total_s=60.0)
    time.sleep(2)
    assert not mark.exists()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(check, "NEEDS", ("json", "no_such_package", "nor_this"))
    assert check.main(["--device", "cpu"]) == 2
    assert "lacks no_such_package, nor_this; install them there" in capsys.readouterr().err


def test_all_fits_into_eight_minutes() -> None:
    assert sum(check.PARTS.values()) <= check.TOTAL_S <= 480 - 10
