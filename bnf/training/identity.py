"""The step-0 check: before the first update the policy is the model whose values are cached. Where that is the reference, BNF's weight of
every token must be 1; where it is `old` or `base`, the ratio.
"""

import logging

from bnf.model.loading import Numerics, numerics
from bnf.objectives import RowLogps
from bnf.objectives.bnf import feedback_weights
from bnf.parallel.group import gather
from bnf.training.means import Means
from bnf.training.own_reference import BASE, OLD, REFERENCE, TITLES, ReferenceMismatch

_logger = logging.getLogger(__name__)


class IdentityCheck:
    """Takes the rows of the first step, and compares the policy with cached values on them."""

    def __init__(self, computed_with: Numerics | None, *, lora_dropout: float, of: str = REFERENCE) -> None:
        """`computed_with` is what the values were computed with, for the message; None where their cache doesn't say. `of` is `reference`,
        `old` or `base`.
        """
        self._computed_with = computed_with
        self._lora_dropout = lora_dropout
        self._of = of
        self._means = Means()

    def add_row(self, row: RowLogps) -> None:
        """Adds a row of the first step."""
        policy, cached = {
            REFERENCE: (row.per_token_log_odds, row.reference_per_token_log_odds),
            OLD: (row.per_token_logps, row.old_per_token_logps),
            BASE: (row.per_token_logps, row.base_per_token_logps),
        }[self._of]
        if cached is not None:
            # None counts above 1, so that none makes up for another.
            self._means.add("weight", feedback_weights(policy, cached))

    def mean_weight(self) -> float | None:
        """The mean of BNF's weight, or of the ratio, over all tokens that were added; None where no cached value was read."""
        return self._means.pop().get("weight")

    def check(self, device: str) -> None:
        """Compares policy and cached values on the rows that were added. `device` is the kind of device that the policy is on.

        Raises:
            ReferenceMismatch: they differ, and nothing in the settings makes them differ.
        """
        # All processes agree, also where one of them has a row that differs and the others have none: each raises the error.
        means = [mean for mean in gather(self.mean_weight()) if mean is not None]
        mean = max(means, key=lambda mean: abs(mean - 1), default=None)
        # On CPU the two passes agree to the bit. CUDA kernels may differ with and without gradient; packed against padded in bf16
        # would be off by 7e-3.
        tolerance = 1e-6 if device == "cpu" else 1e-3
        if mean is None or abs(mean - 1) <= tolerance:
            return
        figure = "weight" if self._of == REFERENCE else "ratio"
        if self._lora_dropout > 0:
            _logger.warning(
                "the mean %s at step 0 is %s: lora_dropout %g keeps the policy from equalling %s; 0 would have the equality checked",
                *(figure, mean, self._lora_dropout, TITLES[self._of]),
            )
            return
        made = {} if self._computed_with is None else self._computed_with.to_json()
        raise ReferenceMismatch(
            f"the mean {figure} at step 0 must be 1 within {tolerance:g}, got {mean!r}: policy and {self._of} differ before training; "
            f"{TITLES[self._of]} had {made}, this is {numerics().to_json()}",
            mean,
            self._of,
        )
