"""Where the seconds of BNF's training step go, part by part, each beside the least that it could take.

    python -m tests.performance.step_profile [--dtype bf16|fp32] [--pairs 2] [--repeats 3]

The step and its limit are those of `tests.performance.training`. torch's profiler gives the seconds of each operation; an operation
belongs to the part whose function called it. Each batch is computed twice for nothing, and then profiled; the figures are medians over the
batches. The step has one thread, and the profiler's seconds are the clock's: nothing else should run. The profiler takes some percent.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile

from tasks.execute import machine
from tests.performance import contenders
from tests.performance.training import MODEL, needed_flops, pairs

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
# The functions in whose calls everything belongs to one part.
OWNERS = {"_Tiled": "attention", "_TiledBackward": "attention", "_ChunkedHead": "head", "_ChunkedHeadBackward": "head"}
PARTS = (
    "layers: matrix products",
    "attention: matrix products",
    "attention: softmax, copies",
    "head: matrix products",
    "head: softmax, copies",
    "norms, gates, rotations, residuals, casts",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--pairs", type=int, default=2, help="of one micro-batch")
    parser.add_argument("--repeats", type=int, default=3, help="batches")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bf16 = options.dtype == "bf16"
    source, groups = pairs()
    batches = [groups[start : start + options.pairs] for start in range(0, options.pairs * options.repeats, options.pairs)]
    model, step = contenders.bnf(MODEL, batches, bf16)
    taken: list[dict[str, float]] = []
    for index, batch in enumerate(batches):
        for _ in range(2):
            model.zero_grad(set_to_none=True)
            step(index)
        model.zero_grad(set_to_none=True)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            step(index)
        rate = contenders.best_rate(MODEL, batch, bf16)
        taken.append(seconds(profiled) | {f"least {part}": least for part, least in limits(batch, rate).items()})
    show(taken, f"{machine()}\n{source}, {options.dtype}, {options.repeats} steps of {options.pairs} pairs")


def seconds(profiled: profile) -> dict[str, float]:
    """Each part's seconds."""
    found: Counter[str] = Counter()
    for event in profiled.events():
        owner, above = None, event
        while above is not None and owner is None:
            owner, above = OWNERS.get(above.name), above.cpu_parent
        found[part_of(event.name, owner)] += event.self_cpu_time_total / 1e6
    return dict(found)


def part_of(name: str, owner: str | None) -> str:
    """The part that an operation belongs to, where a function of `owner` called it."""
    if name in PRODUCTS:
        return f"{owner or 'layers'}: matrix products"
    return PARTS[-1] if owner is None else f"{owner}: softmax, copies"


def limits(batch: contenders.Batch, rate: float) -> dict[str, float]:
    """The seconds that each part's matrix products take at the best rate."""
    flops = needed_flops(batch)
    return {"layers": flops.layers / rate, "attention": flops.attention / rate, "head": flops.head / rate}


def show(taken: list[dict[str, float]], title: str) -> None:
    def median(name: str) -> float:
        return statistics.median(step.get(name, 0.0) for step in taken)

    wholes = [sum(step.get(part, 0.0) for part in PARTS) for step in taken]
    leasts = [sum(value for name, value in step.items() if name.startswith("least ")) for step in taken]
    print(title)
    print("\n| part | seconds | share of the step | at the best rate |\n|---|---|---|---|")
    for part in PARTS:
        share = statistics.median(step.get(part, 0.0) / whole for step, whole in zip(taken, wholes, strict=True))
        name, _, kind = part.partition(":")
        least = f"{median(f'least {name}'):.2f}" if kind == " matrix products" else "–"
        print(f"| {part} | {median(part):.2f} | {100 * share:.0f} % | {least} |")
    multiples = [whole / least for whole, least in zip(wholes, leasts, strict=True)]
    print(
        f"| all | {statistics.median(wholes):.2f} | {statistics.median(multiples):.2f}× the limit | {statistics.median(leasts):.2f} |"
    )


if __name__ == "__main__":
    main()
