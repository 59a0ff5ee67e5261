"""The allocator keeps what is freed: soon the next tensor of that size costs no page faults."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
if sys.argv[1] == "keep":
    from bnf.allocator import keep_freed_memory
    keep_freed_memory()
for _ in range(20):
    torch.ones(1 << 25)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(1 << 25)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it tells glibc's allocator")
def test_a_tensor_takes_the_memory_of_the_one_before():
    faults = {
        how: int(subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True).stdout)
        for how in ("keep", "leave")
    }
    # 128 MiB are 32,768 pages of 4 KiB.
    assert faults["leave"] > 100_000 and faults["keep"] < 1_000
