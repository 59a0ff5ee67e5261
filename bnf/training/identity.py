"""The step-0 check: before the first update policy and reference are one model, so BNF's weight of every token must be 1."""

import logging

from bnf.model.loading import Numerics, numerics
from bnf.objectives import RowLogps
from bnf.objectives.bnf import feedback_weights
from bnf.parallel.group import gather
from bnf.training.means import Means
from bnf.training.own_reference import ReferenceMismatch

_logger = logging.getLogger(__name__)


class IdentityCheck:
    """Takes the rows of the first step, and compares policy and reference on them."""

    def __init__(self, computed_with: Numerics | None, *, lora_dropout: float) -> None:
        """`computed_with` is what the reference was computed with, for the message; None where its cache doesn't say."""
        self._computed_with = computed_with
        self._lora_dropout = lora_dropout
        self._means = Means()

    def add_row(self, row: RowLogps) -> None:
        """Adds a row of the first step."""
        if row.reference_per_token_log_odds is not None:
            self._means.add("weight", feedback_weights(row.per_token_log_odds, row.reference_per_token_log_odds))

    def mean_weight(self) -> float | None:
        """The mean of BNF's weight over all tokens that were added; None where no reference was read."""
        return self._means.pop().get("weight")

    def check(self, device: str) -> None:
        """Compares policy and reference on the rows that were added. `device` is the kind of device that the policy is on.

        Raises:
            ReferenceMismatch: policy and reference differ, and nothing in the settings makes them differ.
        """
        # All processes agree, also where one of them has a row that differs and the others have none: each raises the error.
        means = [mean for mean in gather(self.mean_weight()) if mean is not None]
        mean = max(means, key=lambda mean: abs(mean - 1), default=None)
        # On CPU the two passes agree to the bit. CUDA kernels may differ with and without gradient; packed against padded in bf16
        # would be off by 7e-3.
        tolerance = 1e-6 if device == "cpu" else 1e-3
        if mean is None or abs(mean - 1) <= tolerance:
            return
        if self._lora_dropout > 0:
            _logger.warning(
                "the mean weight at step 0 is %s: lora_dropout %g keeps the policy from equalling the reference; 0 would have the "
                "equality checked",
                *(mean, self._lora_dropout),
            )
            return
        made = {} if self._computed_with is None else self._computed_with.to_json()
        raise ReferenceMismatch(
            f"the mean weight at step 0 must be 1 within {tolerance:g}, got {mean!r}: policy and reference differ before training; "
            f"the reference was computed with {made}, this is {numerics().to_json()}",
            mean,
        )
