"""What labelled samples say of the policy that gave them: mean and best rewards, pass@k, how many prompts teach something."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bnf.plugins import load
from evaluation.benchmarks import BENCHMARKS
from evaluation.records import Record

# A reward above it counts as right, as it counts as preferred.
_RIGHT = 0.5


def add_gold(records: Sequence[Record], benchmark: str) -> None:
    """Gives each completion of a held-out prompt the benchmark's own verdict as `gold`: 1 correct, 0 not.

    Beside it a reward that a judge or a reward model gives can be seen to part from what it stands for.
    """
    score = load(BENCHMARKS, benchmark).score
    for record in records:
        if record["held_out"]:
            for completion in record["completions"]:
                verdict = score(record["item"], completion["text"], completion["finish_reason"])
                completion["gold"] = 1.0 if verdict.outcome == "correct" else 0.0


def reward_statistics(records: Sequence[Record]) -> dict[str, Any]:
    """The statistics of the prompts that are trained on, and under `held_out` of the others; None where there are none."""
    held_out = [record for record in records if record["held_out"]]
    return {
        **(_statistics([record for record in records if not record["held_out"]]) or {}),
        "held_out": _statistics(held_out),
    }


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """The chance that of k of the samples, drawn without replacement, one is right: 1 − C(n−c, k)/C(n, k) (arXiv 2107.03374)."""
    return 1 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def _statistics(records: Sequence[Record]) -> dict[str, Any] | None:
    sampled = [completion for record in records for completion in record["completions"]]
    if not sampled:
        return None
    # A completion that could not be labelled has no reward, and is counted.
    rewards = [
        # A reward model's labels are relative to the prompt's other samples; its own scale is not.
        [one.get("raw_reward", one["reward"]) for one in record["completions"] if one["outcome"] not in ("error", "unrated")]
        for record in records
    ]
    rewards = [prompt for prompt in rewards if prompt]
    labelled = [reward for prompt in rewards for reward in prompt]
    gold = [one["gold"] for one in sampled if "gold" in one]
    return {
        "num_prompts": len(records),
        "num_samples": len(sampled),
        "num_labels": len(labelled),
        "num_tokens": sum(len(one["token_ids"]) for one in sampled),
        "reward_mean": _mean(labelled),
        "reward_best": _mean([max(prompt) for prompt in rewards]),
        "gold_mean": _mean(gold),
        **_verified(rewards, on_own_scale=any(one["outcome"] == "own_scale" or "raw_reward" in one for one in sampled)),
        "distinct": _mean(
            [len({one["text"] for one in record["completions"]}) / len(record["completions"]) for record in records]
        ),
        "tokens": _mean([len(one["token_ids"]) for one in sampled]),
        "unterminated": _mean([one["finish_reason"] != "stop" for one in sampled]),
    }


def _verified(rewards: Sequence[Sequence[float]], *, on_own_scale: bool) -> dict[str, Any]:
    """pass@k for the powers of two that every prompt has samples for, and the shares of prompts without a contrast. On a scale of its
    own no reward says what is right."""
    if on_own_scale or not rewards:
        return {"pass_at_k": None, "all_right": None, "all_wrong": None}
    counts = [(len(prompt), sum(reward > _RIGHT for reward in prompt)) for prompt in rewards]
    most = min(number for number, _ in counts)
    powers = [2**power for power in range(most.bit_length())]
    return {
        "pass_at_k": {str(k): _mean([pass_at_k(number, right, k) for number, right in counts]) for k in powers},
        "all_right": _mean([right == number for number, right in counts]),
        "all_wrong": _mean([right == 0 for _, right in counts]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
