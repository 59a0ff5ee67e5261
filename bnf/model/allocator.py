"""Settings of the C library's allocator for training, which frees tensors of many megabytes and soon needs as many again.

By default glibc gives such memory back to the kernel, which clears every page of the next one: hundreds of thousands of page faults a
step.
"""

import ctypes
import os
import platform

import torch

# Options of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

# Bytes. Larger blocks are few, and would leave holes.
_LARGEST_KEPT = 2**25
_NEVER = -1


def keep_freed_memory() -> None:
    """Makes this process keep freed memory for its next tensors, except the largest blocks. It holds no more than at its peak.

    For processes that only train or score: the setting holds for all allocations until they end. It does nothing where tensors lie on an
    accelerator, where the C library is not glibc, or where glibc's own MALLOC_MMAP_THRESHOLD_ is set in the environment.
    """
    if torch.cuda.is_available() or platform.libc_ver()[0] != "glibc" or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
    libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
