"""Ends the asking of a paid endpoint without losing the replies that are still under way."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TypeVar

T = TypeVar("T")


def drained(replies: Iterator[T], error: BaseException) -> Iterator[T]:
    """Tells the generator of replies why it must end, yields what it still gives, and raises `error` after that.

    A generator that pays for its replies starts no more when an error is thrown into it, and yields those under way: they have to be
    kept. Any other ends at once.

    Raises:
        BaseException: `error`, or what ended the generator before it.
    """
    if isinstance(replies, Generator):
        try:
            reply = replies.throw(error)
            while True:
                yield reply
                reply = next(replies)
        except StopIteration:
            pass
    raise error
