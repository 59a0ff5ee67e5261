"""Seeded choices over all of the data: the mixture, the dev set, masks and noise.

Counts are exact, and the items of a smaller share are among those of a larger one.
"""

from __future__ import annotations

from collections.abc import Sequence

from data.preparing.config import PrepareConfig
from data.preparing.staging import Staging, dev_threshold
from data.reading.records import DataSource

# The preferences of the prompts that are trained on.
_TRAINED = "from preferences join prompts on prompts.no = prompt where live = 1 and dev = 0"


def select(staging: Staging, sources: Sequence[DataSource], config: PrepareConfig) -> None:
    """Marks in staging which prompts are used, which are the dev set, and which preferences are masked, flipped or contradicted.

    The dev set is the same whatever is masked, and is neither masked nor made noisy: settings are chosen there.
    """
    if any(source.weight is not None for source in sources):
        _mix(staging, [source.weight or 0.0 for source in sources])
    num_prompts = staging.number("select count(*) from prompts where live = 1")
    if not sources:
        # Rounds see the pool in parts and may see a prompt again: the prompt alone must decide whether it is of the dev set.
        staging.run("update prompts set dev = 1 where live = 1 and dev_rank < ?", dev_threshold(config.dev_fraction))
    elif config.dev_fraction:
        num_dev = max(1, round(config.dev_fraction * num_prompts))
        staging.run(
            "update prompts set dev = 1 where no in (select no from prompts where live = 1 order by dev_rank, no limit ?)",
            num_dev,
        )
    num_preferences = staging.number(f"select count(*) {_TRAINED}")
    for mark, choice, fraction in (
        ("flipped", "flip", config.flip_fraction),
        ("contradicted", "contradict", config.contradict_fraction),
    ):
        chosen = f"select preferences.no {_TRAINED} order by {choice}_rank, preferences.no limit ?"
        staging.run(f"update preferences set {mark} = 1 where no in ({chosen})", round(fraction * num_preferences))
    num_pairs = staging.number(f"select count(*) {_TRAINED} and second is not null")
    num_chosen, num_rejected = config.num_masked(num_pairs)
    # From the two ends of one order, so that neither share depends on the other.
    for keeps, order, count in (("chosen", "asc", num_chosen), ("rejected", "desc", num_rejected)):
        masked = f"select preferences.no {_TRAINED} and second is not null order by mask_rank {order}, preferences.no {order} limit ?"
        staging.run(f"update preferences set keeps = '{keeps}' where no in ({masked})", count)


def check_selection(staging: Staging, sources: Sequence[DataSource], names: Sequence[str], config: PrepareConfig) -> None:
    """Refuses choices that leave nothing.

    Raises:
        ValueError: a mixture's source gives no prompt, the dev set takes all prompts, or a mask finds no pair.
    """
    num_labelled = staging.number("select count(*) from prompts where live > 0")
    if not num_labelled:
        return  # nothing to choose from: the ledger's check says why
    for number, source in enumerate(sources):
        if source.weight and not staging.number("select count(*) from prompts where live = 1 and source = ?", number):
            count = staging.number("select count(*) from prompts where live > 0 and source = ?", number)
            raise ValueError(
                f"data.weight must leave every source a prompt, got none of {names[number]}, which has {count} that no source before it "
                f"has, at weight {source.weight:g}; raise its weight, correct its data, or take it out"
            )
    num_trained = staging.number("select count(*) from prompts where live = 1 and dev = 0")
    if config.dev_fraction and not num_trained:
        num_dev = staging.number("select count(*) from prompts where dev = 1")
        raise ValueError(
            f"prepare.dev_fraction must leave prompts to train on, got {config.dev_fraction:g}, which takes {num_dev} of {num_dev}; "
            "lower it, or add data"
        )
    asked = {
        name: getattr(config, name) for name in ("mask_fraction", "mask_to_chosen", "mask_to_rejected") if getattr(config, name)
    }
    if asked and not staging.number(f"select count(*) {_TRAINED} and second is not null"):
        remedy = (
            "set prepare.pairing to best_worst or all, or remove the mask" if config.pairing == "none" else "remove the mask"
        )
        raise ValueError(
            f"prepare.{' and '.join(asked)} must have pairs to mask, got {', '.join(f'{value:g}' for value in asked.values())} and data "
            f"without any under prepare.pairing={config.pairing}; {remedy}"
        )


def mark_sides_still_there(staging: Staging) -> None:
    """Counts for each row, for its line in the ledger, the masked sides that are in the group all the same, because another preference of
    the prompt keeps the same text with the same label: from such a pair the mask hid nothing."""
    # A preference by itself keeps what it masks only where noise gives its sides both labels.
    several = "group by prompt having max(keeps != 'both') and (count(*) > 1 or max(contradicted)) order by prompt"
    for (prompt,) in staging.run(f"select prompt from preferences {several}"):
        texts = {one.no: one.text for one in staging.candidates(prompt)}

        def said(sides: Sequence[tuple[int, int]], signs: Sequence[int], texts: dict[int, str] = texts) -> set[tuple[str, int]]:
            return {(texts[no], label * sign) for no, label in sides for sign in signs}

        preferences = staging.selected(prompt)
        kept = {side for one in preferences for side in said(one.sides, one.signs)}
        for one in preferences:
            if said(one.masked, one.signs) & kept:
                staging.run(
                    "update rows set more = json_set(more, '$.still_there', coalesce(json_extract(more, '$.still_there'), 0) + 1) "
                    "where no = ?",
                    one.row,
                )


def _mix(staging: Staging, weights: Sequence[float]) -> None:
    """Leaves out prompts until the sources' numbers are in the ratio of their weights; the scarcest source keeps all of its own."""
    counts = [
        staging.number("select count(*) from prompts where live = 1 and source = ?", source) for source in range(len(weights))
    ]
    scale = min((count / weight for count, weight in zip(counts, weights, strict=True) if weight > 0), default=0.0)
    for source, weight in enumerate(weights):
        # Twice 1/3 of 9 is 6, not 5.999….
        kept = int(scale * weight + 1e-6)
        staging.run(
            "update prompts set live = 2 where live = 1 and source = ?1 and no not in "
            "(select no from prompts where live = 1 and source = ?1 order by mixture_rank limit ?2)",
            *(source, kept),
        )
