"""Signed negative log-likelihood, `−s·A`: BNF with every weight 1. Trained on it, a model collapses; BNF's weights prevent that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bnf.objectives._base import BaseObjective, Losses, RowLogps


@dataclass(frozen=True)
class Objective(BaseObjective):
    reads: ClassVar[tuple[str, ...]] = ("label_weighting", "length_normalization")

    def losses(self, row: RowLogps) -> Losses:
        return Losses(completions=-row.labels * row.logps / row.normalizers)
