"""The rows of a training, and the reference's values with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bnf.data.groups import PromptGroup
from bnf.data.packing import Row, pack
from bnf.reference.values import RowReference
from bnf.training.config import TrainConfig


@dataclass(frozen=True)
class TrainRow:
    """A row, and the reference's values of it where there is a reference; `old` are those of the policy that the training starts from,
    where the objective needs them and the reference is another model. `base` are those of the base model, from which shifts are
    measured where the recipe names another reference.
    """

    row: Row
    reference: RowReference | None
    old: RowReference | None = None
    base: RowReference | None = None
    # False of a row that only keeps a process busy while others compute the rest of a step.
    counts: bool = True


def training_rows(config: TrainConfig, groups: Sequence[PromptGroup]) -> list[Row]:
    """The rows that the groups are packed into.

    Raises:
        ValueError: the longest group, which is named, is longer than a row.
    """
    return pack(
        groups,
        config.row_tokens,
        max_groups_per_row=config.max_groups_per_row,
        share_prompts=config.share_prompts,
    )


def with_reference(
    config: TrainConfig,
    rows: Sequence[Row],
    reference_dir: Path | None,
    old_dir: Path | None = None,
    base_dir: Path | None = None,
) -> list[TrainRow]:
    """Each row with the reference's values of it, where there is a reference, and with `old` and `base` from their folders where these
    are given.

    Raises:
        FileNotFoundError, ValueError: as `read_reference`.
    """
    if not rows or reference_dir is None:
        return [TrainRow(row, None) for row in rows]
    references: Sequence[RowReference] = _read(config, rows, reference_dir, kl_pairs=config.needs_kl_pairs)
    none: Sequence[RowReference | None] = [None] * len(rows)
    old, base = (none if folder is None else _read(config, rows, folder, kl_pairs=False) for folder in (old_dir, base_dir))
    return [TrainRow(*of_row) for of_row in zip(rows, references, old, base, strict=True)]


def _read(config: TrainConfig, rows: Sequence[Row], folder: Path, *, kl_pairs: bool) -> list[RowReference]:
    # They import transformers, which a plan's look at the rows does not need.
    from bnf.reference.cache import read_reference
    from bnf.reference.kl_pairs import kl_pair_rows

    return read_reference(
        folder,
        rows,
        max_tokens_per_row=config.row_tokens,
        bf16=config.bf16,
        weights=config.weights,
        load_in_4bit=config.load_in_4bit,
        kl_pairs=kl_pair_rows(rows) if kl_pairs else None,
    )
