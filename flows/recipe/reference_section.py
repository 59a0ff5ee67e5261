"""The section of a recipe for a reference of its choice."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from bnf.objectives import load_objective
from bnf.training.config import TrainConfig
from flows.recipe.paths import MayBeLocal
from flows.recipe.section import Section
from flows.recipe.sections import Sample


class Reference(Section):
    """The model that the objective compares the policy with, where that isn't the one that training starts from as it is."""

    model_name_or_path: Annotated[str | None, MayBeLocal()] = Field(
        None, description="a folder or a hub id, of the same tokenizer; left out: the base model"
    )
    revision: str | None = Field(None, description="of a hub id: a branch, tag or commit")
    temperature: float = Field(1.0, gt=0, description="its logits are divided by this")

    @model_validator(mode="after")
    def _names_a_model(self) -> Reference:
        if self.revision is not None and self.model_name_or_path is None:
            raise ValueError(
                f"revision must come with reference.model_name_or_path, got {self.revision!r} alone; add the hub id that has it"
            )
        return self

    def unless(self, model_name_or_path: str, revision: str | None) -> Reference | None:
        """This reference, without a name where it is that model's; None where it is that model as it is."""
        given = self
        if (given.model_name_or_path, given.revision) == (model_name_or_path, revision):
            given = given.model_copy(update={"model_name_or_path": None, "revision": None})
        return None if given == Reference() else given

    def check_read(self, train: TrainConfig) -> None:
        """Refuse a reference that nothing reads."""
        objective = load_objective(train.objective, train.objective_options)
        if not objective.needs_reference:
            hint = (
                "set train.objective_options.kl_coef"
                if hasattr(objective, "kl_coef")
                else "take one that does, such as bnf or dpo"
            )
            raise ValueError(
                f"reference must be left out for train.objective={train.objective}, which reads none with these options, got "
                f"{self.model_dump(exclude_none=True)}; remove it, or {hint}"
            )

    def check_rounds(self, sample: Sample) -> None:
        """Refuse rounds that have references of their own beside a section that says something, be it that it is the base model."""
        if sample.reference == "each_round" and self != Reference():
            raise ValueError(
                "sample.reference must be fixed beside the section reference, whose model is that of all rounds, got each_round; remove "
                "one of them"
            )
