"""Why a stage failed: what a person has to mend, what may pass by itself, and which resource ran out.

Libraries' errors are recognised by their class names: nothing is imported that the stage itself did not need.
"""

from __future__ import annotations

import errno
from enum import StrEnum

# Statuses of an HTTP answer after which the same request may succeed.
PASSING_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
# What libraries raise, beside ConnectionError and TimeoutError, where a connection wasn't made or broke off.
TRANSPORT_CLASSES = frozenset(
    {
        "aiohttp.client_exceptions.ClientConnectionError",
        "aiohttp.client_exceptions.ClientPayloadError",
        "botocore.exceptions.ConnectionError",
        "botocore.exceptions.HTTPClientError",
        "httpx.TransportError",
        # The hub's library has a transport of its own.
        "httpx2.TransportError",
        "openai.APIConnectionError",
        "requests.exceptions.ConnectionError",
        "requests.exceptions.Timeout",
        "socket.gaierror",
        "urllib.error.URLError",
    }
)
# What passes besides: training computes the reference itself when it is tried again.
PASSING_CLASSES = frozenset({"bnf.training.own_reference.ReferenceMismatch"})
# Errors of which the message is all that a person needs, beside ValueError and OSError.
USER_CLASSES = frozenset({"bnf.training.collapse.TrainingCollapsed"})
MEMORY_CLASSES = frozenset({"torch.OutOfMemoryError", "torch.cuda.OutOfMemoryError"})
# What torch's CPU allocator and vLLM say when memory ends, as other classes of errors, and what is said of a process that was killed.
MEMORY_TEXTS = (
    "often the kernel's out-of-memory killer",
    "can't allocate memory",
    "out of memory",
    "no available memory for the cache blocks",
    "to serve at least one request",
)
# What safetensors and SQLite say when the disk is full, as errors of their own.
DISK_TEXTS = ("no space left on device", "database or disk is full")
# What a disk says that is full, on which its owner has no more room, and that the kernel has made read-only after a fault.
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


class Cause(StrEnum):
    """The kinds of failure that are treated differently."""

    USER = "user"  # the message says what to mend
    PASSING = "passing"  # network, a busy endpoint, a reference from elsewhere: worth another try
    MEMORY = "memory"
    DISK = "disk"
    OTHER = "other"


# What a process says of an error that it sends to another: that from which it was raised stays there.
_TOLD = "bnf_cause"


def with_cause(error: Exception, cause: str) -> Exception:
    """An error of another process, with the cause that it had there."""
    setattr(error, _TOLD, cause)
    return error


def cause_of(error: BaseException) -> Cause:
    """The kind of an error, by itself or by what it was raised from, here or in the process that sent it."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__
    told = [getattr(one, _TOLD, None) for one in chain]
    if Cause.DISK in told or any(_no_disk(one) for one in chain):
        return Cause.DISK
    if Cause.MEMORY in told or any(_out_of_memory(one) for one in chain):
        return Cause.MEMORY
    if Cause.PASSING in told or any(_passing(one) for one in chain):
        return Cause.PASSING
    if told[0] is not None:
        return Cause(told[0])
    return Cause.USER if isinstance(error, ValueError | OSError) or _names(error) & USER_CLASSES else Cause.OTHER


def is_transport(error: BaseException) -> bool:
    """Whether an error is that of a connection, of whatever library, and no server's answer."""
    is_one = isinstance(error, ConnectionError | TimeoutError) or bool(_names(error) & TRANSPORT_CLASSES)
    return is_one and _status(error) is None


def _no_disk(error: BaseException) -> bool:
    text = str(error).lower()
    return (isinstance(error, OSError) and error.errno in DISK_ERRORS) or any(words in text for words in DISK_TEXTS)


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, MemoryError) or bool(_names(error) & MEMORY_CLASSES) or any(words in text for words in MEMORY_TEXTS)
    )


def _passing(error: BaseException) -> bool:
    status = _status(error)
    if status is not None:
        return status in PASSING_STATUSES
    return is_transport(error) or bool(_names(error) & PASSING_CLASSES)


def _status(error: BaseException) -> int | None:
    """The status of an HTTP answer that was an error, by the names that httpx, requests, openai, aiohttp, urllib and botocore use."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        response = response.get("ResponseMetadata", {})
        found: tuple[object, ...] = (response.get("HTTPStatusCode"),)
    else:
        found = (getattr(error, "status_code", None), getattr(response, "status_code", None), getattr(error, "status", None))
    return next((status for status in found if isinstance(status, int)), None)


def _names(error: BaseException) -> frozenset[str]:
    """The qualified names of an error's classes, with private submodules left out: `httpx._exceptions.X` is `httpx.X`."""
    names = set()
    for kind in type(error).__mro__:
        parts = [part for part in kind.__module__.split(".") if not part.startswith("_")]
        names.add(".".join([*parts, kind.__qualname__]))
    return frozenset(names)
