"""Conservative DPO (https://ericmitchell.ai/cdpo.pdf): `(1−ε)·ℓ(Δ) + ε·ℓ(−Δ)` with DPO's `ℓ(Δ) = −log σ(βΔ)`; labels are
wrong with probability ε.
"""

from __future__ import annotations

from dataclasses import dataclass

from bnf.objectives._base import Losses, RowLogps, check_non_negative, check_option, negative_log_sigmoid
from bnf.objectives.dpo import Objective as DPO


@dataclass(frozen=True)
class Objective(DPO):
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_non_negative("label_smoothing", self.label_smoothing, "it is the share of wrong labels")
        check_option(
            self.label_smoothing < 0.5,
            "label_smoothing",
            "lie in [0, 0.5)",
            self.label_smoothing,
            "it is the share of wrong labels",
        )

    def losses(self, row: RowLogps) -> Losses:
        logits = self.beta * row.margins(row.logratios)
        right, wrong = negative_log_sigmoid(logits), negative_log_sigmoid(-logits)
        return Losses(pairs=(1 - self.label_smoothing) * right + self.label_smoothing * wrong)
