"""WildBench v2's two scores, from recorded judgments. https://arxiv.org/abs/2406.04770

WB-Score = (mean of 1…10 − 5) × 2, shown ×10. WB-Reward: much better ±1, slightly better ±½, tie 0, over all items, shown ×100; with
a length margin K ≥ 0 a slight win is a tie where the winner is more than K characters longer. Outputs that were cut or are empty
leave WB-Reward's numerator and stay in its denominator. The task means use an item's primary and secondary tags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation._records import Record
from evaluation.judges._pairwise_score import NUM_RESAMPLES, distrust, percentiles, position_bias

REWARDS = {"A>>B": 1.0, "A>B": 0.5, "A=B": 0.0, "B>A": -0.5, "B>>A": -1.0}
MARGINS = (-1, 1, 500, 1000, 1500)  # −1: off; the others are those that were published
CUT = "... (truncated)"
EMPTY = "[This model response is empty.]"

TASKS = {
    "Information seeking": "Information/Advice seeking",
    "Advice seeking": "Information/Advice seeking",
    "Creative Writing": "Creative Tasks",
    "Editing": "Creative Tasks",
    "Brainstorming": "Creative Tasks",
    "Role playing": "Creative Tasks",
    "Others": "Creative Tasks",
    "Coding & Debugging": "Coding & Debugging",
    "Reasoning": "Planning & Reasoning",
    "Planning": "Planning & Reasoning",
    "Math": "Math & Data Analysis",
    "Data Analysis": "Math & Data Analysis",
}
TASK_WEIGHTS = {
    "Creative Tasks": 0.5,
    "Planning & Reasoning": 1.25,
    "Math & Data Analysis": 1.0,
    "Information/Advice seeking": 0.75,
    "Coding & Debugging": 1.25,
}


def task_groups(primary_tag: str, secondary_tags: Sequence[str]) -> list[str]:
    """The task groups that an item counts for, each once.

    Raises:
        ValueError: where a tag is none of WildBench's.
    """
    tags = [primary_tag, *secondary_tags]
    unknown = [tag for tag in tags if tag not in TASKS]
    if unknown:
        raise ValueError(f"tags must be WildBench's ({', '.join(TASKS)}), got {unknown[0]!r}; correct the question")
    return list(dict.fromkeys(TASKS[tag] for tag in tags))


def rescaled(mean_score: float) -> float:
    """WB-Score of a mean of 1…10, as it is published."""
    return (mean_score - 5) * 20


def aggregate_scores(
    records: Sequence[Record],
    *,
    num_expected: int,
    tasks: Mapping[str, Sequence[str]] | None = None,
    demonstration: bool = False,
    seed: int = 0,
) -> Record:
    """WB-Score over records with `question_id`, `score` (None where there is no verdict) and `output` (`characters`, `empty`, `cut`).

    `tasks` are the task groups by question: with them there is `wb_score_macro`; cut and empty outputs don't count for it.
    """
    scored = [(record["question_id"], record["score"]) for record in records if record["score"] is not None]
    num_null = len(records) - len(scored)
    null_share = num_null / len(records) if records else 0.0
    values = [score for _, score in scored]
    reason = distrust(len(scored), null_share, demonstration=demonstration)
    if len(values) > 1 and len(set(values)) == 1:
        reason = "; ".join(filter(None, [reason, f"every answer has the score {values[0]:g}"]))
    by_task = _by_task(
        [(r["question_id"], r["score"]) for r in records if r["score"] is not None and not _left_out(r["output"])], tasks
    )
    ci = _mean_interval(values, seed)
    shown = None if ci is None else [rescaled(bound) for bound in ci]
    return {
        "wb_score": rescaled(sum(values) / len(values)) if values else None,
        "mean_score": sum(values) / len(values) if values else None,
        # One row a question: the interval by rows is the one by questions.
        "ci": shown,
        "ci_clustered": shown,
        "wb_score_macro": None if by_task is None else _macro({task: rescaled(mean) for task, mean in by_task.items()}),
        "wb_score_by_task": None if by_task is None else {task: rescaled(mean) for task, mean in by_task.items()},
        **_counts(records, num_null, num_expected),
        **_outputs([record["output"] for record in records]),
        "position_bias": None,
        "trusted": not reason,
        "untrusted_reason": reason,
        "demonstration": demonstration,
    }


def aggregate_rewards(
    records: Sequence[Record],
    *,
    num_expected: int,
    orders: str = "one",
    tasks: Mapping[str, Sequence[str]] | None = None,
    demonstration: bool = False,
    seed: int = 0,
) -> Record:
    """WB-Reward over records with `question_id`, `game` (1: the candidate is B), `verdict`, and both `output`s.

    With both orders a question's reward is the mean of its two games. `wb_reward_by_margin` has the published margins.
    """
    num_null = sum(record["verdict"] is None for record in records)
    null_share = num_null / len(records) if records else 0.0
    by_margin = {margin: [_reward(record, margin) for record in records] for margin in MARGINS}
    # What was left out or not judged adds nothing and is still counted.
    total = {margin: _per_question(records, rewards) for margin, rewards in by_margin.items()}
    points = {margin: 100 * sum(values) / len(values) if values else None for margin, values in total.items()}
    kept = [
        (record["question_id"], reward) for record, reward in zip(records, by_margin[-1], strict=True) if reward is not None
    ]
    by_task = _by_task(kept, tasks)
    bias = position_bias(records, orders)
    reason = distrust(len(records) - num_null, null_share, demonstration=demonstration, bias=bias, needs_bias=True)
    ci = _mean_interval(total[-1], seed)
    shown = None if ci is None else [100 * bound for bound in ci]
    return {
        "wb_reward": points[-1] if len(records) > num_null else None,
        "ci": shown,
        "ci_clustered": shown,
        "wb_reward_by_margin": {str(margin): value for margin, value in points.items()},
        "wb_reward_macro": None if by_task is None else _macro({task: 100 * mean for task, mean in by_task.items()}),
        "wb_reward_by_task": None if by_task is None else {task: 100 * mean for task, mean in by_task.items()},
        **_counts(records, num_null, num_expected),
        "n_left_out": sum(_left_out(r["output"]) or _left_out(r["baseline_output"]) for r in records),
        **_outputs([record["output"] for record in records]),
        "baseline_mean_characters": _mean_characters([record["baseline_output"] for record in records]),
        "position_bias": bias,
        "trusted": not reason,
        "untrusted_reason": reason,
        "demonstration": demonstration,
    }


def output_facts(text: str) -> Record:
    """What the scores need of an output: its length, and whether it is empty or was cut, told as upstream tells it."""
    return {"characters": len(text), "empty": text in ("", EMPTY), "cut": text.endswith(CUT)}


def _left_out(output: Mapping[str, Any]) -> bool:
    return bool(output["empty"] or output["cut"])


def _reward(record: Record, margin: int) -> float | None:
    """The candidate's reward of a game; None for a null, and where an output was cut or is empty."""
    if record["verdict"] is None or _left_out(record["output"]) or _left_out(record["baseline_output"]):
        return None
    reward = REWARDS[record["verdict"]] * (-1 if record["game"] == 1 else 1)
    longer = record["output"]["characters"] - record["baseline_output"]["characters"]
    if margin >= 0 and abs(reward) == 0.5 and longer * (1 if reward > 0 else -1) > margin:
        return 0.0
    return reward


def _per_question(records: Sequence[Record], rewards: Sequence[float | None]) -> list[float]:
    by_question: dict[str, list[float]] = {}
    for record, reward in zip(records, rewards, strict=True):
        by_question.setdefault(record["question_id"], []).append(reward or 0.0)
    return [sum(values) / len(values) for values in by_question.values()]


def _mean_interval(values: Sequence[float], seed: int) -> list[float] | None:
    """Percentile bootstrap of the mean over questions, at 95 %."""
    if not values:
        return None
    import numpy as np

    distinct, counts = np.unique(np.array(values), return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=NUM_RESAMPLES)
    return percentiles(drawn @ distinct / len(values))


def _by_task(values: Sequence[tuple[str, float]], tasks: Mapping[str, Sequence[str]] | None) -> dict[str, float] | None:
    """The mean by task group, in a fixed order; None without tags."""
    if tasks is None:
        return None
    found: dict[str, list[float]] = {task: [] for task in TASK_WEIGHTS}
    for question, value in values:
        if question not in tasks:
            raise ValueError(
                f"questions must have the tags of every judged item, got none for {question!r}; give WildBench v2's"
            )
        for task in tasks[question]:
            found[task].append(value)
    return {task: sum(part) / len(part) for task, part in found.items() if part}


def _macro(by_task: Mapping[str, float]) -> float:
    # As published: the weights of all groups, also of one without items, stand in the denominator.
    return sum(TASK_WEIGHTS[task] * value for task, value in by_task.items()) / sum(TASK_WEIGHTS.values())


def _counts(records: Sequence[Record], num_null: int, num_expected: int) -> Record:
    n = len({record["question_id"] for record in records})
    return {
        "n": n,
        "n_questions": n,
        "n_games": len(records),
        "n_null": num_null,
        "null_share": num_null / len(records) if records else 0.0,
        "n_expected": num_expected,
        "missing": max(0, num_expected - n),
        "partial": n < num_expected,
    }


def _outputs(outputs: Sequence[Record]) -> Record:
    return {
        "n_empty": sum(output["empty"] for output in outputs),
        "n_cut": sum(output["cut"] for output in outputs),
        "mean_characters": _mean_characters(outputs),
    }


def _mean_characters(outputs: Sequence[Record]) -> float | None:
    """As published: over outputs that are neither empty nor cut."""
    kept = [output["characters"] for output in outputs if not _left_out(output)]
    return sum(kept) / len(kept) if kept else None
