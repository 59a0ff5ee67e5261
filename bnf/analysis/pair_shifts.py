"""What training did to each pair's preferred completion, beside the pair's CHES score, which was there before (`bnf.reference.ches`)."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from bnf.data.packing import Row
from bnf.files import replacing
from bnf.reference.ches import CHES_FILE, read_scores
from bnf.reference.values import RowReference

# One line per pair, in the order of ches.jsonl.
PAIR_SHIFTS_FILE = "pair_shifts.jsonl"


def write_pair_shifts(
    output_dir: Path,
    reference_dir: Path,
    rows: Sequence[Row],
    policies: Sequence[RowReference],
    references: Sequence[RowReference],
) -> None:
    """Writes the lines of the reference's ches.jsonl, each with `shift` and `mean_shift`: how far the log-probability of the pair's
    preferred completion moved from reference to policy, summed and per token, in nats; below 0 it fell.

    Without scores (no pairs, or a reference of an older version) there is no file.
    """
    path = output_dir / PAIR_SHIFTS_FILE
    if not (reference_dir / CHES_FILE).is_file():
        path.unlink(missing_ok=True)
        return
    shifts: dict[str, list[tuple[float, float]]] = {}
    for row, policy, reference in zip(rows, policies, references, strict=True):
        moved = (policy.logps - reference.logps).double()
        sums = torch.zeros(len(row.lengths), dtype=torch.float64).index_add(0, row.completion_of_token, moved)
        both = iter(zip(sums.tolist(), (sums / row.lengths).tolist(), strict=True))
        for group in row.groups:
            of_group = [next(both) for _ in group.completions]
            if group.pairs:
                shifts[group.id] = of_group
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as lines:
        for score in read_scores(reference_dir / CHES_FILE):
            shift, mean_shift = shifts[score.group][score.chosen]
            lines.write(json.dumps({**score._asdict(), "shift": shift, "mean_shift": mean_shift}, ensure_ascii=False) + "\n")
