"""Problems to sample from that the project lists: what is the capital of this country? None is one of the benchmark's own."""

from __future__ import annotations

from evaluation.benchmarks import capitals
from evaluation.records import Record

GIVES = "problems"
MAKES_PROMPTS = True


def make(num_prompts: int) -> list[Record]:
    """The first `num_prompts` training prompts: `id`, `messages`, and the `item` that the verifier scores against."""
    return [{"id": item["id"], "messages": capitals.messages(item), "item": item} for item in capitals.train_items(num_prompts)]
