"""Supervised fine-tuning on the preferred completions, `−A_w`; the others give no loss."""

from __future__ import annotations

from dataclasses import dataclass

from bnf.data.groups import Completion, PromptGroup
from bnf.objectives._base import BaseObjective, Losses, RowLogps


@dataclass(frozen=True)
class Objective(BaseObjective):
    def losses(self, row: RowLogps) -> Losses:
        return Losses(completions=-row.average_logps * (row.labels > 0))

    def learns_from(self, completion: Completion) -> bool:
        return completion.label > 0

    def num_completions(self, group: PromptGroup) -> int:
        return sum(self.learns_from(completion) for completion in group.completions)
