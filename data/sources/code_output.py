"""Problems to sample from that the project makes: what does this small Python function return? None is one of the benchmark's own."""

from __future__ import annotations

from evaluation.benchmarks import code_output
from evaluation.records import Record

GIVES = "problems"
MAKES_PROMPTS = True


def make(num_prompts: int) -> list[Record]:
    """The first `num_prompts` training prompts: `id`, `messages`, and the `item` that the verifier scores against."""
    return [
        {"id": item["id"], "messages": code_output.messages(item), "item": item}
        for item in code_output.train_items(num_prompts)
    ]
