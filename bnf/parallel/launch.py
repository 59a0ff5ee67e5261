"""Starts the processes of a training or of a reference pass on this node, and waits for the other nodes.

torchrun starts them, each runs `bnf.training.worker`, the first one reports. They end with the process that launched them, however that
one ends. Nodes meet by torchrun's static rendezvous: it gives the launcher's node the first process, whose progress is passed on and
which writes the files, and nobody needs to guess which node listens at the meeting point. A process that failed has failed for good:
what the work can go on from lies in its folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from bnf.files import write_json
from bnf.parallel.code import code_digest
from bnf.parallel.nodes import BEAT_S, CALL_FILE, SILENT_S, WAIT_S, Pulse, beat, joined, node_file, refusal_file
from bnf.parallel.placement import Placement, check_meeting_point
from bnf.parallel.slurm import slurm_job, srun_command
from bnf.process import module_command, module_environment
from bnf.progress import Progress

WORKER = "bnf.training.worker"
# How a line on stdout begins that reports progress.
MARK = "bnf.progress "
# The kind of an error report of a process that could write none itself.
KILLED = "killed"
# How long the other nodes have to end, and to leave their reports, after the processes of this one have failed.
_LAST_WORDS_S = 20.0


@dataclass(frozen=True)
class Launch:
    """What launch.json says of a launch beside its call. `kind` is what the processes do: train or reference.

    `id` tells its files from those of an earlier launch in the same folder; None says that the launch is over.
    """

    id: str | None
    kind: str
    nproc_per_node: int
    num_nodes: int
    # HOST:PORT where the nodes meet; None where there is one.
    meeting_point: str | None
    # The launcher's code (`bnf.parallel.code`), which the other nodes must have too; None where there are none.
    code: str | None = None


def read_launch(call_file: Path) -> Launch | None:
    """The launch of a launch.json; None where there is none."""
    try:
        return Launch(**json.loads(call_file.read_text())["launch"])
    except FileNotFoundError:
        return None


def error_file(call_file: Path, launch_id: str | None, process: int) -> Path:
    """Where a process leaves why it failed, for the launcher."""
    return call_file.with_name(f"launch-{launch_id}-error-{process:05d}.json")


def launch(
    kind: str,
    call: Mapping[str, object],
    folder: Path,
    placement: Placement,
    reported: Mapping[str, type[Exception]],
    progress: Progress,
) -> None:
    """Runs the call in the processes that `placement` says, with `folder` as the place of launch.json; on several nodes all must see it.

    `reported` are the errors that are raised as what they are, by name; their message is all there is to know.

    Raises:
        ValueError: another launch is at work in the folder, nothing says where the nodes meet, they can't meet there, a node has other
            code, or the Slurm job has too few nodes.
        RuntimeError: a process failed otherwise, or a node did not come or went away.
    """
    several = placement.num_nodes > 1
    started = Launch(
        uuid4().hex[:12],
        kind,
        placement.nproc_per_node,
        placement.num_nodes,
        placement.meeting_point() if several else None,
        code_digest() if several else None,
    )
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if several and placement.rdzv_endpoint is not None:
            check_meeting_point(placement.rdzv_endpoint)
        _launch(started, call, folder / CALL_FILE, reported, progress)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Locks the folder, until its holder ends however that is: another launch would take this one's files away, and its nodes with them.

    Raises:
        ValueError: another launch is at work there.
    """
    # The folder itself is locked: a lock file would stay in it where its holder is killed.
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"output_dir must be one launch's own while it is at work, got {folder}, where another one is; take another folder, or "
                "wait for its end"
            ) from None
        except OSError as error:
            # Some network file systems lock no folder.
            print(f"launch: {folder} can't be locked ({error}): begin no other one there", file=sys.stderr, flush=True)
        yield
    finally:
        os.close(held)


def _launch(
    started: Launch, call: Mapping[str, object], call_file: Path, reported: Mapping[str, type[Exception]], progress: Progress
) -> None:
    """Writes the call where all nodes look for it, runs it, and takes the launch's files away in the end."""
    several, folder = started.num_nodes > 1, call_file.parent
    for stale in folder.glob("launch*.json"):
        # A node of that launch may be taking its own away.
        stale.unlink(missing_ok=True)
    write_json(call_file, {"launch": vars(started), **call})
    with _slurm_nodes(call_file, started) as slurm:
        try:
            others = _wait_for_nodes(call_file, started, slurm, progress) if several else _Others()
            _run(call_file, started, others, reported, progress)
        except BaseException:
            # It stays, to say what was called; nodes that look for work see that it is over.
            write_json(call_file, {"launch": {**vars(started), "id": None}, **call})
            raise
    for own in folder.glob(f"launch-{started.id}-*.json"):
        own.unlink(missing_ok=True)
    call_file.unlink()


@dataclass
class _Others:
    """The other nodes of a launch: the signs of life of each, by number, and the name of the first that gave none any more."""

    pulses: dict[int, Pulse] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    silent: str | None = None

    def name(self, number: int) -> str:
        return f"node {number} ({self.names[number] or 'without a name'})"


def _run(
    call_file: Path, started: Launch, others: _Others, reported: Mapping[str, type[Exception]], progress: Progress
) -> None:
    """Starts the processes of this node, passes their progress on, and raises what one of all failed with."""
    process = subprocess.Popen(
        module_command(WORKER, "start", str(call_file), str(os.getpid()), "0"),
        stdout=subprocess.PIPE,
        text=True,
        # For the processes that torchrun starts by itself what `-P` says.
        env=module_environment({"PYTHONSAFEPATH": "1"}),
    )
    assert process.stdout is not None
    try:
        with _watching(call_file, others, process):
            for line in process.stdout:
                if line.startswith(MARK):
                    progress(*json.loads(line[len(MARK) :]))
                else:
                    print(line, end="", file=sys.stderr)
            process.wait()
    finally:
        # Alive only where the progress was interrupted; the other processes end with the one that started them.
        process.kill()
        process.wait()
    lost = _wait_for_reports(call_file, others) if process.returncode != 0 else []
    reports = sorted(call_file.parent.glob(error_file(call_file, started.id, 0).name.replace("00000", "*")))
    errors = [json.loads(report.read_text()) for report in reports]
    # The error that says what is wrong comes before those of processes that lost their peer by it.
    for error in sorted(errors, key=lambda error: (error["kind"] not in reported, error["kind"] != KILLED)):
        if error["kind"] in reported:
            raise reported[error["kind"]](error["message"])
        raise RuntimeError("; ".join([error["message"], *lost]))
    if process.returncode != 0:
        raise RuntimeError(
            "; ".join([f"the processes must end with 0, got {process.returncode}", *lost, "their output says why"])
        )


def _wait_for_reports(call_file: Path, others: _Others) -> list[str]:
    """Waits until the other nodes have ended, and so have left their reports. Gives, in words, which did not say that they ended."""
    if others.silent is not None:
        return [f"{others.silent} gave no sign of life for {SILENT_S:.0f} s"]
    until_s = time.monotonic() + _LAST_WORDS_S
    left = list(others.pulses.values())
    while left and time.monotonic() < until_s:
        left = [pulse for pulse in left if pulse.file.exists()]
        time.sleep(0.1)
    return [f"{others.name(number)} did not say how it ended" for number, pulse in others.pulses.items() if pulse in left]


@contextmanager
def _watching(call_file: Path, others: _Others, process: subprocess.Popen[str]) -> Iterator[None]:
    """Gives signs of life meanwhile, and ends the processes of this node when another node gives none any more."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(BEAT_S):
            beat(call_file)
            for number, pulse in others.pulses.items():
                # Also of a node that ended by itself: its processes are gone, and those here may wait for them.
                if not pulse.lives():
                    others.silent = others.name(number)
                    process.kill()
                    return

    thread = threading.Thread(target=watch, daemon=True)
    if others.pulses:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if others.pulses:
            thread.join()


@dataclass(frozen=True)
class _SlurmNodes:
    """The nodes that `starter`, an srun, starts."""

    starter: subprocess.Popen[bytes]
    expected: list[str]


@contextmanager
def _slurm_nodes(call_file: Path, started: Launch) -> Iterator[_SlurmNodes | None]:
    """Starts the other nodes where this is a Slurm job that has them, and waits for their end; None where somebody else starts them."""
    job = slurm_job() if started.num_nodes > 1 else None
    if job is None or not job.starts_others():
        yield None
        return
    expected = job.others(started.num_nodes)
    command = srun_command(expected, module_command(WORKER, "join", str(call_file)))
    starter = subprocess.Popen(
        module_command(WORKER, "exec", str(os.getpid()), *command),
        # The progress of this process may be on its stdout.
        stdout=sys.__stderr__,
        env=module_environment(),
    )
    try:
        yield _SlurmNodes(starter, expected)
    finally:
        # The other nodes have ended, or end as soon as they see that the launch is over.
        with suppress(subprocess.TimeoutExpired):
            starter.wait(timeout=_LAST_WORDS_S)
        starter.kill()
        starter.wait()


def _wait_for_nodes(call_file: Path, started: Launch, slurm: _SlurmNodes | None, progress: Progress) -> _Others:
    """Waits until every other node has taken its number.

    Raises:
        ValueError: one has other code than this one.
        RuntimeError: one did not within `WAIT_S`, or srun ended before.
    """
    assert started.id is not None
    how = f"run `bnf join`, or `python -m bnf.join {call_file.parent}`, on each of the others"
    until_s, reported = time.monotonic() + WAIT_S, -1
    while True:
        beat(call_file)
        if (refused := refusal_file(call_file, started.id)).is_file():
            raise ValueError(refused.read_text())
        names = joined(call_file, started.id, started.num_nodes)
        if len(names) == started.num_nodes - 1:
            files = {number: node_file(call_file, started.id, number) for number in names}
            return _Others({number: Pulse(file) for number, file in files.items()}, names)
        if len(names) != reported:
            reported = len(names)
            note = f"of {started.num_nodes} nodes are here" + ("" if slurm else f"; {how}")
            progress(1 + reported, started.num_nodes, note)
            if slurm is None:
                print(f"launch: {1 + reported} {note}", file=sys.stderr, flush=True)
        here = ", ".join(names.values()) or "none"
        if slurm is not None and slurm.starter.poll() is not None:
            raise RuntimeError(
                f"srun must start the other nodes ({', '.join(slurm.expected)}), got exit {slurm.starter.returncode} (here: {here}); "
                "its output says why"
            )
        if time.monotonic() > until_s:
            missing = started.num_nodes - 1 - len(names)
            which = f", expected: {', '.join(slurm.expected)}" if slurm else ""
            raise RuntimeError(
                f"{started.num_nodes} nodes must come within {WAIT_S:.0f} s, got {missing} too few (here beside this one: "
                f"{here}{which}); {how}, where {call_file.parent} must be the same folder"
            )
        time.sleep(min(0.5, BEAT_S))
