"""The sections of a recipe that say where preferences come from and how they become prompt groups."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data.preparing.config import PrepareConfig, RatingRule
from data.reading.records import DataSource
from flows.recipe.paths import MayBeLocal
from flows.recipe.section import Section, read_as


@read_as(DataSource)
class Data(Section):
    """Preference data from outside; a list of these is a mixture."""

    source: str = Field(description="a file in `data/sources` that gives preferences")
    path: Annotated[str, MayBeLocal()] = Field(description="the data: a local file or folder, an fsspec URL, or a hub id")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="what the data calls the source's roles: `{prompt: question}`; a dot goes into an object",
    )
    weight: float | None = Field(
        None,
        gt=0,
        description=(
            "in a mixture: its part of the prompts, in relation to the others' weights; left out everywhere: all prompts"
        ),
    )
    split: str | None = Field(
        None, description="of a hub's set, left out: `train`; or of a folder with several, by its whole name"
    )
    config: str | None = Field(None, description="of a hub's set, as load_dataset takes it")
    revision: str | None = Field(None, description="of a hub's set, as load_dataset takes it")
    streaming: bool = Field(False, description="read a hub's set without keeping it on disk")
    limit: int | None = Field(
        None, gt=0, description="the first so many prompts, in the order in which they appear, each with all of its rows"
    )


@read_as(RatingRule)
class Ratings(Section):
    """How ratings become labels."""

    threshold: float | None = Field(
        None,
        description="preferred from threshold + margin on, dispreferred from threshold − margin down; left out: by `quantile`",
    )
    margin: float = Field(0.0, ge=0, description="half the width of the middle around the threshold")
    quantile: float = Field(
        0.5,
        gt=0,
        le=0.5,
        description="without a threshold: this share at either end of each prompt's rated completions, at least one",
    )
    middle: Literal["drop", "keep"] = Field(
        "drop", description="what is between: left out, or kept on its side of the threshold or of the prompt's median"
    )


@read_as(PrepareConfig, unread=("num_proc",))
class Prepare(Section):
    """From records to prompt groups."""

    max_preferred: int | None = Field(
        None, gt=0, description="completions kept per prompt, of those that are no row's pair; left out: all"
    )
    max_dispreferred: int | None = Field(None, gt=0, description="as `max_preferred`")
    mask_fraction: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of pairs of which one side is kept, half of them the chosen: masked non-pairwise data",
    )
    mask_to_chosen: float = Field(0.0, ge=0, le=1, description="instead: share of pairs that keep the chosen side alone")
    mask_to_rejected: float = Field(0.0, ge=0, le=1, description="and share of pairs that keep the rejected side alone")
    pairing: Literal["none", "best_worst", "all"] = Field(
        "none",
        description=(
            "which completions are compared: none, or a row's own pairs and, of samples and ratings, the best "
            "with the worst or all"
        ),
    )
    keep: Literal["all", "best_worst", "balanced"] = Field(
        "all",
        description="of a prompt's completions that are no row's pair: all, the best and the worst, or as many of each label",
    )
    min_reward_gap: float = Field(
        0.0, ge=0, description="prompts whose best and worst rewards are nearer than this are left out"
    )
    ties: Literal["drop", "both_preferred", "both_dispreferred"] = Field(
        "drop", description="votes without a winner: left out, or both completions labelled so"
    )
    ratings: Ratings = Field(Ratings(), description="how ratings become labels")
    dev_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of prompts put aside in `dev/`, on which settings are chosen; neither masked nor noisy",
    )
    flip_fraction: float = Field(
        0.0, ge=0, le=1, description="noise: share of preferences (pairs, or labelled completions) that are flipped"
    )
    contradict_fraction: float = Field(
        0.0,
        ge=0,
        le=1,
        description="noise: share of preferences (pairs, or labelled completions) that are repeated with the opposite labels",
    )
    completion_span: Literal["turn", "simpo"] = Field(
        "turn",
        description=(
            "which tokens are the completion's: up to the turn's end; or, as SimPO's code has it, header, "
            "trailing text and an EOS too"
        ),
    )
    changed_completions: Literal["refuse", "as_rendered"] = Field(
        "refuse",
        description=(
            "completions that the chat template doesn't write whole, as where it strips reasoning: left out, or "
            "taken as it writes them"
        ),
    )
    max_length: int = Field(2048, gt=0, description="prompt and completion, in tokens")
    max_prompt_length: int = Field(1800, gt=0, description="in tokens, with the chat template")
    truncation: Literal["drop", "raise", "truncate_prompt", "truncate_completion"] = Field(
        "drop",
        description=(
            "what is longer: left out and listed in the ledger, an error, or cut at the prompt's beginning or "
            "the completion's end"
        ),
    )
    max_dropped_share: float = Field(0.5, ge=0, le=1, description="the stage fails when more rows than this are lost")
    num_proc: int | None = Field(
        None,
        gt=0,
        description=(
            "processes that tokenize and write, at most one per core; left out: one per core, with `ray.address` of the cluster; no part "
            "of the key, for the bytes are the same"
        ),
    )

    @model_validator(mode="after")
    def _one_way_to_mask(self) -> Prepare:
        sides = self.mask_to_chosen + self.mask_to_rejected
        if sides > 1 or (sides and self.mask_fraction):
            raise ValueError(
                "mask_to_chosen and mask_to_rejected must sum to 1 at most and stand without mask_fraction, got "
                f"{self.mask_to_chosen}, {self.mask_to_rejected} and {self.mask_fraction}; lower or remove one"
            )
        return self

    @property
    def masked_share(self) -> float:
        """The share of pairs that lose a side."""
        return self.mask_fraction + self.mask_to_chosen + self.mask_to_rejected
