"""The allocator keeps what is freed, for the next tensor, but for the largest blocks."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys, torch
if sys.argv[1] == "keep":
    from bnf.model.allocator import keep_freed_memory
    keep_freed_memory()


def resident():
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmRSS")]
    return int(line.split()[1]) >> 10


torch.ones(1)
before = resident()
torch.ones(int(sys.argv[2]) << 18)
print(resident() - before)
"""


@pytest.mark.integration
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it tells glibc's allocator")
@pytest.mark.parametrize(("how", "mib", "kept"), [("keep", 30, 30), ("keep", 100, 0), ("leave", 30, 0)])
def test_what_a_tensor_leaves(how, mib, kept):
    """MiB that stay resident after a tensor is freed."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how, str(mib)], check=True, capture_output=True, text=True)
    assert kept - 5 < int(done.stdout) < kept + 5
