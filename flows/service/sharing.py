"""What each of several runs of one process has of the machine, and the accelerator that they hold together."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from flows.service.accelerator import accelerator
from tasks.child import Cancelled
from tasks.resources import Devices

_LOOK_S = 0.5

# accelerator(cancelled, on_wait)
Hold = Callable[[Callable[[], bool], Callable[[], None]], AbstractContextManager[None]]


@dataclass(frozen=True)
class Share:
    """What a run has of the machine.

    Attributes:
        devices: those that its tasks share out; None for all that its recipe asks for.
        cpu_slots: how many of its tasks compute without a device at once, or as few as its recipe says; None for what that says.
        hold: waits for the machine's accelerator and holds it.
        stopped: whether the process is about to end, by a signal that the run's own thread isn't told of.
        cancelled: whether that is because the sweep was cancelled.
    """

    devices: Devices | None = None
    cpu_slots: int | None = None
    hold: Hold = accelerator
    stopped: Callable[[], bool] = lambda: False
    cancelled: Callable[[], bool] = lambda: False


WHOLE = Share()


def part(devices: Devices, numbers: Sequence[int]) -> Devices:
    """Some of these devices, by number."""
    if len(numbers) == devices.total:
        return devices
    gpus = [devices.gpus[number] for number in numbers] if devices.gpus else ()
    return Devices(gpus, [devices.cores[number] for number in numbers] if devices.cores else (), all_here=False)


@dataclass
class SharedAccelerator:
    """The machine's accelerator, held once by all runs of this process that compute: the first waits for it, the last gives it back.

    Raises, when it is entered:
        Cancelled: the run was cancelled while it waited, or while another run of this process did.
    """

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _num_holders: int = 0

    @contextlib.contextmanager
    def __call__(self, cancelled: Callable[[], bool], on_wait: Callable[[], None]) -> Iterator[None]:
        # Whoever waits for the accelerator, maybe for hours, has the lock meanwhile: the others can be cancelled all the same.
        while not self._lock.acquire(timeout=_LOOK_S):
            if cancelled():
                raise Cancelled("the run was cancelled while it waited for the accelerator")
        try:
            if not self._num_holders:
                self._held.enter_context(accelerator(cancelled, on_wait))
            self._num_holders += 1
        finally:
            self._lock.release()
        try:
            yield
        finally:
            with self._lock:
                self._num_holders -= 1
                if not self._num_holders:
                    self._held.close()
