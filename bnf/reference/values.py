"""What the cache holds of a row: the reference's values of its completions' tokens, and of its KL pairs."""

from dataclasses import dataclass

from torch import Tensor

from bnf.data.packing import Row


@dataclass(frozen=True)
class KlPairReference:
    """A row's KL pairs (`bnf.reference.kl_pairs`), and the reference's log-probabilities of their tokens: float32, (N,)."""

    row: Row
    logps: Tensor


@dataclass(frozen=True)
class RowReference:
    """A model's values of a row's completion tokens: float32, (N,) each; of its KL pairs where the objective needs them."""

    logps: Tensor
    log_odds: Tensor
    entropies: Tensor | None = None
    kl_pairs: KlPairReference | None = None
