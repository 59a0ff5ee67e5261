"""What weights in bf16 and states in 8 bits cost in exactness, and save in memory, beside float32.

    python -m tests.performance.weights [--model tiny|DIR] [--steps 24] [--rows 2] [--learning-rate 5e-7] [--gradient-rows 64]

Every kind trains the same model with BNF on the same rows, by the paper's schedule. Shown of each: bytes a parameter of weights,
gradients and the optimizer's states, counted over the tensors after the last step; the last step's loss; and how the weights moved
against float32's: length of the whole way, cosine, and the distance between the ends, as a share of float32's way. What a
compensation buffer holds counts as part of the weight. Last, how many weights of the policy, stored in bf16, equal float32's. "Nearest"
rounds every update to the nearest bf16 number, and is here to show why training refuses it.

Then the gradient of one step of many rows: summed in bf16 against float32, as a share of its length, of all weights and of the head's;
the median over the rows of the weights' matrices says what a typical neuron's gradient is off by. The tiny model is of random weights,
on random groups; a folder is trained on real pairs (`BNF_TEST_DATA`) or the project's own.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainingArguments

from bnf.data.packing import Row
from bnf.model.loading import Weights, load_model
from bnf.model.logps import row_logps
from bnf.objectives import load_objective
from bnf.reference.values import RowReference
from bnf.training.config import TrainConfig
from bnf.training.losses import assemble, count, total_loss
from bnf.training.optimizers import rounding_optimizer
from bnf.training.schedule import num_warmup_steps, rate_share
from tasks.execute import machine
from tests.performance.contenders import _row
from tests.performance.training import pairs

BNF = load_objective("bnf")


@dataclass(frozen=True)
class Kind:
    """A way to hold and update weights."""

    title: str
    weights: Weights
    optim: str = "adamw_torch_fused"
    nearest: bool = False


KINDS = (
    Kind("fp32, adamw_torch_fused", "fp32"),
    Kind("fp32, adamw_8bit", "fp32", "adamw_8bit"),
    Kind("fp32, adamw_torch_4bit", "fp32", "adamw_torch_4bit"),
    Kind("fp32, adafactor", "fp32", "adafactor"),
    Kind("bf16, adamw_torch_fused (Kahan)", "bf16"),
    Kind("bf16, adamw_torch_8bit (stochastic)", "bf16", "adamw_torch_8bit"),
    Kind("bf16, nearest: refused", "bf16", nearest=True),
)


@dataclass(frozen=True)
class Trained:
    """Where a training ended: the weights with what compensation buffers hold, its losses, and bytes a parameter."""

    ends: list[Tensor]
    losses: list[float]
    bytes_of_weights: float
    bytes_of_gradients: float
    bytes_of_states: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, or a model folder")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rows", type=int, default=2, help="of a step")
    parser.add_argument("--learning-rate", type=float, default=5e-7)
    parser.add_argument(
        "--gradient-rows", type=int, default=64, help="of the step whose gradient is summed in both dtypes; 0: none"
    )
    parser.add_argument("--kinds", nargs="+", default=[""], help="beside float32 only those whose title holds one of these")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model_dir = tiny(Path(scratch)) if options.model == "tiny" else Path(options.model)
        rows = some_rows(options.model == "tiny", max(options.steps * options.rows, options.gradient_rows))
        print(machine())
        if options.steps:
            kinds = [kind for kind in KINDS if kind is KINDS[0] or any(part in kind.title for part in options.kinds)]
            compare(kinds, model_dir, rows, options.steps, options.rows, options.learning_rate)
        if options.gradient_rows:
            gradients(model_dir, rows[: options.gradient_rows])


def tiny(folder: Path) -> Path:
    """A two-layer Llama of random weights as large as a trained model's."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    config = LlamaConfig(vocab_size=97, initializer_range=0.05, tie_word_embeddings=True, **sizes)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / "tiny")
    return folder / "tiny"


def some_rows(is_tiny: bool, number: int) -> list[Row]:
    """So many rows: of random groups, or of a real pair each, repeated where there are fewer."""
    if is_tiny:
        from tests.unit.bnf.helpers import random_groups

        groups = random_groups(4 * number)
        return [Row(groups[4 * place : 4 * place + 4], tuple(range(4)), True) for place in range(number)]
    _, found = pairs()
    rows = [_row([pair], signed=True) for pair in found[:number]]
    return [rows[place % len(rows)] for place in range(number)]


def compare(kinds: list[Kind], model_dir: Path, rows: list[Row], steps: int, rows_per_step: int, learning_rate: float) -> None:
    """Trains these kinds, and prints their table; the first is what the others are compared with."""
    start = flat(load_model(model_dir))
    print(f"{len(start)} parameters, {steps} steps of {rows_per_step} rows, learning rate {learning_rate:g}\n")
    print("| | weights | gradients | states | bytes a parameter | last loss | way | cosine | distance | policy weights equal |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    exact: Tensor | None = None
    for kind in kinds:
        found = trained(kind, model_dir, rows, steps, rows_per_step, learning_rate)
        end = torch.cat([part.flatten() for part in found.ends])
        exact = end if exact is None else exact
        way, exact_way = end - start, exact - start
        length = norm(exact_way)
        parts = (found.bytes_of_weights, found.bytes_of_gradients, found.bytes_of_states)
        figures = (
            *(f"{part:.2f}" for part in (*parts, sum(parts))),
            f"{found.losses[-1]:.6f}",
            f"{norm(way) / length:.3f}",
            f"{float((way * exact_way).sum(dtype=torch.float64)) / max(norm(way) * length, 1e-30):.4f}",
            f"{norm(way - exact_way) / length:.3f}",
            f"{float((end.bfloat16() == exact.bfloat16()).double().mean()):.2%}",
        )
        print("| " + " | ".join((kind.title, *figures)) + " |", flush=True)
    moved = float((exact.bfloat16() != start.bfloat16()).double().mean()) if exact is not None else 0.0
    print(f"\nOf float32's policy, stored in bf16, {moved:.2%} of the weights differ from the model's.\n")


def trained(kind: Kind, model_dir: Path, rows: list[Row], steps: int, rows_per_step: int, learning_rate: float) -> Trained:
    """Trains one kind."""
    gc.collect()
    model = load_model(model_dir, weights=kind.weights).train()
    parameters = list(model.parameters())
    optimizer = make_optimizer(kind, parameters, learning_rate)
    warmup = num_warmup_steps("cosine", 0.1, steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, partial(rate_share, name="cosine", num_warmup=warmup, num_steps=steps)
    )
    references = [reference_of(model, row) for row in rows[: steps * rows_per_step]]
    losses = []
    gradient_bytes = 0
    for step in range(steps):
        places = range(step * rows_per_step, (step + 1) * rows_per_step)
        losses.append(sum(backward(model, rows[place], references[place], share=1 / rows_per_step) for place in places))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        gradient_bytes = sum(parameter.grad.nbytes for parameter in parameters if parameter.grad is not None)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    number = sum(parameter.numel() for parameter in parameters)
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    ends = []
    for parameter in parameters:
        lost = optimizer.state[parameter].get("kahan_comp")
        ends.append(parameter.detach().float() + (0 if lost is None else lost.float()))
    return Trained(
        ends,
        losses,
        sum(parameter.nbytes for parameter in parameters) / number,
        gradient_bytes / number,
        sum(map(num_bytes, states)) / number,
    )


def make_optimizer(kind: Kind, parameters: list[torch.nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """The optimizer that a training of this kind would have."""
    if kind.nearest:
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            optim=kind.optim,
            learning_rate=learning_rate,
            weight_decay=0.0,
            use_cpu=not torch.cuda.is_available(),
        )
    config = replace(TrainConfig(), weights=kind.weights, optim=kind.optim, learning_rate=learning_rate)
    optimizer, settings = rounding_optimizer(config, arguments) or Trainer.get_optimizer_cls_and_kwargs(arguments)
    made: torch.optim.Optimizer = optimizer(parameters, **({"weight_decay": 0.0} | settings))
    return made


def num_bytes(tensor: Tensor) -> int:
    """The bytes of a tensor, also of one that is made of several."""
    if type(tensor) in (Tensor, torch.nn.Parameter):
        return tensor.nbytes
    names, _ = tensor.__tensor_flatten__()
    return sum(num_bytes(getattr(tensor, name)) for name in names)


def reference_of(model: PreTrainedModel, row: Row) -> RowReference:
    """The values of the model as it is."""
    with torch.no_grad():
        values = row_logps(model, row, bf16=True)
    return RowReference(values.logps.float().cpu(), values.log_odds.float().cpu())


def backward(model: PreTrainedModel, row: Row, reference: RowReference, *, share: float = 1.0) -> float:
    """Adds a row's gradient, and returns its loss."""
    seen = assemble(row, row_logps(model, row, bf16=True), reference)
    loss = total_loss(BNF.losses(seen), seen, count(BNF, row.groups), (1.0, 1.0)) * share
    loss.backward()
    return float(loss.detach())


def norm(values: Tensor) -> float:
    """The length of a long vector, summed in float64."""
    return float(values.square().sum(dtype=torch.float64)) ** 0.5


def flat(model: PreTrainedModel) -> Tensor:
    return torch.cat([parameter.detach().float().flatten() for parameter in model.parameters()])


def gradients(model_dir: Path, rows: list[Row]) -> None:
    """Sums a step's gradient in bf16 and in float32, over rows alone and over the head's chunks alone, and prints the differences."""
    model = load_model(model_dir, weights="bf16").train()
    sums: dict[str, Tensor] = {}
    for row in rows:
        before = {name: None if one.grad is None else one.grad.clone() for name, one in model.named_parameters()}
        model.zero_grad()
        backward(model, row, reference_of(model, row))
        for name, parameter in model.named_parameters():
            own = parameter.grad
            assert own is not None
            sums[name] = sums.get(name, torch.zeros_like(own, dtype=torch.float32)) + own.float()
            kept = before[name]
            parameter.grad = own.clone() if kept is None else kept + own
    head = model.get_output_embeddings().weight
    print(
        f"gradient of {len(rows)} rows, summed in bf16 against float32\n\n| weights | off by | a typical neuron's |\n|---|---|---|"
    )
    wanted: tuple[tuple[str, Callable[[str, Tensor], bool]], ...] = (
        ("all", lambda name, one: True),
        ("the head's", lambda name, one: one is head),
        ("linear layers'", lambda name, one: "_proj" in name),
        ("norms'", lambda name, one: "norm" in name),
    )
    for title, holds in wanted:
        own = [(parameter.grad.float(), sums[name]) for name, parameter in model.named_parameters() if holds(name, parameter)]
        off = (
            torch.cat([(low - high).flatten() for low, high in own]).norm()
            / torch.cat([high.flatten() for _, high in own]).norm()
        )
        neurons = [
            ((low - high).norm(dim=-1) / high.norm(dim=-1).clamp(min=1e-30)).flatten().tolist()
            for low, high in own
            if low.ndim > 1
        ]
        typical = f"{statistics.median(off for of_weight in neurons for off in of_weight):.2%}" if neurons else ""
        print(f"| {title} | {float(off):.2%} | {typical} |")


if __name__ == "__main__":
    main()
