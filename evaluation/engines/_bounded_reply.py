"""Replies of an endpoint are read to a bound: of bytes, unpacked, and of time from the first byte on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2

# Of one reply, unpacked. The longest that is asked for, hundreds of thousands of tokens with their log-probabilities, has a few millions.
MAX_BYTES = 64 << 20
# Others pack a thousand times as much into a byte as these, and nobody asks for them.
ENCODINGS = "gzip, deflate"
_READ = frozenset({"", "identity", *ENCODINGS.split(", ")})


def bounded(timeout_s: float) -> Callable[[httpx2.Response], None]:
    """A hook for each response of an HTTP client of openai's.

    httpx's own time-out is of each read alone: a server that sends a byte now and then keeps its client for ever.
    """

    def hook(response: httpx2.Response) -> None:
        import openai

        packed = str(response.headers.get("content-encoding", "")).strip().lower()
        if packed not in _READ:
            raise openai.OpenAIError(f"the reply must be plain, or packed with {ENCODINGS}, got {packed[:40]!r}")
        deadline_s = time.monotonic() + timeout_s
        raw, unpacked = response.iter_raw, response.iter_bytes

        def iter_raw(chunk_size: int | None = None) -> Iterator[bytes]:
            for part in raw(chunk_size):
                if time.monotonic() > deadline_s:
                    raise openai.APITimeoutError(request=response.request)
                yield part

        def iter_bytes(chunk_size: int | None = None) -> Iterator[bytes]:
            num_bytes = 0
            for part in unpacked(chunk_size):
                num_bytes += len(part)
                if num_bytes > MAX_BYTES:
                    raise openai.OpenAIError(f"the reply must have at most {MAX_BYTES >> 20} MiB, got more")
                yield part

        response.iter_raw, response.iter_bytes = iter_raw, iter_bytes  # type: ignore[method-assign]

    return hook
