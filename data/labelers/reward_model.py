"""Reward model: a completion's reward is what a sequence classifier gives it, compared with the other completions of its prompt.

Rewards have no zero of their own: what is kept is σ(reward − mean over the prompt's completions), so that one above the mean counts as
preferred, and the order is the reward model's. `label.judge` names the model (`engine: reward_model`); a completion that is too long for
it has the outcome "error", and prepare leaves it out.
"""

from __future__ import annotations

import math
from pathlib import Path

from bnf.data.marked import context_of
from evaluation.judging.client import RewardJudge
from evaluation.judging.open_judge import open_judge as open_judge
from evaluation.judging.run import reward
from evaluation.records import read_repaired, write_whole
from evaluation.types import Progress


def label(
    samples_file: Path, output_file: Path, *, judge: RewardJudge, calls_file: Path, fresh: bool = False, progress: Progress
) -> None:
    """Writes the samples with a `reward`, the model's own as `raw_reward`, and an `outcome` ("rated" or "error") for each completion.

    Raises:
        ValueError: where the judge is no reward model.
    """
    if judge.mode != "reward":
        raise ValueError(
            f"label.judge.engine must be reward_model for the labeler reward_model, got a judge by {judge.mode}; set it"
        )
    records = read_repaired(samples_file)
    if beside := next((record["id"] for record in records if context_of(record)), None):
        raise ValueError(
            f"label.labeler must be one that reads all of the prompts, got reward_model for {beside}, whose tools or documents it isn't "
            "given; take other prompts, or label by ratings"
        )
    answers = [
        ({"id": record["id"], "conversation": record["messages"]}, completion["text"])
        for record in records
        for completion in record["completions"]
    ]
    rewards = iter(reward(judge, answers, calls_file=calls_file, progress=progress, fresh=fresh))
    for record in records:
        own = [next(rewards) for _ in record["completions"]]
        known = [value for value in own if value is not None]
        mean = math.fsum(known) / len(known) if known else 0.0
        for completion, value in zip(record["completions"], own, strict=True):
            completion["raw_reward"] = value
            completion["reward"] = 0.0 if value is None else 1 / (1 + math.exp(min(700.0, mean - value)))
            completion["outcome"] = "error" if value is None else "rated"
    write_whole(output_file, records)
