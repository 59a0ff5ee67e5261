"""An error of a worker is treated by its caller as one of its own: by its kind, its number and its cause."""

import errno
import json
import pickle
from dataclasses import asdict

import pytest

from bnf.failures import Cause, cause_of
from bnf.parallel.sent_errors import SentError
from bnf.parallel.share import WorkerEnded


def raised_from(cause: Exception) -> Exception:
    error = OSError("BNF_STORE must be reachable")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "text", "cause"),
    [
        (AssertionError(), RuntimeError, "AssertionError", Cause.OTHER),
        (KeyError("q_proj"), RuntimeError, "KeyError: 'q_proj'", Cause.OTHER),
        (ValueError("limit must be positive"), ValueError, "limit must be positive", Cause.USER),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no text"), ValueError, "'utf-8' codec can't decode byte", Cause.USER),
        (MemoryError(), MemoryError, "", Cause.MEMORY),
        (WorkerEnded("worker 1 ended"), WorkerEnded, "worker 1 ended", Cause.OTHER),
        (OSError(errno.ENOSPC, "No space left on device", "x"), OSError, "[Errno 28] No space left on device: 'x'", Cause.DISK),
        (FileNotFoundError("no such file"), OSError, "no such file", Cause.USER),
        (raised_from(ConnectionResetError()), OSError, "BNF_STORE must be reachable", Cause.PASSING),
        (raised_from(OSError(errno.ENOSPC, "full")), OSError, "BNF_STORE must be reachable", Cause.DISK),
        (OSError(errno.ETIMEDOUT, "timed out"), OSError, "timed out", Cause.PASSING),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_arrives_says_what_was_raised(
    error: Exception, kind: type[Exception], text: str, cause: Cause, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = SentError.of(error)
    assert type(error).__name__ in capsys.readouterr().err
    for arrived in (SentError(**json.loads(json.dumps(asdict(sent)))).error(), pickle.loads(pickle.dumps(sent.error()))):
        assert isinstance(arrived, kind) and text in str(arrived)
        assert cause_of(arrived) is cause is cause_of(error)
        # Its caller's own wait is not over.
        assert not isinstance(arrived, TimeoutError)
        if isinstance(error, OSError) and isinstance(arrived, OSError):
            assert arrived.errno == error.errno


def test_it_counts_for_what_is_raised_from_it() -> None:
    for cause, own in ((Cause.DISK, Cause.DISK), (Cause.PASSING, Cause.PASSING), (Cause.OTHER, Cause.USER)):
        error = ValueError("the cluster must go on")
        error.__cause__ = SentError("RuntimeError", "it ended", None, cause.value).error()
        assert cause_of(error) is own
