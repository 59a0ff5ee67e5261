"""What Prefect's server could not be told of a run: the run goes on without it, and says so once.

Prefect's pages show a run. What the run has done is in its own record, run.json.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from bnf.urls import without_secrets


@dataclass
class Unshown:
    """Called with each error that telling Prefect's server something ended in; calls `say` with the first. Several threads may call it."""

    say: Callable[[str], None]
    _is_said: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, error: Exception) -> None:
        with self._lock:
            if self._is_said:
                return
            self._is_said = True
        why = without_secrets(next(iter(str(error).splitlines()), ""))
        self.say(
            f"Prefect's server could not be told how far the run is ({type(error).__name__}: {why}): the run goes on without it; "
            "Prefect's pages may lack some of it, and run.json has everything"
        )

    @contextlib.contextmanager
    def left_out(self) -> Iterator[None]:
        """Leaves out what the block tells the server, where that fails."""
        try:
            yield
        except Exception as error:
            self(error)


@dataclass
class Outcome:
    """What a flow's own work gave: the run's name, or what it raised. Prefect raises errors of its server in the place of both."""

    unshown: Unshown
    run: str | None = None
    error: BaseException | None = None


# What the flow that is called by `carry_out` fills in.
OUTCOME: contextvars.ContextVar[Outcome | None] = contextvars.ContextVar("bnf_outcome", default=None)


def carry_out(call: Callable[[], object], say: Callable[[str], None]) -> None:
    """Call a flow that fills in the `OUTCOME`, and end as its own work ended: a server that is gone when the flow ends changes nothing.

    Args:
        say: told what the server could not be told.

    Raises:
        BaseException: what the flow's work raised; what Prefect raises before the work began, or of a cancelled run.
    """
    outcome = Outcome(Unshown(say))
    OUTCOME.set(outcome)
    try:
        call()
    except Exception as error:
        if error is outcome.error or (outcome.error is None and outcome.run is None) or _is_its_end(error):
            raise
        outcome.unshown(error)
        if outcome.error is not None:
            raise outcome.error from error


def _is_its_end(error: Exception) -> bool:
    """Whether Prefect raises it for a flow that ended in the state that its work gave it."""
    from prefect.exceptions import CancelledRun, FailedRun

    return isinstance(error, CancelledRun | FailedRun)
