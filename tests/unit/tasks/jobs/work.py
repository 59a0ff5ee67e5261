"""Jobs that the child-process tests run: each `do` of the settings is one way for a stage to go."""

import atexit
import gc
import os
import resource
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

ORDER = 0
READS: dict[str, str] = {}
CONTENT = ("out.txt",)
ACCELERATOR = True
MEMORY_REMEDY = "lower train.max_tokens_per_row"
calls = 0
kept: Any = None


class Slow:
    """What Python would free at its end, in a minute."""

    def __del__(self):
        time.sleep(60)


def run(job):
    global calls, kept
    calls += 1
    what = job.settings["do"]
    if what == "write":
        print("a line of output")
        job.progress(1, 2, "half")
        job.progress(2, 2, "whole")
        (job.output / "out.txt").write_text(f"{calls} {os.getpid()}")
    elif what == "meet":
        # Goes on once as many are here as are expected.
        place = Path(job.settings["place"])
        (place / f"{job.settings['number']}").write_text(str(os.getpid()))
        while len(list(place.iterdir())) < job.settings["expected"]:
            time.sleep(0.02)
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        (job.output / "out.txt").write_text(f"{os.getpid()} {cores} {job.settings['number']}")
    elif what == "refuse":
        raise ValueError("limit must be positive, got -1; leave it out")
    elif what == "fill":
        with open("/dev/full", "w") as disk:
            disk.write("x")
    elif what == "swell":
        # It may take 64 MiB more than it has, as in a container that is full.
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + (64 << 20), resource.RLIM_INFINITY))
        bytearray(1 << 30)
    elif what == "lose connection":
        raise ConnectionResetError("the peer is gone")
    elif what == "raise":
        raise RuntimeError("something broke")
    elif what == "die":
        print("about to die", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "hold itself":
        gc.disable()
        held = type("Held", (), {})()
        held.own = held
        kept = weakref.ref(held)
    elif what == "look":
        (job.output / "out.txt").write_text("gone" if kept() is None else "there")
    elif what == "keep":
        kept = Slow()
        atexit.register((job.output / "ended").write_text, "by the library")
    elif what == "take memory":
        held = bytearray(150 << 20)
        del held
        (job.output / "out.txt").write_text("taken and given back")
    elif what == "take memory in a process of its own":
        command = "x = bytearray(150 << 20); input()"
        helper = subprocess.Popen([sys.executable, "-c", command], stdin=subprocess.PIPE)
        pages = (150 << 20) // os.sysconf("SC_PAGE_SIZE")
        while int(Path(f"/proc/{helper.pid}/statm").read_text().split()[1]) < pages:
            time.sleep(0.02)
        (job.output / "out.txt").write_text("held")
    elif what == "exit":
        os._exit(7)
    elif what == "hang":
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        (job.output / "pids").write_text(f"{os.getpid()} {helper.pid}")
        time.sleep(300)
