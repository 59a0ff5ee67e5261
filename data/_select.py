"""Seeded choices over all of the data: the mixture, the dev set, masks and noise. Counts are exact, and of two shares the smaller one's
items are among the larger one's."""

from __future__ import annotations

from collections.abc import Sequence

from data._config import PrepareConfig
from data._reading import DataSource
from data._workbench import Workbench

# Pairs and single verdicts of the prompts that are trained on.
_TRAINED = "from verdicts join prompts on prompts.no = prompt where live = 1 and dev = 0"


def select(bench: Workbench, sources: Sequence[DataSource], config: PrepareConfig) -> None:
    """Marks on the workbench which prompts are used, which are the dev set, and which verdicts are masked, flipped or contradicted.

    The dev set is the same whatever is masked, and is neither masked nor made noisy: settings are chosen there.
    """
    if any(source.weight is not None for source in sources):
        _mix(bench, [source.weight or 0.0 for source in sources])
    num_prompts = bench.number("select count(*) from prompts where live = 1")
    num_dev = max(1, round(config.dev_fraction * num_prompts)) if config.dev_fraction else 0
    bench.run(
        "update prompts set dev = 1 where no in (select no from prompts where live = 1 order by dev_rank limit ?)", num_dev
    )
    num_verdicts = bench.number(f"select count(*) {_TRAINED}")
    for mark, choice, fraction in (
        ("flipped", "flip", config.flip_fraction),
        ("contradicted", "contradict", config.contradict_fraction),
    ):
        chosen = f"select verdicts.no {_TRAINED} order by {choice}_rank limit ?"
        bench.run(f"update verdicts set {mark} = 1 where no in ({chosen})", round(fraction * num_verdicts))
    num_pairs = bench.number(f"select count(*) {_TRAINED} and second is not null")
    num_chosen, num_rejected = config.num_masked(num_pairs)
    # From the two ends of one order: neither share has a say in the other's.
    for keeps, order, count in (("chosen", "asc", num_chosen), ("rejected", "desc", num_rejected)):
        masked = f"select verdicts.no {_TRAINED} and second is not null order by mask_rank {order} limit ?"
        bench.run(f"update verdicts set keeps = '{keeps}' where no in ({masked})", count)


def _mix(bench: Workbench, weights: Sequence[float]) -> None:
    """Leaves out prompts until each source has its weight's share of them, the scarcest source all of its own."""
    counts = [
        bench.number("select count(*) from prompts where live = 1 and source = ?", source) for source in range(len(weights))
    ]
    scale = min((count / weight for count, weight in zip(counts, weights, strict=True) if weight > 0), default=0.0)
    for source, weight in enumerate(weights):
        # Twice 1/3 of 9 is 6, not 5.999….
        kept = int(scale * weight + 1e-6)
        bench.run(
            "update prompts set live = 2 where live = 1 and source = ?1 and no not in "
            "(select no from prompts where live = 1 and source = ?1 order by mixture_rank limit ?2)",
            *(source, kept),
        )
