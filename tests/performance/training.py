"""Training steps and reference passes side by side: BNF, SFT and TRL on the same real pairs.

    python -m tests.performance.training [--repeats 7] [--pairs 2] [--dtypes bf16 fp32] [--against trl_dpo …] \
        [--plot docs/images/scaling.svg] [--json]

Every contender runs in a process of its own on one thread, BNF beside one other at a time; they step in turn on the same micro-batch,
so that whatever else the machine does hits both, and ratios are taken within a turn. SFT on the same rows shares BNF's process: two
processes that do the same differ by some percent, which is more than these two do. First every batch once for its memory, the peak
above what was resident before the step, with nothing kept from the step before. Then every batch once for nothing, and once for its
time, as a training has it after its first steps: CPU seconds of forward and backward pass. Pairs are real where `BNF_TEST_DATA`
names the folder, else the project's own samples. On CUDA the same runs there, and wall seconds stand in place of CPU seconds.

The limit of a step is what its matrix products would take at the best rate that the machine has for any of them: the floating-point
operations that the batch needs with every prompt once, no masked score, no logits of prompts and nothing computed twice
(`tests.performance.flops`), over the fastest of a few products in the same dtype on the same threads, measured in BNF's process before each
of its steps.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from bnf.data.packing import Span
from tasks.execute import machine
from tasks.keys import ROOT
from tests.performance.flops import Flops, step_flops

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct"
STEPS = ("sft_packed", "sft_padded", "trl_sft", "trl_dpo")
REFERENCES = ("bnf_reference", "trl_reference")
MAX_TOKENS = 600
COMPLETIONS = (1, 2, 3, 4, 6, 8)
Batch = list[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--pairs", type=int, default=2, help="of one micro-batch")
    parser.add_argument("--dtypes", nargs="+", choices=("bf16", "fp32"), default=["bf16", "fp32"])
    parser.add_argument("--against", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--plot", type=Path, help="draw time and memory against the number of completions into this file")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    source, groups = pairs()
    batches = [groups[index : index + options.pairs] for index in range(0, options.pairs * options.repeats, options.pairs)]
    figures: dict[str, Any] = {"machine": machine(), "data": {"source": source, **shares(batches)}}
    for dtype in options.dtypes:
        beside = {
            name: in_turn(("bnf", name), batches, bf16=dtype == "bf16", one_process=name == "sft_packed", limited=True)
            for name in options.against
        }
        steps = {"bnf": [step for taken in beside.values() for step in taken["bnf"]], **{n: beside[n][n] for n in beside}}
        references = in_turn(REFERENCES, batches, bf16=dtype == "bf16")
        figures[dtype] = {
            "steps": {name: spread(values) for name, values in steps.items()},
            "limits": {name: multiple(values) for name, values in steps.items()},
            "ratios": {f"bnf_to_{name}": ratio(taken["bnf"], taken[name]) for name, taken in beside.items()},
            "reference": {name: spread(values) for name, values in references.items()},
            "reference_speedup": ratio(references["trl_reference"], references["bnf_reference"]),
        }
    figures["scaling"] = scaling(groups, options.repeats)
    if options.plot:
        plot(figures["scaling"], options.plot)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        show(figures, options.dtypes)


def pairs() -> tuple[str, Batch]:
    """Real pairs as token ids, in a seeded order, none longer than `MAX_TOKENS` with its prompt."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    folder = os.environ.get("BNF_TEST_DATA")
    if folder:
        source = "llamafactory.dpo_en_demo"
        with gzip.open(Path(folder) / "preference" / f"{source}.json.gz", "rt") as file:
            roles = {"human": "user", "gpt": "assistant", "system": "system"}
            rows = [
                (
                    [{"role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"]],
                    [row["chosen"]["value"], row["rejected"]["value"]],
                )
                for row in json.load(file)
            ]
    else:
        source = "data/samples/pairs.jsonl"
        lines = [json.loads(line) for line in (ROOT / source).read_text().splitlines()]
        rows = [([{"role": "user", "content": row["prompt"]}], [row["chosen"], row["rejected"]]) for row in lines]
    random.Random(0).shuffle(rows)
    groups = []
    for messages, texts in rows:
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        completions = [tokenizer(text + tokenizer.eos_token)["input_ids"] for text in texts]
        if all(len(prompt) + len(completion) <= MAX_TOKENS for completion in completions):
            groups.append({"prompt": prompt, "completions": completions})
    return source, groups


def shares(batches: Sequence[Batch]) -> dict[str, float]:
    """What of the padded tokens is real, and of the real ones the prompt's share: it is what sharing prompts saves."""
    groups = [group for batch in batches for group in batch]
    sizes = [[len(g["prompt"]) + len(c) for g in batch for c in g["completions"]] for batch in batches]
    real = sum(map(sum, sizes))
    prompts = sum(len(group["prompt"]) * len(group["completions"]) for group in groups)
    return {
        "pairs": len(groups),
        "padded_tokens": sum(max(lengths) * len(lengths) for lengths in sizes),
        "real_tokens": real,
        "unique_tokens": real - sum(len(group["prompt"]) * (len(group["completions"]) - 1) for group in groups),
        "prompt_share": prompts / real,
    }


def needed_flops(batch: Batch) -> Flops:
    """What BNF's step on a batch needs at least."""
    spans = []
    start = 0
    for group in batch:
        spans.append(Span(start, len(group["prompt"]), tuple(map(len, group["completions"]))))
        start = spans[-1].stop
    return step_flops(AutoConfig.from_pretrained(MODEL), spans)


class Process:
    """A process of one contender or more, which steps when it is told to."""

    def __init__(self, names: Sequence[str], batches: Sequence[Batch], *, bf16: bool) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.performance.contenders", *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
        self._tell({"model": str(MODEL), "batches": batches, "bf16": bf16})
        self._hear()

    def step(self, name: str, index: int, *, peak: bool) -> dict[str, float]:
        """A contender's step on a batch, for its memory or for its time."""
        self._tell({"name": name, "batch": index, "peak": peak})
        return self._hear()

    def rate(self, index: int) -> float:
        """Floating-point operations a second of the fastest matrix product."""
        self._tell({"rate": True, "batch": index})
        return self._hear()["flops_per_s"]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _tell(self, what: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    def _hear(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} must answer, got exit {self.process.wait()}; run it by hand")
        answer: dict[str, float] = json.loads(line)
        return answer


def in_turn(
    names: Sequence[str], batches: Sequence[Batch], *, bf16: bool, one_process: bool = False, limited: bool = False
) -> dict[str, list[dict[str, float]]]:
    """Every contender's step on every batch, one after the other: once for its memory, once to warm up, once for its time; where
    `limited`, with the least seconds that the first contender's step could take.
    """
    processes: dict[str, Process] = {}
    for together in [names] if one_process else [[name] for name in names]:
        processes |= dict.fromkeys(together, Process(together, batches, bf16=bf16))
    peaks = {
        name: [process.step(name, index, peak=True) for index in range(len(batches))] for name, process in processes.items()
    }
    for name, process in processes.items():
        for index in range(len(batches)):
            process.step(name, index, peak=False)
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for index in range(len(batches)):
        # The first of a turn may find things otherwise than the second.
        for name in names if index % 2 else names[::-1]:
            taken[name].append(peaks[name][index] | processes[name].step(name, index, peak=False))
        if limited:
            limit_s = needed_flops(batches[index]).total / processes[names[0]].rate(index)
            for name in names:
                taken[name][-1]["limit_s"] = limit_s
        print(f"  {index + 1}/{len(batches)}", {n: round(v[-1]["cpu_s"], 2) for n, v in taken.items()}, file=sys.stderr)
    for process in set(processes.values()):
        process.close()
    return taken


def spread(steps: Sequence[dict[str, float]]) -> dict[str, float]:
    seconds, peaks = [step["cpu_s"] for step in steps], [step["peak_bytes"] for step in steps]
    return {
        "cpu_s": statistics.median(seconds),
        "cpu_s_min": min(seconds),
        "cpu_s_max": max(seconds),
        "peak_mb": statistics.median(peaks) / 1e6,
    }


def ratio(of: Sequence[dict[str, float]], to: Sequence[dict[str, float]]) -> dict[str, float]:
    """Median and range over the turns of the ratio of CPU seconds, and of the peaks."""
    seconds = [a["cpu_s"] / b["cpu_s"] for a, b in zip(of, to, strict=True)]
    peaks = [a["peak_bytes"] / b["peak_bytes"] for a, b in zip(of, to, strict=True)]
    return {
        "cpu": statistics.median(seconds),
        "cpu_min": min(seconds),
        "cpu_max": max(seconds),
        "peak": statistics.median(peaks),
    }


def multiple(steps: Sequence[dict[str, float]]) -> dict[str, float]:
    """Median and range of the steps' CPU seconds as multiples of their turn's limit, and the median limit."""
    multiples = [step["cpu_s"] / step["limit_s"] for step in steps]
    return {
        "limit_s": statistics.median(step["limit_s"] for step in steps),
        "multiple": statistics.median(multiples),
        "multiple_min": min(multiples),
        "multiple_max": max(multiples),
    }


def scaling(groups: Batch, repeats: int) -> list[dict[str, float]]:
    """BNF's time and memory with 1 to 8 completions of one prompt, all of the same length."""
    prompt = next(group["prompt"] for group in groups if len(group["prompt"]) >= 150)[:150]
    text = [token for group in groups for completion in group["completions"] for token in completion]
    completions = [text[100 * index : 100 * index + 100] for index in range(max(COMPLETIONS))]
    batches = [[{"prompt": prompt, "completions": completions[:number]}] for number in COMPLETIONS]
    process = Process(["bnf"], batches, bf16=True)
    peaks = [process.step("bnf", index, peak=True) for index in range(len(batches))]
    for index in range(len(batches)):
        process.step("bnf", index, peak=False)
    taken = [[process.step("bnf", index, peak=False) for index in range(len(batches))] for _ in range(repeats)]
    process.close()
    return [
        {"completions": number, "unique_tokens": 150 + 100 * number, **spread([turn[place] | peaks[place] for turn in taken])}
        for place, number in enumerate(COMPLETIONS)
    ]


def plot(points: Sequence[dict[str, float]], path: Path) -> None:
    """Time and memory against unique tokens, each with the line through its first and last point."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    tokens = [point["unique_tokens"] for point in points]
    for panel, key, label in zip(panels, ("cpu_s", "peak_mb"), ("CPU seconds a step", "peak above the model, MB"), strict=True):
        values = [point[key] for point in points]
        panel.plot([tokens[0], tokens[-1]], [values[0], values[-1]], color="#bbbbbb", linewidth=1)
        panel.plot(tokens, values, "o", color="#2060a0")
        panel.set(xlabel="unique tokens (a prompt of 150 and 1 to 8 completions of 100)", ylabel=label, ylim=(0, None))
        panel.spines[["top", "right"]].set_visible(False)
        panel.xaxis.label.set_size(8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def show(figures: dict[str, Any], dtypes: Sequence[str]) -> None:
    data = figures["data"]
    print(f"{figures['machine']}\n{data['source']}: {data['pairs']} pairs, {data['padded_tokens']} padded tokens, ", end="")
    print(f"{data['real_tokens']} real, {data['unique_tokens']} unique; prompt share {100 * data['prompt_share']:.0f} %")
    for dtype in dtypes:
        found = figures[dtype]
        print(f"\n| {dtype} step | CPU s, median (range) | times the limit | BNF against it | peak above the model, BNF's |")
        print("|---|---|---|---|---|")
        for name, entry in found["steps"].items():
            ratios = found["ratios"].get(f"bnf_to_{name}")
            against = f"{ratios['cpu']:.3f} ({ratios['cpu_min']:.3f} … {ratios['cpu_max']:.3f})" if ratios else ""
            peaks = f", {ratios['peak']:.2f} of it" if ratios else ""
            limit = found["limits"][name]
            print(
                f"| {name} | {entry['cpu_s']:.2f} ({entry['cpu_s_min']:.2f} … {entry['cpu_s_max']:.2f}) "
                f"| {limit['multiple']:.2f} ({limit['multiple_min']:.2f} … {limit['multiple_max']:.2f}) | {against} "
                f"| {entry['peak_mb']:.0f} MB{peaks} |"
            )
        print(f"\nlimit: {found['limits']['bnf']['limit_s']:.2f} s a step (median)")
        faster = found["reference_speedup"]
        print(
            f"\nreference pass: {faster['cpu']:.2f} ({faster['cpu_min']:.2f} … {faster['cpu_max']:.2f}) times TRL's tokens per CPU s"
        )
    print("\n| completions | unique tokens | CPU s | peak |\n|---|---|---|---|")
    for point in figures["scaling"]:
        print(f"| {point['completions']} | {point['unique_tokens']} | {point['cpu_s']:.2f} | {point['peak_mb']:.0f} MB |")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("HF_HOME", folder)
        main()
