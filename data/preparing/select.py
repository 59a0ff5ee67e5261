"""Seeded choices over all of the data: the mixture, the dev set, masks and noise. Counts are exact, and of two shares the smaller one's
items are among the larger one's."""

from __future__ import annotations

from collections.abc import Sequence

from data.preparing.config import PrepareConfig
from data.preparing.staging import Ruling, Workbench, dev_threshold
from data.reading.records import DataSource

# Pairs and single verdicts of the prompts that are trained on.
_TRAINED = "from verdicts join prompts on prompts.no = prompt where live = 1 and dev = 0"


def select(bench: Workbench, sources: Sequence[DataSource], config: PrepareConfig) -> None:
    """Marks on the workbench which prompts are used, which are the dev set, and which verdicts are masked, flipped or contradicted.

    The dev set is the same whatever is masked, and is neither masked nor made noisy: settings are chosen there.
    """
    if any(source.weight is not None for source in sources):
        _mix(bench, [source.weight or 0.0 for source in sources])
    num_prompts = bench.number("select count(*) from prompts where live = 1")
    if not sources:
        # Rounds see the pool in parts, and may see a prompt again: whether it is put aside must follow from the prompt alone.
        bench.run("update prompts set dev = 1 where live = 1 and dev_rank < ?", dev_threshold(config.dev_fraction))
    elif config.dev_fraction:
        num_dev = max(1, round(config.dev_fraction * num_prompts))
        bench.run(
            "update prompts set dev = 1 where no in (select no from prompts where live = 1 order by dev_rank, no limit ?)",
            num_dev,
        )
    num_verdicts = bench.number(f"select count(*) {_TRAINED}")
    for mark, choice, fraction in (
        ("flipped", "flip", config.flip_fraction),
        ("contradicted", "contradict", config.contradict_fraction),
    ):
        chosen = f"select verdicts.no {_TRAINED} order by {choice}_rank, verdicts.no limit ?"
        bench.run(f"update verdicts set {mark} = 1 where no in ({chosen})", round(fraction * num_verdicts))
    num_pairs = bench.number(f"select count(*) {_TRAINED} and second is not null")
    num_chosen, num_rejected = config.num_masked(num_pairs)
    # From the two ends of one order: neither share has a say in the other's.
    for keeps, order, count in (("chosen", "asc", num_chosen), ("rejected", "desc", num_rejected)):
        masked = f"select verdicts.no {_TRAINED} and second is not null order by mask_rank {order}, verdicts.no {order} limit ?"
        bench.run(f"update verdicts set keeps = '{keeps}' where no in ({masked})", count)


def check_selection(bench: Workbench, sources: Sequence[DataSource], names: Sequence[str], config: PrepareConfig) -> None:
    """Refuses choices that leave nothing of what they are made on.

    Raises:
        ValueError: where a mixture's source gives no prompt, the dev set takes all of them, or a mask finds no pair.
    """
    num_settled = bench.number("select count(*) from prompts where live > 0")
    if not num_settled:
        return  # nothing to choose from: the ledger's check says why
    for number, source in enumerate(sources):
        if source.weight and not bench.number("select count(*) from prompts where live = 1 and source = ?", number):
            count = bench.number("select count(*) from prompts where live > 0 and source = ?", number)
            raise ValueError(
                f"data.weight must leave every source a prompt, got none of {names[number]}, which has {count} that no source before it "
                f"has, at weight {source.weight:g}; raise its weight, correct its data, or take it out"
            )
    num_trained = bench.number("select count(*) from prompts where live = 1 and dev = 0")
    if config.dev_fraction and not num_trained:
        num_dev = bench.number("select count(*) from prompts where dev = 1")
        raise ValueError(
            f"prepare.dev_fraction must leave prompts to train on, got {config.dev_fraction:g}, which takes {num_dev} of {num_dev}; "
            "lower it, or add data"
        )
    asked = {
        name: getattr(config, name) for name in ("mask_fraction", "mask_to_chosen", "mask_to_rejected") if getattr(config, name)
    }
    if asked and not bench.number(f"select count(*) {_TRAINED} and second is not null"):
        remedy = (
            "set prepare.pairing to best_worst or all, or remove the mask" if config.pairing == "none" else "remove the mask"
        )
        raise ValueError(
            f"prepare.{' and '.join(asked)} must have pairs to mask, got {', '.join(f'{value:g}' for value in asked.values())} and data "
            f"without any under prepare.pairing={config.pairing}; {remedy}"
        )


def mark_sides_still_there(bench: Workbench) -> None:
    """Counts, in the ledger's lines of rows with masked pairs, the sides that were masked there and yet are in the group, because
    another verdict of the prompt keeps the same text with the same label: from such a pair the mask hid nothing."""
    for (prompt,) in bench.run("select distinct prompt from verdicts where keeps != 'both' order by 1").fetchall():
        texts = {one.no: one.text for one in bench.candidates(prompt)}

        def sides(ruling: Ruling, texts: dict[int, str] = texts) -> set[tuple[str, int]]:
            return {(texts[no], label * sign) for no, label in ruling.sides for sign in ruling.signs}

        kept = set().union(*map(sides, bench.verdicts(prompt)))
        for row, first, second, label, keeps, flipped, contradicted in bench.run(
            "select row, first, second, label, keeps, flipped, contradicted from verdicts where prompt = ? and keeps != 'both'",
            prompt,
        ).fetchall():
            sign = -1 if flipped else 1
            masked = Ruling([(second, -1) if keeps == "chosen" else (first, label)], (sign, -sign) if contradicted else (sign,))
            if sides(masked) & kept:
                bench.run(
                    "update rows set more = json_set(more, '$.still_there', coalesce(json_extract(more, '$.still_there'), 0) + 1) "
                    "where no = ?",
                    row,
                )


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
