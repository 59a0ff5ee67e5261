"""The child processes of a run: each node at work has one, on devices of its own, and the nodes of a session share one in turn."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from bnf.progress import Progress
from tasks.child import Cancelled, Child
from tasks.nodes import Node
from tasks.resources import Devices, num_devices

_LOOK_S = 0.2


@dataclass
class _Living:
    """A process, the numbers of its devices, and whether a node is at work in it."""

    child: Child
    devices: tuple[int, ...]
    at_work: bool = True


@dataclass
class Children:
    """The child processes that live. Several threads may ask for one at the same time.

    A node that needs devices ends processes that hold them and wait for a next node, so that two models are never on one device.

    Args:
        log_folder: where each process's output goes.
        accelerator: entered for as long as a process lives that computes on a device.
        cancelled: True once somebody asked for the run's end.
        environment: variables for every process, such as keys of services; they are given on and written nowhere.
        devices: those that are shared out.
    """

    log_folder: Path
    accelerator: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    cancelled: Callable[[], bool] = lambda: False
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    devices: Devices = field(default_factory=Devices)
    _living: dict[str, _Living] = field(default_factory=dict)
    _killed: bool = False
    _held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _num_holders: int = 0
    # The devices of processes that are about to begin.
    _promised: set[int] = field(default_factory=set)
    # Of `_living` and `_promised`, and never held for long.
    _lock: threading.Lock = field(default_factory=threading.Lock)
    # Of those who choose devices: one at a time, as they may end processes for that.
    _choosing: threading.Lock = field(default_factory=threading.Lock)
    # Of the accelerator. Who waits for other runs' holds it meanwhile: whoever needs the accelerator too waits with it.
    _queue: threading.Lock = field(default_factory=threading.Lock)

    def of(self, node: Node, on_log: Callable[[str], None], on_progress: Progress) -> Child:
        """The process that runs this node: the one of its session if it still runs, else a new one.

        Raises:
            Cancelled: all processes were killed, or the run was cancelled while it waited for the accelerator.
        """
        name, number = _name(node), num_devices(node, self.devices.total)
        while True:
            with self._lock:
                known = self._living.get(name)
                if known is None:
                    break
                is_free = not known.at_work
                if is_free and known.child.is_alive():
                    known.at_work, known.child.on_log, known.child.on_progress = True, on_log, on_progress
                    return known.child
            if is_free:
                # The process died while it was idle. What it started may still live and hold its devices.
                self._end(name, Child.close, only_idle=True)
            else:
                self._wait()
        if not number:
            return self._begin(node, (), on_log, on_progress)
        chosen = self._choose(number)
        try:
            self._hold()
            try:
                return self._begin(node, chosen, on_log, on_progress)
            except BaseException:
                self._let_go()
                raise
        finally:
            with self._lock:
                self._promised -= set(chosen)

    def done(self, node: Node) -> None:
        """Say that a node is done: its process ends, or waits for the next node of its session."""
        name = _name(node)
        if node.session is None:
            self._end(name, Child.close)
        else:
            with self._lock:
                self._living[name].at_work = False

    def failed(self, node: Node) -> None:
        """End the process of a node that failed, if it has one."""
        self._end(_name(node), Child.kill)

    def close_session(self, session: str) -> None:
        """End the process of a session whose nodes are all done, if there is one."""
        self._end(session, Child.close)

    def close(self) -> None:
        """End every process in which no node is at work."""
        for name in self._idle():
            self._end(name, Child.close, only_idle=True)

    def kill(self) -> None:
        """End every process at once, and let none begin."""
        with self._lock:
            self._killed = True
            names = list(self._living)
        for name in names:
            self._end(name, Child.kill)

    def _begin(self, node: Node, devices: tuple[int, ...], on_log: Callable[[str], None], on_progress: Progress) -> Child:
        variables = {**_engine_environment(node), **self.devices.environment(devices), **self.environment}
        with self._lock:
            if self._killed:
                raise Cancelled("the run was ended")
            child = Child(variables, self.log_folder / node.log_name, on_log, on_progress, self.cancelled)
            self._living[_name(node)] = _Living(child, devices)
        return child

    def _idle(self, *, with_devices: bool = False) -> list[str]:
        with self._lock:
            idle = [(name, living) for name, living in self._living.items() if not living.at_work]
            return [name for name, living in idle if living.devices or not with_devices]

    def _free(self) -> list[int]:
        taken = {number for living in self._living.values() for number in living.devices} | self._promised
        return [number for number in range(self.devices.total) if number not in taken]

    def _choose(self, number: int) -> tuple[int, ...]:
        """So many free devices; processes that wait for a next node give up theirs, the oldest first, where too few are free."""
        with self._choosing:
            while True:
                with self._lock:
                    free = self._free()
                    if len(free) >= number:
                        chosen = tuple(free[:number])
                        self._promised |= set(chosen)
                        return chosen
                if idle := self._idle(with_devices=True):
                    self._end(idle[0], Child.close, only_idle=True)
                else:
                    self._wait()

    def _wait(self) -> None:
        """A moment until something is free. It is rarely needed: the schedule starts a node once its devices are free. But a cached node is
        started without any, and computes after all where its artifact has gone meanwhile.
        """
        if self.cancelled():
            raise Cancelled("the run was cancelled while it waited for a device")
        time.sleep(_LOOK_S)

    def _end(self, name: str, how: Callable[[Child], None], *, only_idle: bool = False) -> None:
        """End a process; its devices are free once it is gone. With `only_idle` one stays in which a node has begun meanwhile."""
        with self._lock:
            living = self._living.get(name)
            if living is None or (only_idle and living.at_work):
                return
            living.at_work = True
        try:
            how(living.child)
        finally:
            with self._lock:
                ours = self._living.pop(name, None) is not None
            if ours and living.devices:
                self._let_go()

    def _hold(self) -> None:
        with self._queue:
            if not self._num_holders:
                self._held.enter_context(self.accelerator())
            self._num_holders += 1

    def _let_go(self) -> None:
        with self._queue:
            self._num_holders -= 1
            if not self._num_holders:
                self._held.close()


def _name(node: Node) -> str:
    return node.session or node.id


def _engine_environment(node: Node) -> dict[str, str]:
    """Environment variables that the node's engine must find when its process starts."""
    from evaluation.judging.open_judge import environment

    engine = node.settings.get("engine")
    return environment(engine["name"]) if engine else {}
