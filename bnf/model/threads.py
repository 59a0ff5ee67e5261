"""The number of threads that torch computes with, which belongs to a process: in a shared one the next job would compute otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def restored_threads() -> Iterator[None]:
    """Gives torch back its number of threads at the end, however it comes."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
