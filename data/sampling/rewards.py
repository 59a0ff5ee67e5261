"""What labelled samples say of the policy that gave them: mean and best rewards, pass@k, and how many prompts teach something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bnf.plugins import load
from evaluation.answers.thoughts import answer_of
from evaluation.benchmarks import BENCHMARKS
from evaluation.records import Record
from evaluation.samples import pass_at_k as pass_at_k

# A reward above it counts as right, as it counts as preferred.
_RIGHT = 0.5


@dataclass(frozen=True)
class RewardStatistics:
    """Statistics of the samples of several prompts; a mean over nothing is None.

    Attributes:
        num_labels: completions with a reward; one that could not be labelled has none.
        reward_best: the mean of each prompt's best reward.
        gold_mean: the mean of what the benchmark itself says, where it can score the prompts.
        pass_at_k: by k, for the powers of two that every prompt has samples for. None where no reward says what is right, as the next two.
        all_right: the share of prompts of which every completion is right; `all_wrong`, of which none is. Both lack a contrast.
        distinct: the mean share of different texts among a prompt's completions.
        tokens: the mean length of a completion.
        unterminated: the share of completions that ran into the limit.
    """

    num_prompts: int
    num_samples: int
    num_labels: int
    num_tokens: int
    reward_mean: float | None
    reward_best: float | None
    gold_mean: float | None
    pass_at_k: dict[str, float | None] | None
    all_right: float | None
    all_wrong: float | None
    distinct: float | None
    tokens: float | None
    unterminated: float | None


@dataclass(frozen=True)
class Rewards:
    """The statistics of the prompts that are trained on, and of those that are held out; None where there are no samples of them."""

    trained: RewardStatistics | None
    held_out: RewardStatistics | None

    def to_json(self) -> Record:
        """As rewards.json has it: the held-out prompts' statistics beside the others, under a key of their own."""
        return {
            **(asdict(self.trained) if self.trained else {}),
            "held_out": asdict(self.held_out) if self.held_out else None,
        }


def add_gold(records: Sequence[Record], benchmark: str) -> None:
    """Gives each completion of a held-out prompt the benchmark's own score as `gold`: 1 correct, 0 not.

    Where the reward of a judge or a reward model rises and `gold` doesn't, the reward no longer measures what it should.
    """
    score = load(BENCHMARKS, benchmark).score
    for record in records:
        if record["held_out"]:
            for completion in record["completions"]:
                said = answer_of(completion, "text")
                is_right = said is not None and score(record["item"], said, completion["finish_reason"]).outcome == "correct"
                completion["gold"] = 1.0 if is_right else 0.0


def reward_statistics(records: Sequence[Record]) -> Rewards:
    """The statistics of labelled samples."""
    trained, held_out = ([record for record in records if record["held_out"] == held] for held in (False, True))
    return Rewards(_statistics(trained), _statistics(held_out))


def _statistics(records: Sequence[Record]) -> RewardStatistics | None:
    sampled = [completion for record in records for completion in record["completions"]]
    if not sampled:
        return None
    # A sample whose thought doesn't end has no raw reward beside those that have one.
    has_raw = any("raw_reward" in one for one in sampled)
    each = [
        # A reward model's reward is relative to the prompt's other samples; its raw one is on a scale for all prompts.
        [
            one.get("raw_reward", one["reward"])
            for one in record["completions"]
            if one["outcome"] not in ("error", "unrated") and ("raw_reward" in one or not has_raw)
        ]
        for record in records
    ]
    rewards = [prompt for prompt in each if prompt]
    labelled = [reward for prompt in rewards for reward in prompt]
    own_scale = any(one["outcome"] == "own_scale" or "raw_reward" in one for one in sampled)
    # On a scale of its own no reward says what is right.
    right = [] if own_scale else [(len(prompt), sum(reward > _RIGHT for reward in prompt)) for prompt in rewards]
    most = min((number for number, _ in right), default=0)
    return RewardStatistics(
        num_prompts=len(records),
        num_samples=len(sampled),
        num_labels=len(labelled),
        num_tokens=sum(len(one["token_ids"]) for one in sampled),
        reward_mean=_mean(labelled),
        reward_best=_mean([max(prompt) for prompt in rewards]),
        gold_mean=_mean([one["gold"] for one in sampled if "gold" in one]),
        pass_at_k={
            str(k): _mean([pass_at_k(number, count, k) for number, count in right])
            for k in (2**power for power in range(most.bit_length()))
        }
        or None,
        all_right=_mean([count == number for number, count in right]),
        all_wrong=_mean([count == 0 for _, count in right]),
        distinct=_mean(
            [len({one["text"] for one in record["completions"]}) / len(record["completions"]) for record in records]
        ),
        tokens=_mean([len(one["token_ids"]) for one in sampled]),
        unterminated=_mean([one["finish_reason"] != "stop" for one in sampled]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
