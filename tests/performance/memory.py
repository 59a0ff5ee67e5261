"""Peak memory of real trainings on CPU against `bnf.training.memory`.

Each training is a process of its own that first trains a model of next to no weights, so that all libraries are there, and then takes
two optimizer steps of two rows a process on random tokens: one without the optimizer's states, and one with all of them. What is
measured is how far its resident set grows above that beginning. Each tensor has pages of its own (MALLOC_MMAP_THRESHOLD_), so that
this is what the tensors take; with `--holes` the training runs as it always does, and the holes in glibc's heap count too.

    python -m tests.performance.memory [--cases NAME …] [--holes] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bnf.data.groups import Completion, PromptGroup, write_groups
from bnf.model.shapes import read_shape
from bnf.training.config import TrainConfig
from bnf.training.memory import Estimate, estimate
from bnf.training.row_memory import RowSizes

ROOT = Path(__file__).parent.parent.parent
SMOLLM2 = ROOT / "models" / "SmolLM2-135M-Instruct"
PROMPT, COMPLETIONS = 152, (100, 100)
GROUP = PROMPT + sum(COMPLETIONS)
NUM_STEPS, ROWS_PER_STEP = 2, 2
# A random Llama of 42 million weights: much faster than SmolLM2, with another balance of head and layers.
MIDDLE = {
    "vocab_size": 16384,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
}
NEXT_TO_NOTHING = {
    **{name: 16 for name in ("hidden_size", "intermediate_size")},
    **{"vocab_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8},
}


@dataclass(frozen=True)
class Case:
    """A training that is measured: `model` is middle or smollm2, and a row has so many groups."""

    model: str
    groups: int
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What stands in the table."""
        given = ", ".join(f"{name} {str(value).lower()}" for name, value in self.settings.items()) or "full weights, bf16"
        return f"{self.model}, rows of {self.groups * GROUP}: {given}"


FP32, LORA, AGAIN = {"bf16": False}, {"lora_r": 16}, {"gradient_checkpointing": True}
CASES = [
    *(Case("middle", groups, settings) for groups in (3, 9) for settings in ({}, FP32, AGAIN, FP32 | AGAIN, LORA, LORA | FP32)),
    Case("middle", 3, {"optim": "sgd"}),
    *(Case("smollm2", 3, settings) for settings in ({}, FP32, AGAIN, LORA)),
    *(Case("middle", 3, {"nproc_per_node": 2, **settings}) for settings in ({}, LORA)),
    *(
        Case("middle", 3, {"sharding": "full", "nproc_per_node": number, **settings})
        for number in (2, 4)
        for settings in ({}, AGAIN, LORA)
    ),
]


def config_of(case: Case) -> TrainConfig:
    """The case's settings."""
    groups = case.groups * ROWS_PER_STEP * case.settings.get("nproc_per_node", 1)
    values = {
        "global_batch_size": groups,
        "max_tokens_per_row": case.groups * GROUP,
        "max_steps": num_steps(case),
        "save_steps": 100,
    }
    return TrainConfig.from_dict({"objective": "sft", **values, **case.settings})


def num_steps(case: Case) -> int:
    """Two steps; with DistributedDataParallel three, as its buckets are laid out anew after the first."""
    return NUM_STEPS + (case.settings.get("nproc_per_node", 1) > 1 and "sharding" not in case.settings)


def estimated(case: Case, model_dir: Path) -> Estimate:
    """The estimate of a case."""
    row = RowSizes(case.groups * GROUP, PROMPT, COMPLETIONS)
    return estimate(read_shape(model_dir / "config.json"), config_of(case), row, "cpu")


def write_model(folder: Path, values: dict[str, Any]) -> Path:
    """A random Llama in a folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**values, tie_word_embeddings=False, eos_token_id=2))
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def write_data(folder: Path, num_groups: int, vocabulary: int) -> Path:
    """Groups of equal lengths with random tokens."""
    import random

    numbers = random.Random(0)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(numbers.randrange(3, vocabulary) for _ in range(length))

    groups = [
        PromptGroup(
            f"g{number}",
            tokens(PROMPT),
            tuple(Completion(tokens(length), 1 - 2 * place) for place, length in enumerate(COMPLETIONS)),
            ((0, 1),),
        )
        for number in range(num_groups)
    ]
    write_groups(folder, groups)
    return folder


def train_case(case: Case, model_dir: Path, folder: Path) -> None:
    """Trains in this process, or as one of several that `bnf.training.launch` starts."""
    from bnf.training.launch import launch
    from bnf.training.preparation import Folders
    from bnf.training.trainer import train

    config = config_of(case)
    vocabulary = json.loads((model_dir / "config.json").read_text())["vocab_size"]
    data = write_data(folder / "groups", config.global_batch_size * num_steps(case), vocabulary)
    begin = launch if config.nproc_per_node > 1 else train
    begin(config, Folders(model_dir, data, None, folder / "output"), step0_check=False, progress=lambda *_: None)


def _peak_rss() -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def _child(case: Case, models: dict[str, Path], answer: Path) -> None:
    """Measures one training, and writes the bytes by which it grows."""
    import logging

    logging.disable(logging.WARNING)
    before = after = 0.0
    if case.settings.get("nproc_per_node", 1) == 1:
        with tempfile.TemporaryDirectory() as name:
            train_case(Case("nothing", 1, case.settings), models["nothing"], Path(name))
        Path("/proc/self/clear_refs").write_text("5")
        before = _peak_rss()
        with tempfile.TemporaryDirectory() as name:
            train_case(case, models[case.model], Path(name))
        after = _peak_rss()
    else:
        # The processes are others, each of which has the libraries: the first one tells its peak.
        peaks = []
        for of in (Case("nothing", 1, case.settings), case):
            with tempfile.TemporaryDirectory() as name:
                train_case(of, models[of.model], Path(name))
                peaks.append(json.loads((Path(name) / "output" / "train_summary.json").read_text())["peak_memory_gb"] * 1e9)
        before, after = peaks
    answer.write_text(json.dumps(after - before))


def measure(case: Case, folder: Path, *, holes: bool = False) -> dict[str, Any]:
    """Measured and estimated growth of a case, in bytes."""
    models = {"middle": folder / "middle", "nothing": folder / "nothing", "smollm2": SMOLLM2}
    for name, values in (("middle", MIDDLE), ("nothing", NEXT_TO_NOTHING)):
        if not models[name].is_dir():
            write_model(models[name], values)
    answer = folder / "answer.json"
    call = {"case": asdict(case), "models": {name: str(path) for name, path in models.items()}, "answer": str(answer)}
    # Each thread would have a heap of its own.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    if not holes:
        environment["MALLOC_MMAP_THRESHOLD_"] = "65536"
    done = subprocess.run(
        [sys.executable, "-m", "tests.performance.memory", "--child", json.dumps(call)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"the training must end with 0, got {done.returncode}: {done.stderr[-2000:]}")
    growth = json.loads(answer.read_text())
    memory = estimated(case, models[case.model]).device
    own = memory.total - memory.overhead
    return {"case": case.name, "measured": growth, "estimated": own, "ratio": own / growth, "parts": memory.to_json()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=[""], help="parts of the cases' names")
    parser.add_argument("--holes", action="store_true", help="as a training runs, with the holes in glibc's heap")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        call = options.child
        _child(Case(**call["case"]), {name: Path(path) for name, path in call["models"].items()}, Path(call["answer"]))
        return
    results = []
    print("| training | measured | estimated | estimated / measured |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if not any(part in case.name for part in options.cases):
                continue
            results.append(found := measure(case, Path(folder), holes=options.holes))
            sizes = [f"{found[name] / 1e6:.0f} MB" for name in ("measured", "estimated")]
            print(f"| {found['case']} | {sizes[0]} | {sizes[1]} | {found['ratio']:.2f} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
