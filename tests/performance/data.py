"""Preparing pairs: CPU seconds, rows per second and peak memory, beside TRL's preparation of the same rows. Reading them: memory and
seconds, beside the same groups as tuples of Python numbers.

    python -m tests.performance.data [--rows 2000 20000] [--num-proc 1] [--repeat 3] [--json]
    python -m tests.performance.data --groups 100000 [--repeat 3] [--json]

The rows are real pairs of UltraFeedback (BNF_TEST_DATA), repeated with a number before each prompt, or the project's own without.
Both read the same JSON Lines file of messages and write what they make to disk; the libraries' imports are not counted. Memory is that
of all processes together, above what the imports take. Alternating, each in a process of its own; median and range are given.
What is read are the groups of a thousand such pairs, repeated under other ids. Of memory, `resident` counts the pages of the mapped file
too, which all processes share and the system takes back at need; `own` is what each process has for itself.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tasks.execute import machine
from tasks.keys import ROOT

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct"
REAL = "preference/ultrafeedback_binarized.train_clean.1000.jsonl.gz"
SAMPLE_INTERVAL_S = 0.1
# What is measured of a reader of groups, in the order of the table.
READING = ("first_group_s", "all_groups_s", "resident_bytes_per_token", "own_bytes_per_token", "peak_bytes_per_token")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--groups", type=int, help="measure reading so many groups instead")
    parser.add_argument("--num-proc", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        what, file = options.one
        if what in READERS:
            print(json.dumps(measure_reading(READERS[what], Path(file))))
        else:
            print(json.dumps(measure({"bnf": prepare_with_bnf, "trl": prepare_with_trl}[what], Path(file), options.num_proc)))
        return
    if options.groups:
        compare_reading(options.groups, options.repeat, as_json=options.json)
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for num_rows in options.rows:
            file = write_rows(Path(folder) / f"{num_rows}.jsonl", num_rows)
            runs: dict[str, list[dict[str, float]]] = {"bnf": [], "trl": []}
            for _ in range(options.repeat):
                for what, found in runs.items():
                    found.append(in_a_process_of_its_own(what, file, options.num_proc))
                    print(json.dumps({"rows": num_rows, "what": what, **found[-1]}), file=sys.stderr)
            results += [{"what": what, "rows": num_rows, **summary(found, num_rows)} for what, found in runs.items()]
            file.unlink()
    if options.json:
        print(json.dumps({"machine": machine(), "num_proc": options.num_proc, "results": results}, indent=2))
        return
    print(f"{machine()}, {options.num_proc} processes\n")
    print("| | rows | CPU s (range) | rows per CPU second | wall s | peak memory above the imports, MiB |")
    print("|---|---|---|---|---|---|")
    for result in results:
        low, high = result["cpu_s_range"]
        print(
            f"| {result['what']} | {result['rows']} | {result['cpu_s']:.1f} ({low:.1f} … {high:.1f}) | {result['rows_per_cpu_s']:.0f} "
            f"| {result['wall_s']:.1f} | {result['peak_mib']:.0f} |"
        )


def compare_reading(num_groups: int, repeat: int, *, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        write_many_groups(Path(name), num_groups)
        runs: dict[str, list[dict[str, float]]] = {what: [] for what in READERS}
        for _ in range(repeat):
            for what, found in runs.items():
                found.append(in_a_process_of_its_own(what, Path(name), 1))
    results = {what: {key: statistics.median(run[key] for run in found) for key in READING} for what, found in runs.items()}
    num_tokens = int(runs["mapped"][0]["tokens"])
    if as_json:
        print(json.dumps({"machine": machine(), "groups": num_groups, "tokens": num_tokens, "results": results}, indent=2))
        return
    print(f"{machine()}, {num_groups} groups of {num_tokens} tokens\n")
    print("| | first group, s | all groups, s | resident, bytes a token | own, bytes a token | peak, bytes a token |")
    print("|---|---|---|---|---|---|")
    for what, values in results.items():
        print(f"| {what} | " + " | ".join(f"{values[key]:.2f}" for key in READING) + " |")


def write_many_groups(folder: Path, num_groups: int) -> None:
    """Writes prepared pairs into `folder`, again under other ids until there are so many."""
    from bnf.data.groups import GroupsWriter, read_groups

    prepare_with_bnf(write_rows(folder / "pairs.jsonl", min(num_groups, 1000)), folder / "prepared", 1)()
    groups = read_groups(folder / "prepared")
    with GroupsWriter(folder) as writer:
        for number in range(num_groups):
            group = groups[number % len(groups)]
            writer.add(replace(group, id=f"{number}-{group.id}"))


def read_mapped(folder: Path) -> Sequence[Any]:
    from bnf.data.groups import read_groups

    return read_groups(folder)


def read_as_tuples(folder: Path) -> Sequence[Any]:
    """What groups take whose tokens are Python numbers, one for each token."""
    return [
        SimpleNamespace(
            num_tokens=group.num_tokens,
            prompt_ids=tuple(group.prompt_ids),
            completions=[(tuple(one.token_ids), one.label, one.score, one.source) for one in group.completions],
        )
        for group in read_mapped(folder)
    ]


READERS = {"mapped": read_mapped, "tuples": read_as_tuples}


def measure_reading(read: Callable[[Path], Sequence[Any]], folder: Path) -> dict[str, float]:
    """Seconds to the first group and through all of them once more, and by how much the process's memory grew, per token."""
    import bnf.data.groups  # noqa: F401

    def memory() -> dict[str, int]:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        names = {"resident": "VmRSS", "own": "RssAnon", "peak": "VmHWM"}
        return {name: int(lines[key].split()[0]) * 1024 for name, key in names.items()}

    before = memory()
    started_s = time.monotonic()
    groups = read(folder)
    groups[0]
    first_s = time.monotonic() - started_s
    started_s = time.monotonic()
    num_tokens = sum(group.num_tokens for group in groups)
    all_s = time.monotonic() - started_s
    after = memory()
    growth = {f"{name}_bytes_per_token": (after[name] - before[name]) / num_tokens for name in before}
    return {"first_group_s": first_s, "all_groups_s": all_s, "tokens": num_tokens, **growth}


def write_rows(file: Path, num_rows: int) -> Path:
    """A JSON Lines file of so many different pairs, as messages."""
    real = Path(os.environ.get("BNF_TEST_DATA", "nowhere")) / REAL
    data = gzip.decompress(real.read_bytes()) if real.exists() else (ROOT / "data" / "samples" / "pairs.jsonl").read_bytes()
    pairs = [pair for pair in map(json.loads, data.splitlines()) if pair["chosen"].strip() and pair["rejected"].strip()]
    with file.open("w") as written:
        for number in range(num_rows):
            pair = pairs[number % len(pairs)]
            row = {"prompt": [{"role": "user", "content": f"{number}. {pair['prompt']}"}]}
            row |= {side: [{"role": "assistant", "content": pair[side]}] for side in ("chosen", "rejected")}
            written.write(json.dumps(row) + "\n")
    return file


def in_a_process_of_its_own(what: str, file: Path, num_proc: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.performance.data", "--one", what, str(file), "--num-proc", str(num_proc)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "HF_DATASETS_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(prepare: Callable[[Path, Path, int], Callable[[], int]], file: Path, num_proc: int) -> dict[str, float]:
    """CPU and wall seconds, and peak memory of this process and its children, of what `prepare` gives to be run."""
    import psutil

    with tempfile.TemporaryDirectory() as folder:
        run = prepare(file, Path(folder), num_proc)
        own = psutil.Process()
        before, peak, ended = own.memory_info().rss, 0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not ended.wait(SAMPLE_INTERVAL_S):
                resident = 0
                for process in (own, *own.children(recursive=True)):
                    try:
                        resident += process.memory_info().rss
                    except psutil.NoSuchProcess:
                        continue
                peak = max(peak, resident)

        watcher = threading.Thread(target=watch)
        started_s, cpu_s = time.monotonic(), _cpu_s()
        watcher.start()
        num_tokens = run()
        ended.set()
        watcher.join()
        return {
            "cpu_s": _cpu_s() - cpu_s,
            "wall_s": time.monotonic() - started_s,
            "peak_mib": (peak - before) / (1 << 20),
            "tokens": num_tokens,
        }


def prepare_with_bnf(file: Path, output_dir: Path, num_proc: int) -> Callable[[], int]:
    import bnf.data.rendering  # noqa: F401
    from data.preparing.config import PrepareConfig
    from data.preparing.prepare import prepare_sources
    from data.reading.records import DataSource

    config = PrepareConfig(pairing="all", max_length=1 << 20, max_prompt_length=1 << 20)

    def run() -> int:
        prepare_sources(
            [DataSource("pairs", str(file))], MODEL, output_dir, config, num_proc=num_proc, progress=lambda *_: None
        )
        counts = json.loads((output_dir / "ledger.json").read_text())
        return int(counts["prompt_tokens"] + counts["completion_tokens"])

    return run


def prepare_with_trl(file: Path, output_dir: Path, num_proc: int) -> Callable[[], int]:
    """DPOTrainer's own preparation, without a trainer around it."""
    import datasets
    from trl import DPOConfig, DPOTrainer

    from bnf.data.rendering import load_tokenizer

    datasets.disable_progress_bars()
    tokenizer = load_tokenizer(MODEL)
    arguments = DPOConfig(
        output_dir=str(output_dir), max_length=None, bf16=False, dataset_num_proc=num_proc if num_proc > 1 else None
    )

    def run() -> int:
        rows = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(output_dir))
        trainer: Any = SimpleNamespace(_tokenizer=tokenizer)
        prepared = DPOTrainer._prepare_dataset(trainer, rows, tokenizer, arguments, "train")
        columns = ("prompt_ids", "chosen_ids", "rejected_ids")
        return sum(len(ids) for batch in prepared.select_columns(columns).iter(1000) for name in columns for ids in batch[name])

    return run


def summary(runs: list[dict[str, float]], num_rows: int) -> dict[str, Any]:
    cpu = [run["cpu_s"] for run in runs]
    return {
        "cpu_s": statistics.median(cpu),
        "cpu_s_range": [min(cpu), max(cpu)],
        "rows_per_cpu_s": num_rows / statistics.median(cpu),
        "wall_s": statistics.median(run["wall_s"] for run in runs),
        "peak_mib": max(run["peak_mib"] for run in runs),
        "tokens": runs[0]["tokens"],
    }


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
