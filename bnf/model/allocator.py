"""The C library's allocator, told what training does: it frees tensors of many megabytes and asks for the same again a moment later.

glibc gives such memory back to the kernel, which then clears every page of the next one: hundreds of thousands of page faults a step.
"""

import ctypes
import platform

import torch

# Options of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

# Bytes. Larger blocks are few, and would leave holes.
_LARGEST_KEPT = 2**25
_NEVER = -1


def keep_freed_memory() -> None:
    """Has this process keep what it frees, but for the largest blocks, for its next tensors, up to the peak that it reaches anyway.

    For processes that do nothing but train or score: it holds for all that they allocate, until they end. Does nothing where tensors
    lie on an accelerator, or where the C library is another.
    """
    if torch.cuda.is_available() or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
    libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
