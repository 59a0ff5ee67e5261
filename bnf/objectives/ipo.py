"""IPO (arXiv 2310.12036, eq. 17): `(Δ − 1/(2τ))²`, Δ the difference of the pair's log-ratios per token, as in the authors'
results.

`form: sum` takes the log-ratios summed over tokens, as the equation is printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bnf.objectives._base import BaseObjective, Losses, RowLogps, check_option, check_positive


@dataclass(frozen=True)
class Objective(BaseObjective):
    needs_reference: ClassVar[bool] = True
    needs_pairs: ClassVar[bool] = True

    tau: float = 0.1
    form: str = "mean"

    def __post_init__(self) -> None:
        check_positive("tau", self.tau, "the field tunes over 0.01, 0.1, 0.5 and 1")
        check_option(self.form in ("mean", "sum"), "form", "be mean or sum", self.form, "mean is per token")

    def losses(self, row: RowLogps) -> Losses:
        logratios = row.logratios / row.lengths if self.form == "mean" else row.logratios
        return Losses(pairs=(row.margins(logratios) - 1 / (2 * self.tau)) ** 2)
