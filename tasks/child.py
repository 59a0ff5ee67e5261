"""Run stages in a child process: its output goes to a log file and to the caller, its crash becomes one readable error."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bnf.failures import Cause
from bnf.process import module_command, module_environment, signal_group, stop_group
from bnf.progress import Progress
from bnf.urls import without_secrets
from tasks.memory import PeakMemory

TAIL_LINES = 12
# Of the output these many lines are kept: a traceback among them may be long.
KEPT_LINES = 400
LOG_INTERVAL_S = 1.0
STOP_GRACE_S = 3.0
# How a traceback begins and goes on, also where vLLM's logger has its own words before each line.
_TRACEBACK = (
    "Traceback (most recent call last)",
    "During handling of the above exception",
    "The above exception was the direct",
)
_FRAME = re.compile(r'\s+File "[^"]+", line \d+')
_LOG_PREFIX = re.compile(r"^(\([^)]*pid=\d+\)\s?)?((ERROR|WARNING|INFO) \S+ \S+ \[\S+\]\s?)?")
COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    # What libraries say to one another's developers.
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning",
    # Threads that spin while they wait starve the others: a tenth of the speed on a busy machine.
    "OMP_WAIT_POLICY": "PASSIVE",
}


class StageFailed(RuntimeError):
    """A stage's child process failed. The message says why, in its own words where it could still speak; `kind` is then the name of the
    error's class there.
    """

    def __init__(self, message: str, cause: Cause = Cause.OTHER, kind: str | None = None) -> None:
        super().__init__(without_secrets(message))
        self.cause, self.kind = cause, kind


class Cancelled(RuntimeError):
    """Somebody asked for the run's end while it was at work."""


class Child:
    """A worker process in a session of its own, which runs one job after another.

    Args:
        environment: variables that must be set before the process starts (engines need some).
        log_path: file that all its output is appended to.
        on_log: called with some lines of output, at most about once a second.
        on_progress: called with (done, total, note).
        cancelled: asked at least every second while a job runs; True ends the job with `Cancelled`.

    Attributes:
        memory: the most memory of the job at work, or of the last one.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        log_path: Path,
        on_log: Callable[[str], None],
        on_progress: Progress,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self.log_path, self.on_log, self.on_progress, self.cancelled = log_path, on_log, on_progress, cancelled
        self._tail: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self.memory: PeakMemory | None = None
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log = log_path.open("ab")
        read_end, write_end = os.pipe()
        self._process = subprocess.Popen(
            module_command("tasks.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            pass_fds=[write_end],
            start_new_session=True,
            env={**ENVIRONMENT, **module_environment({**environment, "BNF_REPORT_FD": str(write_end)})},
        )
        os.close(write_end)
        self._reports = os.fdopen(read_end, "rb")
        assert self._process.stdin is not None and self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        os.set_blocking(read_end, False)

    def run(
        self,
        module: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Path],
        output: Path,
        *,
        fingerprints: Mapping[str, str] | None = None,
        refresh: bool = False,
    ) -> None:
        """Run one job by a module's `run(job)` and wait for its end. Log and progress are passed on meanwhile.

        Raises:
            StageFailed: the stage raised, or the process died; the message gives the reason, or the last lines of output.
            Cancelled: `cancelled` returned True. The process goes on until `kill` ends it.
        """
        job = {
            "module": module,
            "settings": settings,
            "inputs": {role: str(path) for role, path in inputs.items()},
            "output": str(output),
            "fingerprints": dict(fingerprints or {}),
            "refresh": refresh,
        }
        process = self._process
        assert process.stdin is not None
        self.memory = PeakMemory(process.pid)
        # A process that is gone already says so below, with its exit status and last lines.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
        for report in self._listen():
            if report["event"] == "progress":
                self.on_progress(report["done"], report["total"], report["note"])
            elif report["event"] == "done":
                self.memory.end(report["device_bytes"])
                return
            elif report["cause"] == Cause.OTHER:
                raise StageFailed(f"{report['kind']}: {report['message']}\n{self._last_lines()}")
            else:
                raise StageFailed(f"{report['message']} (log: {self.log_path})", Cause(report["cause"]), report["kind"])
        status = process.wait()
        cause = Cause.MEMORY if status == -signal.SIGKILL else Cause.OTHER
        raise StageFailed(f"{describe_exit(status)}; last lines:\n{self._last_lines()}", cause)

    def _listen(self) -> Iterator[dict[str, Any]]:
        """Reports of the child, until the pipe closes with the process; its output is passed on in batches on the way."""
        assert self._process.stdout is not None
        pending, waiting, last_s = b"", [], time.monotonic()
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._reports, selectors.EVENT_READ)
            selector.register(self._process.stdout, selectors.EVENT_READ)
            ended = False
            while not ended:
                events = selector.select(timeout=LOG_INTERVAL_S)
                if self.memory is not None:
                    self.memory.look()
                if self.cancelled():
                    raise Cancelled("the run was cancelled")
                # A grandchild may hold the pipes open beyond the process's end.
                ended = not events and self._process.poll() is not None
                for key, _ in events:
                    data = os.read(key.fd, 1 << 16)
                    if key.fileobj is self._reports:
                        ended = not data
                        *complete, pending = (pending + data).split(b"\n")
                        reports = [json.loads(line) for line in complete]
                        if any(report["event"] != "progress" for report in reports):
                            # Whatever it printed before the report is in the pipe by now.
                            waiting += self._take(rest + (self._process.stdout.read() or b""))[0]
                            rest = b""
                            self._pass_on(waiting)
                            waiting = []
                        yield from reports
                    elif data:
                        lines, rest = self._take(rest + data)
                        waiting += lines
                    else:
                        selector.unregister(key.fileobj)
                if waiting and time.monotonic() - last_s >= LOG_INTERVAL_S:
                    self._pass_on(waiting)
                    waiting, last_s = [], time.monotonic()
            waiting += self._take(rest + (self._process.stdout.read() or b"") + b"\n")[0]
            self._pass_on(waiting)

    def _take(self, data: bytes) -> tuple[list[str], bytes]:
        """Complete lines of the output and the unfinished rest. Of a line that a progress bar rewrote, the last state counts."""
        *complete, rest = data.split(b"\n")
        lines = [COLOUR.sub("", line.rstrip(b"\r").rsplit(b"\r", 1)[-1].decode(errors="replace")) for line in complete]
        # Libraries say which URL failed, with all that it holds.
        return [without_secrets(line) for line in lines if line.strip()], rest

    def _pass_on(self, lines: list[str]) -> None:
        if lines:
            self._tail.extend(lines)
            self._log.write(("\n".join(lines) + "\n").encode())
            self._log.flush()
            self.on_log("\n".join(lines))

    def _last_lines(self) -> str:
        last = without_tracebacks(self._tail)[-TAIL_LINES:]
        return "\n".join(f"  {line}" for line in last) + f"\n  (whole log: {self.log_path})"

    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process: politely when it is idle, and its whole group in any case."""
        with contextlib.suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(timeout=STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()
        signal_group(self._process.pid, signal.SIGKILL)
        self._release()

    def kill(self) -> None:
        """End the process and everything it started, now."""
        stop_group(self._process, STOP_GRACE_S)
        self._release()

    def _release(self) -> None:
        assert self._process.stdout is not None
        self._log.close()
        self._reports.close()
        self._process.stdout.close()


def without_tracebacks(lines: Iterable[str]) -> list[str]:
    """Lines of a log without the frames of tracebacks; what the exceptions say stays."""
    kept: list[str] = []
    inside = False
    for line in lines:
        bare = _LOG_PREFIX.sub("", line)
        if bare.startswith(_TRACEBACK) or _FRAME.match(bare):
            inside = True
        elif not (inside and (not bare.strip() or bare[0].isspace())):
            inside = False
            kept.append(line)
    return kept


def describe_exit(status: int) -> str:
    """An exit status in words, with the commonest cause of a kill."""
    if status >= 0:
        return f"the process ended with status {status} without a report"
    name = signal.Signals(-status).name
    hint = ", often the kernel's out-of-memory killer" if name == "SIGKILL" else ""
    return f"exit {status} ({name}{hint})"
