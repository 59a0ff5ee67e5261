"""`tests/gpu/check.sh` is rehearsed on the CPU, so that it works when a GPU is lent for minutes."""

import json
import subprocess
from pathlib import Path

import pytest

from tasks.keys import ROOT
from tests.gpu.check import PARTS

pytestmark = pytest.mark.integration


def test_rehearsal(tmp_path: Path) -> None:
    """The first checks of every part, from a folder that is not the repository's."""
    command = [str(ROOT / "tests/gpu/check.sh"), "--device", "cpu", "--first", "2", "--out", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert json.loads(done.stdout.splitlines()[-1]) == report
    assert report["device"] == "cpu" and report["is_rehearsal"] and report["failed"] == report["skipped"] == 0
    assert list(report["parts"]) == list(PARTS) and report["passed"] == 2 * len(PARTS)
    for part in report["parts"].values():
        assert part["status"] == "passed" and [check["status"] for check in part["checks"]] == ["passed"] * 2
    rates = report["parts"]["throughput"]["checks"][0]["figures"]
    assert rates["tokens_per_s"] > 0 and rates["share_of_matrix_products"] > 0
    assert report["parts"]["trainings"]["checks"][0]["figures"]["attention"] == "bnf_segments_varlen_flex"
