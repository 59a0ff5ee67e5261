"""Calls into a library that may never return, in a child process that is killed when a call takes too long.

For code that reads what a model wrote and may run without end (computer algebra, foreign metrics): a signal doesn't interrupt a power of
huge integers in C, a kill does. The child may write no files and has limited memory. A text that makes it fail loses its own result and
no other's.

A result is stored, so it must not depend on what else the machine does. On Linux a call's limit counts the time in which the child computes
or sleeps, and not the time in which it waits for a core or a disk. Elsewhere it counts all time.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from bnf.process import die_with_parent, module_command, module_environment
from evaluation.records import Record

MEMORY_BYTES = 2 << 30
START_LIMIT_S = 300.0
# A child that waits for a core or a disk is killed after so many times its limit.
PATIENCE = 20
_LOOK_S = 0.1


class BoundedCalls:
    """Calls of one function in a child process, each in `limit_s` seconds of its own work; usable as a context manager.

    Args:
        function: `module:name`, a function that is called once in the child with `setup` and gives the one that is called for
            each argument. Arguments and results are JSON.
    """

    def __init__(self, function: str, setup: Mapping[str, object], *, limit_s: float) -> None:
        self._command = module_command("evaluation.sandbox", function)
        self._setup, self._limit_s = setup, limit_s
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self, argument: object, *, limit_s: float | None = None) -> object:
        """The function's result; None where it raised, took too long (`limit_s` in place of the usual), or brought the child down.

        Raises:
            RuntimeError: where the child can't begin; the message is the child's own.
        """
        if self._child is None:
            self._start()
        assert self._child is not None and self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(argument).encode() + b"\n")
            self._child.stdin.flush()
            answer = self._read(self._limit_s if limit_s is None else limit_s)
        except BrokenPipeError:
            answer = None
        if answer is None:
            self.close()
            return None
        return answer["result"]

    def close(self) -> None:
        """Ends the child at once; a further call starts another."""
        if self._child is not None:
            assert self._child.stdin is not None and self._child.stdout is not None
            self._child.kill()
            self._child.wait()
            self._child.stdout.close()
            with contextlib.suppress(BrokenPipeError):  # what was left to write has no reader any more
                self._child.stdin.close()
            self._child = None

    def __enter__(self) -> BoundedCalls:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self._child = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=module_environment()
        )
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(self._setup).encode() + b"\n")
        self._child.stdin.flush()
        ready = self._read(START_LIMIT_S)
        if ready is None or "error" in ready:
            self.close()
            reason = "it ended without a word" if ready is None else ready["error"]
            raise RuntimeError(f"{self._command[-1]} must start in a child process, got {reason}")

    def _read(self, limit_s: float) -> Record | None:
        """The child's next line; None where it ended, or where there is none in time."""
        assert self._child is not None and self._child.stdout is not None
        spent, data = _Spent(self._child.pid), b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._child.stdout, selectors.EVENT_READ)
            while not data.endswith(b"\n"):
                if not selector.select(min(_LOOK_S, limit_s)):
                    if spent.look() >= limit_s or spent.all_s >= PATIENCE * limit_s:
                        return None
                    continue
                part = os.read(self._child.stdout.fileno(), 1 << 16)
                if not part:
                    return None
                data += part
        answer: Record = json.loads(data)
        return answer


class _Spent:
    """The time that a process spends: what it computes, and what it sleeps by itself."""

    def __init__(self, pid: int) -> None:
        self._stat = Path(f"/proc/{pid}/stat")
        self._began_s = self._looked_s = time.monotonic()
        self._seconds, (_, self._cpu_s) = 0.0, self._now()

    @property
    def all_s(self) -> float:
        """The time since the beginning, as a clock has it."""
        return self._looked_s - self._began_s

    def look(self) -> float:
        """The seconds spent until now."""
        passed_s, (waits, cpu_s) = time.monotonic() - self._looked_s, self._now()
        # Of several threads the clock's time counts once.
        self._seconds += min(passed_s, cpu_s - self._cpu_s) if waits else passed_s
        self._looked_s, self._cpu_s = self._looked_s + passed_s, cpu_s
        return self._seconds

    def _now(self) -> tuple[bool, float]:
        """Whether it has or wants a core, or waits for a disk, and the seconds that it has computed. Without /proc nobody knows."""
        try:
            # The name before it, in brackets, may have spaces.
            state, *numbers = self._stat.read_text().rpartition(")")[2].split()
        except OSError:
            return False, 0.0
        return state in "RDTt", (int(numbers[10]) + int(numbers[11])) / os.sysconf("SC_CLK_TCK")


def main(function: str) -> None:
    """The child: a line of setup, then one line out for each line in, until there are none."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints can't be taken for an answer
    # A call that is stuck doesn't see that its input has ended.
    die_with_parent()
    module, _, name = function.partition(":")
    try:
        call = getattr(importlib.import_module(module), name)(**json.loads(sys.stdin.readline()))
    except Exception as error:
        answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")
        return
    _limit_resources()
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        try:
            result = call(json.loads(line))
        except Exception:
            # Foreign code over hostile text may raise anything; the caller counts it.
            result = None
        answers.write(json.dumps({"result": result}) + "\n")


def _limit_resources() -> None:
    if sys.platform != "linux":  # elsewhere the time limit alone holds
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main(sys.argv[1])
