"""A node that is not the launcher's: it waits for launches in some folders, takes a number, and runs its share of the processes."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from bnf.parallel.code import code_digest
from bnf.parallel.launch import WORKER, Launch, read_launch
from bnf.parallel.nodes import CALL_FILE, SILENT_S, Pulse, beat, claim, node_file, refusal_file
from bnf.process import module_command, module_environment

_LOOK_S = 0.5
# How long the processes of this node have to end by themselves once the launch is over.
_GRACE_S = 30.0


def calls_in(folders: Iterable[Path]) -> Iterator[Path]:
    """Every launch.json of these output folders: that of the training or the pass itself, and of a pass below it."""
    for folder in folders:
        yield from (folder / CALL_FILE, *folder.glob(f"*/{CALL_FILE}"))


def join(find: Callable[[], Iterable[Path]], *, stay: bool = False) -> int:
    """Joins the launches whose launch.json `find` gives, one after another. It waits for them as long as it takes.

    Ends with 0 after the first training, and with 1 where a training or a reference pass failed; with `stay` it goes on in both cases,
    for as long as nobody ends it.
    """
    pulses: dict[tuple[Path, str], Pulse] = {}
    done: set[str] = set()
    while True:
        for call_file in find():
            launch = _read(call_file)
            if launch is None or launch.id is None or launch.num_nodes == 1 or launch.id in done:
                continue
            # A launcher that was killed left its file too: one that lives touches it.
            if not pulses.setdefault((call_file, launch.id), Pulse(call_file)).has_beaten():
                continue
            if (other := other_code(call_file, launch)) is not None:
                _say(other)
                done.add(launch.id)
                if not stay:
                    return 1
                continue
            number = claim(call_file, launch.id, launch.num_nodes)
            if number is None:
                continue
            done.add(launch.id)
            code = join_one(call_file, launch, number)
            if not stay and (code or launch.kind == "train"):
                return code
        time.sleep(_LOOK_S)


def other_code(call_file: Path, launch: Launch) -> str | None:
    """What is wrong where this node's code isn't that of the first node, which is told too; None where it is the same."""
    own = code_digest()
    if launch.id is None or launch.code in (None, own):
        return None
    message = (
        f"every node must have the code of the first one ({launch.code}), got {own} on {socket.gethostname()}; bring it to the same "
        "checkout and environment, and start both again"
    )
    refusal_file(call_file, launch.id).write_text(message)
    return message


def join_one(call_file: Path, launch: Launch, number: int) -> int:
    """Runs this node's processes of a launch as the node `number`. Gives 0 where they ended well, else 1."""
    assert launch.id is not None
    own = node_file(call_file, launch.id, number)
    _say(f"joined {launch.kind} in {call_file.parent} as node {number} of {launch.num_nodes}")
    process = subprocess.Popen(
        module_command(WORKER, "start", str(call_file), str(os.getpid()), str(number)),
        env=module_environment({"PYTHONSAFEPATH": "1"}),
    )
    try:
        launcher = Pulse(call_file)
        over_s: float | None = None
        while process.poll() is None:
            beat(own)
            if _is_over(call_file, launch.id):
                # Well or badly. So are, a moment later, the processes here.
                over_s = time.monotonic() if over_s is None else over_s
                if time.monotonic() - over_s > _GRACE_S:
                    _say("the launch is over, and the processes of this node did not end; ended them")
                    return 1
            else:
                over_s = None
                if not launcher.lives():
                    _say(f"the launcher gave no sign of life for {SILENT_S:.0f} s; ended the processes of this node")
                    return 1
            time.sleep(_LOOK_S)
        if process.returncode:
            _say(f"{launch.kind} failed; the first node says why")
        return 1 if process.returncode else 0
    finally:
        process.kill()
        process.wait()
        own.unlink(missing_ok=True)


def _is_over(call_file: Path, launch_id: str) -> bool:
    """Whether the launch has ended. A file system that is away for a moment doesn't say so."""
    try:
        launch = read_launch(call_file)
    except (OSError, json.JSONDecodeError):
        return False
    return launch is None or launch.id != launch_id


def _read(call_file: Path) -> Launch | None:
    # A network file system may show a file that has just been replaced as stale.
    with contextlib.suppress(OSError, json.JSONDecodeError):
        return read_launch(call_file)
    return None


def _say(words: str) -> None:
    print(f"join: {words}", file=sys.stderr, flush=True)
