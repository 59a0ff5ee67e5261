"""A disk of the home that takes nothing more: the message says what to do."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from bnf.failures import DISK_ERRORS

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_CLOSED = frozenset({errno.EACCES, errno.EPERM})


@contextlib.contextmanager
def must_take(folder: Path, what: str, then: str) -> Iterator[None]:
    """Write something into a folder of the home. What stood there before stays where the disk is full, or the folder can't be written.

    Args:
        what: what is written, as the message names it.
        then: what there still is, and how it goes on once the disk takes more.

    Raises:
        OSError: the disk is full or read-only, or the folder is; the message says what to do.
    """
    try:
        yield
    except OSError as error:
        # A file that is read on the way may be another's: only a folder that is closed itself is meant.
        is_closed = error.errno in _CLOSED and not os.access(folder, os.W_OK)
        if error.errno is None or not (error.errno in DISK_ERRORS or is_closed):
            raise
        remedy = "free some (`bnf gc` drops artifacts that no run names)" if error.errno in _FULL else "let it be written"
        raise OSError(
            f"the disk of {folder} must take {what}, got {os.strerror(error.errno)!r}; {remedy}, or move BNF_HOME; {then}"
        ) from error
