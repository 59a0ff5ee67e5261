"""FlexAttention's kernels as torch writes them for CUDA, forward and backward, interpreted on the CPU and compared with blocks in float64.

`tests.integration.interpreted_flex` says how. Triton's interpreter can't multiply bfloat16, so half precision is float16 here.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.keys import ROOT
from tests.integration.interpreted_flex_cases import CASES

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton: pip install triton"),
]

# Relative, about three times what was seen.
TOLERANCE = {"float32": 1e-6, "float16": 1.5e-3}
# What every case runs through; the names begin so.
KERNELS = ("triton_tem_fused_flex_attention_0", "triton_tem_fused_flex_attention_backward")


@pytest.mark.parametrize("number", range(len(CASES)))
def test_values_and_gradients_equal_those_of_blocks(number: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.integration.interpreted_flex", str(number)],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    for name in KERNELS:
        assert any(kernel.startswith(name) for kernel in found["kernels"]), found["kernels"]
    worst = max(error for row in found["errors"] for error in row.values())
    assert worst < TOLERANCE[CASES[number]["dtype"]], found
