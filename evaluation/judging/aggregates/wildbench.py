"""WildBench v2's two scores, from recorded judgments. https://arxiv.org/abs/2406.04770

WB-Score = (mean of 1…10 − 5) × 2, shown ×10. WB-Reward: much better ±1, slightly better ±½, tie 0, over all items, shown ×100; with
a length margin K ≥ 0 a slight win is a tie where the winner is more than K characters longer. Outputs that were cut or are empty
leave WB-Reward's numerator and stay in its denominator. The task means use an item's primary and secondary tags. As upstream does,
every record counts, also of a question that is there several times. An empty answer scores 1 by the protocol, and a game with an empty
or cut output is worth nothing whatever a judge says: neither tells anything of the judge, and its trust rests on the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.judging.aggregates.asked import was_asked
from evaluation.judging.aggregates.style_control import length_statistics
from evaluation.judging.aggregates.win_rate import NUM_RESAMPLES, distrust, position_bias, resampled_interval
from evaluation.records import Record

REWARDS = {"A>>B": 1.0, "A>B": 0.5, "A=B": 0.0, "B>A": -0.5, "B>>A": -1.0}
MARGINS = (-1, 1, 500, 1000, 1500)  # −1: off; the others are those that were published
CUT = "... (truncated)"
EMPTY = "[This model response is empty.]"

TASK_WEIGHTS = {
    "Creative Tasks": 0.5,
    "Planning & Reasoning": 1.25,
    "Math & Data Analysis": 1.0,
    "Information/Advice seeking": 0.75,
    "Coding & Debugging": 1.25,
}


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
    values = [score for _, score in scored]
    judged = [record["score"] for record in records if was_asked(record) and not record["output"]["empty"]]
    by_judge = [score for score in judged if score is not None]
    null_share = (len(judged) - len(by_judge)) / len(judged) if judged else 0.0
    reason = distrust(len(by_judge), null_share, demonstration=demonstration)
    if len(by_judge) > 1 and len(set(by_judge)) == 1:
        reason = "; ".join(filter(None, [reason, f"every answer has the score {by_judge[0]:g}"]))
    by_task = _by_task(
        [(r["question_id"], r["score"]) for r in records if r["score"] is not None and not _left_out(r["output"])], tasks
    )
    ci = _mean_interval([_totals(scored)], seed, (1.0, 10.0))
    shown = None if ci is None else [rescaled(bound) for bound in ci]
    return {
        "wb_score": rescaled(sum(values) / len(values)) if values else None,
        "mean_score": sum(values) / len(values) if values else None,
        # One row a question, as a rule: the interval by rows is the one by questions.
        "ci": shown,
        "ci_clustered": shown,
        "wb_score_macro": None if by_task is None else _macro({task: rescaled(mean) for task, mean in by_task.items()}),
        "wb_score_by_task": None if by_task is None else {task: rescaled(mean) for task, mean in by_task.items()},
        **_counts(records, num_expected, num_null=num_null, num_unjudged=len(records) - len(judged), null_share=null_share),
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
    tasks: Mapping[str, Sequence[str]] | None = None,
    demonstration: bool = False,
    seed: int = 0,
) -> Record:
    """WB-Reward over records with `question_id`, `game` (1: the candidate is B), `verdict`, and both `output`s.

    `wb_reward_by_margin` has the published margins. `lengths` are of outputs that were neither cut nor are empty.
    """
    judged = [record for record in records if was_asked(record) and not _is_void(record)]
    num_null = sum(record["verdict"] is None for record in judged)
    null_share = num_null / len(judged) if judged else 0.0
    any_verdict = any(record["verdict"] is not None for record in records)
    by_margin = {margin: [_reward(record, margin) for record in records] for margin in MARGINS}
    # What was left out or not judged adds nothing and is still counted.
    points = {
        margin: 100 * sum(reward or 0.0 for reward in rewards) / len(rewards) if rewards else None
        for margin, rewards in by_margin.items()
    }
    kept = [
        (record["question_id"], reward) for record, reward in zip(records, by_margin[-1], strict=True) if reward is not None
    ]
    by_task = _by_task(kept, tasks)
    bias, covered = position_bias(judged)
    reason = distrust(
        len(judged) - num_null, null_share, demonstration=demonstration, bias=bias, needs_bias=True, bias_coverage=covered
    )
    shown = reward_interval([records], seed) if any_verdict else None
    return {
        "wb_reward": points[-1] if any_verdict else None,
        "ci": shown,
        "ci_clustered": shown,
        "wb_reward_by_margin": {str(margin): value for margin, value in points.items()},
        "wb_reward_macro": None if by_task is None else _macro({task: 100 * mean for task, mean in by_task.items()}),
        "wb_reward_by_task": None if by_task is None else {task: 100 * mean for task, mean in by_task.items()},
        **_counts(records, num_expected, num_null=num_null, num_unjudged=len(records) - len(judged), null_share=null_share),
        "n_left_out": sum(_left_out(r["output"]) or _left_out(r["baseline_output"]) for r in records),
        **_outputs([record["output"] for record in records]),
        "baseline_mean_characters": _mean_characters([record["baseline_output"] for record in records]),
        "lengths": reward_lengths(records),
        "position_bias": bias,
        "position_bias_coverage": covered,
        "trusted": not reason,
        "untrusted_reason": reason,
        "demonstration": demonstration,
    }


def reward_interval(references: Sequence[Sequence[Record]], seed: int = 0) -> list[float] | None:
    """WB-Reward's interval by question; of several references' comparisons, that of their mean, which share their questions."""
    totals = [_totals([(record["question_id"], _reward(record, -1) or 0.0) for record in records]) for records in references]
    ci = _mean_interval(totals, seed, (-1.0, 1.0))
    return None if ci is None else [100 * bound for bound in ci]


def reward_lengths(records: Sequence[Record]) -> Record | None:
    """Lengths of both outputs in characters, and how often the longer one won."""
    kept = [record for record in records if not _left_out(record["output"]) and not _left_out(record["baseline_output"])]
    lengths = [
        (record["question_id"], record["output"]["characters"], record["baseline_output"]["characters"]) for record in kept
    ]
    return length_statistics(lengths, [_reward(record, -1) for record in kept], "characters")


def output_facts(text: str) -> Record:
    """What WB-Score needs of an output: its length, and whether it is empty or was cut, told as upstream tells it."""
    return {"characters": len(text), "empty": text == "", "cut": text.endswith(CUT)}


def compared_output_facts(text: str) -> Record:
    """What WB-Reward needs of an output: in comparisons an empty one may be there as the words that the judge was shown for it."""
    return output_facts(text) | {"empty": text in ("", EMPTY)}


# An output that a record lacks.
NO_OUTPUT: Record = {"characters": 0, "empty": False, "cut": False, "missing": True}


def _left_out(output: Mapping[str, Any]) -> bool:
    return bool(output["empty"] or output["cut"] or output.get("missing"))


def _is_void(record: Record) -> bool:
    """Whether the game is worth nothing whatever the judge says: an output is empty or was cut. One that the record lacks is a fault."""
    return any(record[side]["empty"] or record[side]["cut"] for side in ("output", "baseline_output"))


def _reward(record: Record, margin: int) -> float | None:
    """The candidate's reward of a game; None for a null, and where an output was cut or is empty."""
    if record["verdict"] is None or _left_out(record["output"]) or _left_out(record["baseline_output"]):
        return None
    reward = REWARDS[record["verdict"]] * (-1 if record["game"] == 1 else 1)
    longer = record["output"]["characters"] - record["baseline_output"]["characters"]
    if margin >= 0 and abs(reward) == 0.5 and longer * (1 if reward > 0 else -1) > margin:
        return 0.0
    return reward


def _totals(values: Sequence[tuple[str, float]]) -> dict[str, tuple[float, int]]:
    """Sum and number of the values by question."""
    found: dict[str, tuple[float, int]] = {}
    for question, value in values:
        total, count = found.get(question, (0.0, 0))
        found[question] = (total + value, count + 1)
    return found


def _mean_interval(
    parts: Sequence[Mapping[str, tuple[float, int]]], seed: int, scale: tuple[float, float]
) -> list[float] | None:
    """Percentile bootstrap over questions, at 95 %, of the mean of the parts' means; None where a part has nothing."""
    if not all(parts):
        return None
    import numpy as np

    questions = list(dict.fromkeys(question for part in parts for question in part))
    nothing = (0.0, 0)
    table = np.array([[value for part in parts for value in part.get(question, nothing)] for question in questions])
    distinct, counts = np.unique(table, axis=0, return_counts=True)  # (D, 2 × parts)
    times = np.random.default_rng(seed).multinomial(len(questions), counts / len(questions), size=NUM_RESAMPLES)
    drawn = times @ distinct
    totals, numbers = drawn[:, ::2], drawn[:, 1::2]
    # A part with few of the questions can be drawn without any.
    complete = (numbers > 0).all(axis=1)
    return resampled_interval((totals[complete] / numbers[complete]).mean(axis=1), len(questions), scale)


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


def _counts(records: Sequence[Record], num_expected: int, *, num_null: int, num_unjudged: int, null_share: float) -> Record:
    n = len({record["question_id"] for record in records})
    return {
        "n": n,
        "n_questions": n,
        "n_games": len(records),
        "n_unjudged": num_unjudged,
        "n_null": num_null,
        "null_share": null_share,
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
