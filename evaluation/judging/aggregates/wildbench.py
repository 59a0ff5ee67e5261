"""WildBench v2's two scores, from recorded judgments. https://arxiv.org/abs/2406.04770

WB-Score = (mean of 1…10 − 5) × 2, shown ×10. WB-Reward: much better ±1, slightly better ±½, tie 0, over all items, shown ×100; with
a length margin K ≥ 0 a slight win is a tie where the winner is more than K characters longer. Outputs that were cut or are empty
leave WB-Reward's numerator and stay in its denominator. The task means use an item's primary and secondary tags. As upstream does,
every judgment counts, also of a question that is given several times. An empty answer scores 1 by the protocol, and a comparison with an
empty or cut output is worth nothing whatever a judge says: neither tells anything of the judge, and its trust rests on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

from evaluation.judging.aggregates.judgment import Judgment, Output
from evaluation.judging.aggregates.style_control import length_statistics
from evaluation.judging.aggregates.win_rate import NUM_RESAMPLES, RESAMPLING_SEED, distrust, position_bias, resampled_interval
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
    judgments: Sequence[Judgment],
    *,
    num_expected: int,
    tasks: Mapping[str, Sequence[str]] | None = None,
    demonstration: bool = False,
) -> Record:
    """WB-Score over rated answers.

    `tasks` are the task groups by question: with them there is `wb_score_macro`; cut and empty outputs don't count for it.
    """
    outputs = [_output(one) for one in judgments]
    scored = [(one.question_id, one.rating) for one in judgments if one.rating is not None]
    num_null = len(judgments) - len(scored)
    values = [score for _, score in scored]
    judged = [one.rating for one, output in zip(judgments, outputs, strict=True) if one.asked and not output.empty]
    by_judge = [score for score in judged if score is not None]
    null_share = (len(judged) - len(by_judge)) / len(judged) if judged else 0.0
    reason = distrust(len(by_judge), null_share, demonstration=demonstration, ratings=by_judge)
    kept = [
        (one.question_id, one.rating)
        for one, output in zip(judgments, outputs, strict=True)
        if one.rating is not None and not output.is_left_out
    ]
    by_task = _by_task(kept, tasks, rescaled)
    ci = _mean_interval([_totals(scored)], (1.0, 10.0))
    shown = None if ci is None else [rescaled(bound) for bound in ci]
    return {
        "wb_score": rescaled(sum(values) / len(values)) if values else None,
        "mean_score": sum(values) / len(values) if values else None,
        # One row a question, as a rule: the interval by rows is the one by questions.
        "ci": shown,
        "ci_clustered": shown,
        "wb_score_macro": _macro(by_task),
        "wb_score_by_task": by_task,
        **_counts(judgments, num_expected, num_null=num_null, num_unjudged=len(judgments) - len(judged), null_share=null_share),
        **_outputs(outputs),
        "position_bias": None,
        "trusted": not reason,
        "untrusted_reason": reason,
        "demonstration": demonstration,
    }


def aggregate_rewards(
    judgments: Sequence[Judgment],
    *,
    num_expected: int,
    tasks: Mapping[str, Sequence[str]] | None = None,
    demonstration: bool = False,
) -> Record:
    """WB-Reward over comparisons that have both outputs.

    `wb_reward_by_margin` has a value for each published margin. `lengths` leaves out outputs that are empty or were cut.
    """
    judged = [one for one in judgments if one.asked and not any(output.is_void for output in one.outputs)]
    num_null = sum(one.verdict is None for one in judged)
    null_share = num_null / len(judged) if judged else 0.0
    any_verdict = any(one.verdict is not None for one in judgments)
    by_margin = {margin: [_reward(one, margin) for one in judgments] for margin in MARGINS}
    # What was left out or not judged adds nothing and is still counted.
    points = {
        margin: 100 * sum(reward or 0.0 for reward in rewards) / len(rewards) if rewards else None
        for margin, rewards in by_margin.items()
    }
    kept = [(one.question_id, reward) for one, reward in zip(judgments, by_margin[-1], strict=True) if reward is not None]
    by_task = _by_task(kept, tasks, lambda mean: 100 * mean)
    bias, covered = position_bias(judged)
    reason = distrust(
        len(judged) - num_null, null_share, demonstration=demonstration, bias=bias, needs_bias=True, bias_coverage=covered
    )
    shown = reward_interval([judgments]) if any_verdict else None
    return {
        "wb_reward": points[-1] if any_verdict else None,
        "ci": shown,
        "ci_clustered": shown,
        "wb_reward_by_margin": {str(margin): value for margin, value in points.items()},
        "wb_reward_macro": _macro(by_task),
        "wb_reward_by_task": by_task,
        **_counts(judgments, num_expected, num_null=num_null, num_unjudged=len(judgments) - len(judged), null_share=null_share),
        "n_left_out": sum(_is_left_out(one) for one in judgments),
        **_outputs([one.outputs[0] for one in judgments]),
        "baseline_mean_characters": _mean_characters([one.outputs[1] for one in judgments]),
        "lengths": reward_lengths([(one.question_id, one) for one in judgments]),
        "position_bias": bias,
        "position_bias_coverage": covered,
        "trusted": not reason,
        "untrusted_reason": reason,
        "demonstration": demonstration,
    }


def reward_interval(references: Sequence[Sequence[Judgment]]) -> list[float] | None:
    """WB-Reward's interval by question; of comparisons with several references on the same questions, that of their mean."""
    totals = [_totals([(one.question_id, _reward(one, -1) or 0.0) for one in judgments]) for judgments in references]
    ci = _mean_interval(totals, (-1.0, 1.0))
    return None if ci is None else [100 * bound for bound in ci]


def reward_lengths(judgments: Sequence[tuple[Hashable, Judgment]]) -> Record | None:
    """Lengths of both outputs in characters, and how often the longer one won, over (question, comparison)."""
    kept = [(question, one) for question, one in judgments if not _is_left_out(one)]
    lengths = [(question, one.outputs[0].characters, one.outputs[1].characters) for question, one in kept]
    return length_statistics(lengths, [_reward(one, -1) for _, one in kept], "characters")


def output_facts(text: str) -> Output:
    """What WB-Score needs of an output: its length, and by upstream's rules whether it is empty or was cut."""
    return Output(characters=len(text), empty=text == "", cut=text.endswith(CUT))


def compared_output_facts(text: str) -> Output:
    """What WB-Reward needs of an output: in recorded comparisons the words that the judge was shown may stand for an empty one."""
    return Output(characters=len(text), empty=text in ("", EMPTY), cut=text.endswith(CUT))


# An output that a recorded judgment lacks.
NO_OUTPUT = Output(characters=0, empty=False, cut=False, missing=True)


def _output(judgment: Judgment) -> Output:
    assert judgment.facts.output is not None
    return judgment.facts.output


def _is_left_out(judgment: Judgment) -> bool:
    return any(output.is_left_out for output in judgment.outputs)


def _reward(judgment: Judgment, margin: int) -> float | None:
    """The candidate's reward of a comparison; None without a verdict, and where an output was cut or is empty."""
    if judgment.label is None or _is_left_out(judgment):
        return None
    reward = REWARDS[judgment.label] * (-1 if judgment.number == 1 else 1)
    output, baseline_output = judgment.outputs
    longer = output.characters - baseline_output.characters
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


def _mean_interval(parts: Sequence[Mapping[str, tuple[float, int]]], scale: tuple[float, float]) -> list[float] | None:
    """Percentile bootstrap over questions, at 95 %, of the mean of the parts' means; None where a part has nothing."""
    if not all(parts):
        return None
    import numpy as np

    questions = list(dict.fromkeys(question for part in parts for question in part))
    nothing = (0.0, 0)
    table = np.array([[value for part in parts for value in part.get(question, nothing)] for question in questions])
    distinct, counts = np.unique(table, axis=0, return_counts=True)  # (D, 2 × parts)
    times = np.random.default_rng(RESAMPLING_SEED).multinomial(len(questions), counts / len(questions), size=NUM_RESAMPLES)
    drawn = times @ distinct
    totals, numbers = drawn[:, ::2], drawn[:, 1::2]
    # A part with few of the questions can be drawn without any.
    complete = (numbers > 0).all(axis=1)
    return resampled_interval((totals[complete] / numbers[complete]).mean(axis=1), len(questions), scale)


def _by_task(
    values: Sequence[tuple[str, float]], tasks: Mapping[str, Sequence[str]] | None, shown: Callable[[float], float]
) -> dict[str, float] | None:
    """The mean by task group as it is shown, in a fixed order; None without tags."""
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
    return {task: shown(sum(part) / len(part)) for task, part in found.items() if part}


def _macro(by_task: Mapping[str, float] | None) -> float | None:
    if by_task is None:
        return None
    # As published: the weights of all groups, also of one without items, stand in the denominator.
    return sum(TASK_WEIGHTS[task] * value for task, value in by_task.items()) / sum(TASK_WEIGHTS.values())


def _counts(judgments: Sequence[Judgment], num_expected: int, *, num_null: int, num_unjudged: int, null_share: float) -> Record:
    n = len({one.question_id for one in judgments})
    return {
        "n": n,
        "n_questions": n,
        "n_games": len(judgments),
        "n_unjudged": num_unjudged,
        "n_null": num_null,
        "null_share": null_share,
        "n_expected": num_expected,
        "missing": max(0, num_expected - n),
        "partial": n < num_expected,
    }


def _outputs(outputs: Sequence[Output]) -> Record:
    return {
        "n_empty": sum(output.empty for output in outputs),
        "n_cut": sum(output.cut for output in outputs),
        "mean_characters": _mean_characters(outputs),
    }


def _mean_characters(outputs: Sequence[Output]) -> float | None:
    """As published: over outputs that are neither empty nor cut."""
    kept = [output.characters for output in outputs if not output.is_left_out]
    return sum(kept) / len(kept) if kept else None
