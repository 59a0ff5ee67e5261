"""The training steps and reference passes that are compared, in processes that step when they are told to.

A contender is given the same prompts and completions as token ids, so none of them tokenizes, and does one micro-batch's forward
and backward pass. The optimizer's step is the same for all of them and left out.

    python -m tests.performance.contenders NAME …    reads a line with model, batches and bf16, then {"name", "batch", "peak"} lines;
                                                     answers with JSON lines; to {"rate": true, "batch"} with the best
                                                     rate of matrix products
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from bnf.data.groups import Completion, PromptGroup
from bnf.data.packing import Row, pack
from bnf.model.allocator import keep_freed_memory
from bnf.model.loading import load_model
from bnf.model.logps import row_logps
from bnf.objectives import load_objective
from bnf.reference.values import RowReference
from bnf.training.losses import assemble, count, total_loss

# {"prompt": ids, "completions": [ids, …]}; the first completion is the preferred one.
Batch = list[dict[str, Any]]
Step = Callable[[int], None]


def bnf(model_dir: Path, batches: list[Batch], bf16: bool) -> tuple[torch.nn.Module, Step]:
    """BNF on packed rows, every prompt computed once for all of its completions; the reference is cached."""
    return _packed(model_dir, batches, bf16, "bnf")


def sft_packed(model_dir: Path, batches: list[Batch], bf16: bool) -> tuple[torch.nn.Module, Step]:
    """The likelihood of all completions on the same rows: what BNF costs beyond its data."""
    return _packed(model_dir, batches, bf16, "sft")


def _packed(model_dir: Path, batches: list[Batch], bf16: bool, name: str) -> tuple[torch.nn.Module, Step]:
    objective = load_objective(name, {})
    # Signed labels for BNF; SFT counts preferred completions alone, so there all of them are.
    rows = [_row(batch, signed=name == "bnf") for batch in batches]
    keep_freed_memory()  # as `bnf.train` and the reference do
    model = _model(model_dir)
    references: list[RowReference | None] = [None] * len(rows)
    if objective.needs_reference:
        with torch.no_grad():
            values = [row_logps(model, row, bf16=bf16) for row in rows]
        references = [RowReference(value.logps.float().cpu(), value.log_odds.float().cpu()) for value in values]

    def step(index: int) -> None:
        row = rows[index]
        policy = row_logps(model, row, bf16=bf16)
        seen = assemble(row, policy, references[index])
        total_loss(objective.losses(seen), seen, count(objective, row.groups), (1.0, 1.0)).backward()

    return model, step


@cache
def _model(model_dir: Path) -> Any:
    """One for all steps of a process: where weights lie in memory makes some percent of a step's time."""
    return load_model(model_dir).to(_device()).train()


def sft_padded(model_dir: Path, batches: list[Batch], bf16: bool) -> tuple[torch.nn.Module, Step]:
    """SFT as a plain loop does it: right-padded sequences, full logits, cross-entropy on completion tokens."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).to(_device()).train()
    padded = [_padded(batch) for batch in batches]

    def step(index: int) -> None:
        ids, mask, labels = (tensor.to(_device()) for tensor in padded[index])
        with _autocast(bf16):
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()).backward()

    return model, step


def trl_sft(model_dir: Path, batches: list[Batch], bf16: bool) -> tuple[torch.nn.Module, Step]:
    """TRL's SFTTrainer on the same sequences."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer, options = _trl(model_dir, bf16)
    one = Dataset.from_list([{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}])
    arguments = SFTConfig(**options, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None)
    trainer = SFTTrainer(model, args=arguments, train_dataset=one, processing_class=tokenizer)
    features = [
        [
            {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}
            for prompt, completion in _sequences(batch)
        ]
        for batch in batches
    ]
    return _trl_steps(trainer, [trainer.data_collator(rows) for rows in features])


def trl_dpo(model_dir: Path, batches: list[Batch], bf16: bool) -> tuple[torch.nn.Module, Step]:
    """TRL's DPOTrainer, the reference's sums supplied."""
    trainer = _dpo_trainer(model_dir, bf16)
    reference = {"ref_chosen_logps": -50.0, "ref_rejected_logps": -50.0}
    return _trl_steps(trainer, [trainer.data_collator([row | reference for row in _pairs(batch)]) for batch in batches])


def trl_reference(model_dir: Path, batches: list[Batch], bf16: bool) -> tuple[torch.nn.Module, Step]:
    """TRL's reference pass over the same pairs."""
    trainer = _dpo_trainer(model_dir, bf16)
    inputs = [trainer.data_collator(_pairs(batch)) for batch in batches]
    model = trainer.model.eval()

    def step(index: int) -> None:
        trainer.compute_ref_log_probs(model, trainer._prepare_inputs(dict(inputs[index])))

    return model, step


def bnf_reference(model_dir: Path, batches: list[Batch], bf16: bool) -> tuple[torch.nn.Module, Step]:
    """The reference pass: per-token log-probabilities and log-odds on packed rows."""
    rows = [_row(batch, signed=True) for batch in batches]
    keep_freed_memory()
    model = load_model(model_dir).to(_device()).eval()

    def step(index: int) -> None:
        with torch.no_grad():
            row_logps(model, rows[index], bf16=bf16)

    return model, step


def _trl(model_dir: Path, bf16: bool) -> tuple[Any, Any, dict[str, Any]]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    options = {
        "output_dir": tempfile.mkdtemp(),
        "report_to": [],
        "bf16": bf16,
        "use_cpu": not torch.cuda.is_available(),
        # Recomputation trades time for memory; none of the contenders does it.
        "gradient_checkpointing": False,
    }
    return model, AutoTokenizer.from_pretrained(model_dir), options


def _dpo_trainer(model_dir: Path, bf16: bool) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    model, tokenizer, options = _trl(model_dir, bf16)
    one = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    # With precomputed references it keeps no second model.
    arguments = DPOConfig(**options, precompute_ref_log_probs=True, max_length=None)
    return DPOTrainer(model, args=arguments, train_dataset=one, processing_class=tokenizer)


def _trl_steps(trainer: Any, inputs: list[dict[str, Tensor]]) -> tuple[torch.nn.Module, Step]:
    model = trainer.model.train()

    def step(index: int) -> None:
        prepared = trainer._prepare_inputs(dict(inputs[index]))
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, prepared)
        loss.backward()

    return model, step


def _pairs(batch: Batch) -> list[dict[str, list[int]]]:
    return [
        {"prompt_ids": group["prompt"], "chosen_ids": group["completions"][0], "rejected_ids": group["completions"][1]}
        for group in batch
    ]


def _sequences(batch: Batch) -> list[tuple[list[int], list[int]]]:
    return [(group["prompt"], completion) for group in batch for completion in group["completions"]]


def _padded(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    sequences = _sequences(batch)
    longest = max(len(prompt) + len(completion) for prompt, completion in sequences)
    ids, mask = torch.zeros(len(sequences), longest, dtype=torch.long), torch.zeros(len(sequences), longest, dtype=torch.long)
    labels = torch.full((len(sequences), longest), -100)
    for index, (prompt, completion) in enumerate(sequences):
        size = len(prompt) + len(completion)
        ids[index, :size] = torch.tensor(prompt + completion)
        mask[index, :size] = 1
        labels[index, len(prompt) : size] = torch.tensor(completion)
    return ids, mask, labels


def _row(batch: Batch, *, signed: bool) -> Row:
    groups = [
        PromptGroup(
            f"g{number}",
            tuple(group["prompt"]),
            tuple(
                Completion(tuple(ids), 1 if place == 0 or not signed else -1) for place, ids in enumerate(group["completions"])
            ),
        )
        for number, group in enumerate(batch)
    ]
    [row] = pack(groups, sum(len(group.prompt_ids) + sum(len(c.token_ids) for c in group.completions) for group in groups))
    return row


def _autocast(bf16: bool) -> Any:
    return torch.autocast(_device().type, torch.bfloat16) if bf16 else nullcontext()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _peak_rss_bytes() -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def _reset_peak() -> int:
    """Start counting the peak anew; returns the resident bytes now."""
    # What the last step has freed and the allocator kept would hide as much of the next peak.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_rss_bytes()


def best_rate(model_dir: Path, batch: Batch, bf16: bool) -> float:
    """Floating-point operations a second of the fastest product of two matrices: of the model's projections of a batch, and square ones."""
    config = AutoConfig.from_pretrained(model_dir)
    num_tokens = sum(len(group["prompt"]) + sum(map(len, group["completions"])) for group in batch)
    width, inner = config.hidden_size, config.intermediate_size
    shapes = [(num_tokens, width, width), (num_tokens, width, inner), (num_tokens, inner, width), (inner, num_tokens, width)]
    shapes += [(size, size, size) for size in (512, 1024, 2048)]
    return max(_rate(*shape, bf16) for shape in shapes)


def _rate(rows: int, inner: int, columns: int, bf16: bool) -> float:
    options = {"dtype": torch.bfloat16 if bf16 else torch.float32, "device": _device()}
    left, right, product = (torch.randn(shape, **options) for shape in ((rows, inner), (inner, columns), (rows, columns)))
    flops = 2 * rows * inner * columns
    # Each time is of some 5 GFLOP on a CPU, long enough for its clock, and of as many calls as fill a GPU.
    calls = max(1, 5 * 10**9 // flops) * (100 if torch.cuda.is_available() else 1)
    seconds = [_seconds(lambda: [torch.mm(left, right, out=product) for _ in range(calls)]) for _ in range(4)]
    return flops * calls / min(seconds)


def _seconds(function: Callable[[], object]) -> float:
    """CPU seconds of a call; on CUDA, whose work is seen by the clock alone, wall seconds."""
    cuda = torch.cuda.is_available()
    clock = time.perf_counter if cuda else time.process_time
    if cuda:
        torch.cuda.synchronize()
    started = clock()
    function()
    if cuda:
        torch.cuda.synchronize()
    return clock() - started


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    # Libraries print; the answers have a channel of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    config = json.loads(sys.stdin.readline())
    batches, bf16 = config["batches"], config["bf16"]
    contenders = {name: globals()[name](Path(config["model"]), batches, bf16) for name in sys.argv[1:]}
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        asked = json.loads(line)
        if asked.get("rate"):
            rate = best_rate(Path(config["model"]), batches[asked["batch"]], bf16)
            answers.write(json.dumps({"flops_per_s": rate}) + "\n")
            continue
        model, step = contenders[asked["name"]]
        model.zero_grad(set_to_none=True)
        gc.collect()
        # Not in a step whose time counts: it would pay for memory that a training has had since its first steps.
        before = _reset_peak() if asked["peak"] else 0
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        answer = {"cpu_s": _seconds(partial(step, asked["batch"]))}
        if asked["peak"]:
            answer = {"peak_bytes": torch.cuda.max_memory_allocated() if cuda else _peak_rss_bytes() - before}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
