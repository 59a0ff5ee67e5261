"""Problems to sample from that the project makes: which of two numbers is larger? None of them is one of the benchmark's own."""

from __future__ import annotations

from evaluation.benchmarks import number_comparison
from evaluation.records import Record

GIVES = "problems"
MAKES_PROMPTS = True


def make(num_prompts: int) -> list[Record]:
    """The first `num_prompts` training prompts: `id`, `messages`, and the `item` that the verifier scores against."""
    return [
        {"id": item["id"], "messages": number_comparison.messages(item), "item": item}
        for item in number_comparison.train_items(num_prompts)
    ]
