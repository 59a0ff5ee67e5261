"""Errors on their way from a worker to its caller, which treats them as those of its own process."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from bnf.failures import cause_of, with_cause
from bnf.parallel.share import WorkerEnded

# The kinds that callers tell apart. What is of another kind has its kind in its text.
_KINDS: tuple[type[Exception], ...] = (WorkerEnded, ValueError, MemoryError, OSError)


class SentOSError(OSError):
    """The system's error in a worker. A plain OSError would become a TimeoutError by its number, and be taken for its caller's own."""


@dataclass(frozen=True)
class SentError:
    """An error as JSON: what its caller has to know of it.

    Attributes:
        kind: the name of one of the kinds that callers tell apart, or RuntimeError.
        errno: the system's number of it, where it has one.
        cause: why it happened (`bnf.failures.cause_of`), which is known only where all is there that it was raised from.
    """

    kind: str
    text: str
    errno: int | None
    cause: str

    @classmethod
    def of(cls, error: BaseException) -> SentError:
        """The error as it is sent. Its traceback is printed: the caller has its own alone."""
        traceback.print_exception(error)
        kind, text = next((kind for kind in _KINDS if isinstance(error, kind)), RuntimeError), str(error)
        if kind is RuntimeError:
            text = f"{type(error).__name__}: {text}" if text else type(error).__name__
        number = error.errno if isinstance(error, OSError) else None
        return cls(kind.__name__, text, number, cause_of(error).value)

    def error(self) -> Exception:
        """The error as it is raised where it arrives."""
        if self.errno is not None:
            # The error writes its number before its text itself.
            return with_cause(SentOSError(self.errno, self.text.removeprefix(f"[Errno {self.errno}] ")), self.cause)
        kind = next((kind for kind in _KINDS if kind.__name__ == self.kind), RuntimeError)
        return with_cause(kind(self.text), self.cause)
