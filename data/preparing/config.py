"""The recipe's `prepare` section, as the stage is given it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from bnf.data.chat_template import DEFAULT_DATE
from evaluation.records import Record

Truncation = Literal["drop", "raise", "truncate_prompt", "truncate_completion"]


@dataclass(frozen=True)
class RatingRule:
    """How ratings become labels.

    With a `threshold`, ratings from threshold + margin on are preferred, and from threshold − margin down dispreferred. Without one, each
    prompt's upper `quantile` of rated completions is preferred and the lower one dispreferred, at least one each. What lies between is
    dropped, or with `middle="keep"` labelled by its side of the threshold or of the prompt's median.
    """

    threshold: float | None = None
    margin: float = 0.0
    quantile: float = 0.5
    middle: Literal["drop", "keep"] = "drop"


@dataclass(frozen=True)
class PrepareConfig:
    """The recipe's `prepare` section; `flows.recipe.sections.Prepare` describes each key, and docs/data.md what they do together.

    `offline_mix`, the share of a round's prompts that is taken from the recipe's `data`, and `round` come from the `sample` section,
    `seed`, `date` and `system_prompt` from the top of the recipe. `every_sample` comes from the objective: all of a prompt's samples stay,
    those of equal text, those that ran into the limit and those in the middle of `ratings` too, for they are draws from the policy.
    """

    max_preferred: int | None = None
    max_dispreferred: int | None = None
    mask_fraction: float = 0.0
    mask_to_chosen: float = 0.0
    mask_to_rejected: float = 0.0
    pairing: Literal["none", "best_worst", "all"] = "none"
    keep: Literal["all", "best_worst", "balanced"] = "all"
    min_reward_gap: float = 0.0
    ties: Literal["drop", "both_preferred", "both_dispreferred"] = "drop"
    ratings: RatingRule = field(default_factory=RatingRule)
    dev_fraction: float = 0.0
    flip_fraction: float = 0.0
    contradict_fraction: float = 0.0
    completion_span: Literal["turn", "simpo"] = "turn"
    changed_completions: Literal["refuse", "as_rendered"] = "refuse"
    max_length: int = 2048
    max_prompt_length: int = 1800
    truncation: Truncation = "drop"
    max_dropped_share: float = 0.5
    offline_mix: float = 0.0
    round: int = 1
    every_sample: bool = False
    seed: int = 0
    date: str = DEFAULT_DATE
    system_prompt: str | None = None

    @classmethod
    def from_dict(cls, values: Record) -> PrepareConfig:
        """The section from JSON values; names that are no field are ignored."""
        given = {one.name: values[one.name] for one in fields(cls) if one.name in values}
        if isinstance(given.get("ratings"), Mapping):
            given["ratings"] = RatingRule(**given["ratings"])
        return cls(**given)

    def num_masked(self, num_pairs: int) -> tuple[int, int]:
        """(number of pairs that keep the chosen side alone, number that keep the rejected one). `mask_fraction` is divided equally between
        the two; an odd number gives one more to the chosen side."""
        total = round(self.mask_fraction * num_pairs)
        num_chosen, num_rejected = round(self.mask_to_chosen * num_pairs), round(self.mask_to_rejected * num_pairs)
        # Two shares that are both rounded up may be one pair too many.
        return total - total // 2 + num_chosen, total // 2 + min(num_rejected, num_pairs - num_chosen)
