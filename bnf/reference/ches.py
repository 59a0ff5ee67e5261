"""CHES scores: which pairs will make training lower the likelihood of their own preferred completion, known before it.

The centered hidden embedding similarity of a pair is large where the model embeds both completions alike, and where the dispreferred
one's embedding is the longer. "Unintentional Unalignment: Likelihood Displacement in Direct Preference Optimization"
(https://arxiv.org/abs/2410.08847) derives it from the gradient of preference losses and finds that pairs with high scores displace
likelihood most. The reference pass computes the scores beside the log-probabilities, from the hidden states that the head reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bnf.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

    from bnf.data.packing import Row

# One line per pair, in the order of the data set.
CHES_FILE = "ches.jsonl"
# The forms by their names in a line: summed over tokens, and of means.
CHES, MEAN_CHES = "ches", "mean_ches"

# Pairs whose sums are copied at once.
_PAIRS_AT_ONCE = 256


class PairScore(NamedTuple):
    """A line of ches.jsonl: a pair by its group's id and its completions' places in the group, and its scores; None: not finite."""

    group: str
    chosen: int
    rejected: int
    ches: float | None
    mean_ches: float | None


def ches_scores(hidden_sums: Tensor, lengths: Tensor, pairs: Tensor) -> dict[str, Tensor]:
    """The CHES scores of pairs, in both forms. (P,) each

    Definition 2 of the paper is `⟨Σ_k h(y⁺)_k, Σ_k h(y⁻)_k⟩ − ‖Σ_k h(y⁺)_k‖²`, where `h(y)_k` is the last hidden state that predicts the
    k-th token of `y` after the prompt: of the first token that is the prompt's last state. `mean_ches` has means over the tokens in place
    of the sums, the length-normalized form by which section 6 of the paper leaves pairs out. Both are computed in float64
    as `⟨h⁺, h⁻ − h⁺⟩`: so equal sums score exactly 0, and alike ones lose no digits.

    A head that scales its logits (Cohere, Granite) changes all scores of a model by one factor, which is left out, as is a soft cap.

    Args:
        hidden_sums: (C, D) of each completion the sum of its hidden states.
        lengths: (C,) how many tokens each has.
        pairs: (P, 2) chosen and rejected completion.
    """
    import torch

    device = hidden_sums.device
    divisors = {CHES: torch.ones_like(lengths, device=device), MEAN_CHES: lengths.to(device)}
    found: dict[str, list[Tensor]] = {form: [] for form in divisors}
    # Many samples of a prompt have many more pairs.
    for part in pairs.to(device).split(_PAIRS_AT_ONCE):
        for form, divisor in divisors.items():
            chosen, rejected = (hidden_sums[side].double() / divisor[side][:, None] for side in part.T)
            found[form].append((chosen * (rejected - chosen)).sum(dim=1))
    return {form: torch.cat(parts) for form, parts in found.items()}


def pairs_digest(rows: Sequence[Row]) -> str:
    """The digest of all pairs of these rows: what scores depend on beside the token ids."""
    digest = sha256()
    for row in rows:
        for group in row.groups:
            digest.update(json.dumps(group.pairs).encode())
    return digest.hexdigest()


def write_scores(path: Path, rows: Sequence[Row], scores: Iterator[tuple[float, float]]) -> None:
    """Writes a line for each pair, as `PairScore` has it. Without a pair there is no file.

    Args:
        scores: `ches` and `mean_ches` of each pair, in the order of the rows.
    """
    places: dict[int, tuple[str, list[tuple[int, int, float, float]]]] = {}
    for row in rows:
        for index, group in zip(row.indices, row.groups, strict=True):
            if group.pairs:
                places[index] = group.id, [(*pair, *next(scores)) for pair in group.pairs]
    if not places:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as lines:
        for index in sorted(places):
            id, pairs = places[index]
            for chosen, rejected, summed, mean in pairs:
                line = PairScore(id, chosen, rejected, _short(summed), _short(mean))
                lines.write(json.dumps(line._asdict(), ensure_ascii=False) + "\n")


def read_scores(path: Path) -> Iterator[PairScore]:
    """The lines that `write_scores` wrote."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield PairScore(**json.loads(line))


def _short(value: float) -> float | None:
    """The value in as many digits as a float32 has."""
    return float(f"{value:.7g}") if math.isfinite(value) else None
