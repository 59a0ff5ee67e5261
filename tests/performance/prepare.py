"""`prepare` on a million pairs: seconds, CPU seconds of each phase, peak memory, and the digest of what it writes.

    python -m tests.performance.prepare --pairs 1000000 [--with one pool-2 ray-2] [--repeat 1] [--json]

`one` renders in the process itself, `pool-N` in N processes on this machine, `ray-N` in N actors of a Ray of its own. The pairs are made
of a fixed list of words, the same in each run: 2 % are said twice, one in five repeats the prompt of another, 3 % are ties, and half are
masked. Each preparation runs in a process of its own.

Memory is PSS: a page that several processes share counts once. `driver` is the process that prepares, `others` all that it started; each
is the highest of samples taken every half second. CPU seconds of `rendering` are those of the other processes, their start included,
`reading` what the driver spends on reading records and passing them on; `one` does both at once. The files' pages in the system's cache
count for none.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tasks.execute import machine
from tasks.keys import ROOT

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct"
SAMPLE_INTERVAL_S = 0.5
PHASES = ("rendering", "reading", "staging", "resolution", "selection", "writing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--with", dest="ways", nargs="+", default=["one", "pool-2", "ray-2"])
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], Path(options.one[1]))))
        return
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in options.ways}
    with tempfile.TemporaryDirectory() as folder:
        file = write_pairs(Path(folder) / "pairs.jsonl", options.pairs)
        for _ in range(options.repeat):
            for way, found in runs.items():
                found.append(in_a_process_of_its_own(way, file))
                print(json.dumps({"pairs": options.pairs, "way": way, **found[-1]}), file=sys.stderr)
    results = [{"way": way, **summary(found)} for way, found in runs.items()]
    if options.json:
        print(json.dumps({"machine": machine(), "pairs": options.pairs, "results": results}, indent=2))
        return
    first = next(iter(runs.values()))[0]
    print(f"{machine()}, {options.pairs} pairs, {first['tokens']} tokens, {first['output_bytes'] / 1e6:.0f} MB written\n")
    print(f"| | wall s | {' | '.join(f'{phase}, CPU s' for phase in PHASES)} | driver MiB | others MiB | digest |")
    print("|---" * (len(PHASES) + 5) + "|")
    for result in results:
        phases = " | ".join(f"{result[phase]:.0f}" for phase in PHASES)
        low, high = result["wall_s_range"]
        print(
            f"| {result['way']} | {result['wall_s']:.0f} ({low:.0f} … {high:.0f}) | {phases} | {result['driver_mib']:.0f} "
            f"| {result['others_mib']:.0f} | {', '.join(result['digests'])} |"
        )


def write_pairs(file: Path, num_pairs: int) -> Path:
    """A JSON Lines file of so many pairs, always the same."""
    with file.open("w") as written:
        for row in pairs(num_pairs):
            written.write(json.dumps(row) + "\n")
    return file


def pairs(num_pairs: int) -> Iterator[dict[str, Any]]:
    text = (ROOT / "data" / "samples" / "pairs.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    drawn = random.Random(0)
    words = " ".join(row["chosen"] for row in rows).split()
    words = drawn.choices(words, k=200_000)

    def some(least: int, most: int) -> str:
        number, start = drawn.randint(least, most), drawn.randrange(len(words) - most)
        return " ".join(words[start : start + number])

    kept: list[dict[str, Any]] = []
    for number in range(num_pairs):
        if kept and number % 50 == 49:
            yield drawn.choice(kept)
            continue
        row = {
            "prompt": drawn.choice(kept)["prompt"] if kept and number % 5 == 4 else f"{number}. {some(6, 20)}",
            "chosen": some(4, 28),
            "rejected": some(4, 28),
            "score_chosen": 7.0,
            "score_rejected": 7.0 if number % 33 == 32 else 4.0,
        }
        # Rows that are repeated lie anywhere before, and only some are kept for it.
        if len(kept) < 1000:
            kept.append(row)
        else:
            kept[drawn.randrange(1000)] = row
        yield row


def in_a_process_of_its_own(way: str, file: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.performance.prepare", "--one", way, str(file)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(way: str, file: Path) -> dict[str, Any]:
    from data.preparing import prepare
    from data.preparing.config import PrepareConfig
    from data.preparing.ledger import Ledger
    from data.preparing.staging import Staging
    from data.reading.records import DataSource

    kind, _, number = way.partition("-")
    spent: Counter[str] = Counter()
    count = _counter(spent)
    Staging.add = count("staging", Staging.add)  # type: ignore[method-assign]
    Staging.set_row_outcomes = count("selection", Staging.set_row_outcomes)  # type: ignore[method-assign]
    Ledger.write = count("writing", Ledger.write)  # type: ignore[method-assign]
    named: Any = prepare
    for name, phase in (
        ("resolve_all", "resolution"),
        ("select", "selection"),
        ("mark_sides_still_there", "selection"),
        ("write_groups", "writing"),
    ):
        setattr(named, name, count(phase, getattr(named, name)))
    ray = "local" if kind == "ray" else None
    config = PrepareConfig(pairing="all", mask_fraction=0.5, flip_fraction=0.02, dev_fraction=0.02, seed=1)
    with tempfile.TemporaryDirectory() as name, Memory() as memory:
        folder = Path(name) / "out"
        started_s = time.monotonic()
        prepare.prepare_sources(
            [DataSource("ultrafeedback", str(file))],
            MODEL,
            folder,
            config,
            num_proc=int(number or 1),
            ray=ray,
            progress=lambda *_: None,
        )
        wall_s = time.monotonic() - started_s
        counts = json.loads((folder / "ledger.json").read_text())
        digest = hashlib.sha256()
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in files:
            with path.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        output_bytes = sum(path.stat().st_size for path in files)
    # What the driver does beside the phases is to read, and to pass rows on. Alone it renders there, too.
    beside_s = sum(os.times()[:2]) - sum(spent.values()) - memory.own_cpu_s
    rendering_s, reading_s = (memory.others_cpu_s, beside_s) if number else (beside_s, 0.0)
    return {
        "wall_s": wall_s,
        "rendering": rendering_s,
        "reading": reading_s,
        **{phase: spent[phase] for phase in PHASES[2:]},
        **memory.peaks,
        "tokens": counts["prompt_tokens"] + counts["completion_tokens"],
        "output_bytes": output_bytes,
        "digest": digest.hexdigest()[:12],
    }


def _counter(spent: Counter[str]) -> Callable[[str, Callable[..., Any]], Callable[..., Any]]:
    """What makes of a function one whose CPU seconds, those of this thread, count for a phase."""

    def count(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def counted(*arguments: Any, **named: Any) -> Any:
            started_s = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                spent[phase] += time.thread_time() - started_s  # type: ignore[assignment]

        return counted

    return count


class Memory:
    """Samples the memory of this process and of all that it starts, as long as the block runs, and the CPU seconds of the latter."""

    def __init__(self) -> None:
        self.peaks = {"driver_mib": 0.0, "others_mib": 0.0}
        self.own_cpu_s = 0.0
        self._cpu_s: dict[int, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def others_cpu_s(self) -> float:
        return sum(self._cpu_s.values())

    def _watch(self) -> None:
        import psutil

        own = psutil.Process()
        while not self._ended.wait(SAMPLE_INTERVAL_S):
            others = 0.0
            for child in own.children(recursive=True):
                others += _pss_mib(child.pid)
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._cpu_s[child.pid] = sum(child.cpu_times()[:2])
            for name, value in (("driver_mib", _pss_mib(own.pid)), ("others_mib", others)):
                self.peaks[name] = max(self.peaks[name], value)
            # To ask the system for this takes CPU time, too.
            self.own_cpu_s = time.thread_time()


def _pss_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    wall = [run["wall_s"] for run in runs]
    return {
        **{name: statistics.median(run[name] for run in runs) for name in ("wall_s", *PHASES)},
        "wall_s_range": [min(wall), max(wall)],
        **{name: max(run[name] for run in runs) for name in ("driver_mib", "others_mib")},
        "digests": sorted({run["digest"] for run in runs}),
    }


if __name__ == "__main__":
    main()
