"""Reward model: a sequence classifier rewards each completion, compared with the other completions of its prompt.

Its rewards have no zero of their own. The reward is σ(its reward − its mean over the prompt's completions): one above the mean counts
as preferred, and the order is the reward model's. `label.judge` names the model (`engine: reward_model`); a completion that is too long for
it has the outcome "error", and prepare leaves it out.
"""

from __future__ import annotations

import math
from pathlib import Path

from bnf.data.marked import context_of
from data.labelers._unfinished import without_unfinished
from evaluation.judging.client import RewardJudge
from evaluation.judging.open_judge import open_judge as open_judge
from evaluation.judging.run import reward
from evaluation.records import read_repaired, write_whole
from evaluation.types import Progress

ASKS_JUDGE = True


def label(
    samples_file: Path,
    output_file: Path,
    *,
    judge: RewardJudge,
    calls_file: Path,
    fresh: bool = False,
    progress: Progress,
    **rest: object,
) -> None:
    """Writes the samples with a `reward`, the model's own as `raw_reward`, and an `outcome` for each completion: "rated", "error", or
    "no_answer" where its thought doesn't end; the reward model isn't shown thoughts.

    Raises:
        ValueError: the judge is no reward model, or a prompt has tools or documents, which it isn't given.
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
    asked = without_unfinished(records)
    answers = [({"id": record["id"], "conversation": record["messages"]}, said) for record, _, said in asked]
    rewards = iter(reward(judge, answers, calls_file=calls_file, progress=progress, fresh=fresh))
    for record in records:
        # Those without an answer have their outcome already.
        own = [(completion, next(rewards)) for completion in record["completions"] if "outcome" not in completion]
        known = [value for _, value in own if value is not None]
        mean = math.fsum(known) / len(known) if known else 0.0
        for completion, value in own:
            completion["raw_reward"] = value
            completion["reward"] = 0.0 if value is None else 1 / (1 + math.exp(min(700.0, mean - value)))
            completion["outcome"] = "error" if value is None else "rated"
    write_whole(output_file, records)
