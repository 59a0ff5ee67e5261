"""From comparisons to a score: weighted win rate with its intervals, and what says whether the judge can be trusted.

With one baseline and no penalty the Bradley–Terry strength that Arena-Hard reports (https://arxiv.org/abs/2406.11939) is the
weighted mean of the comparisons, a much better answer counting three times. Comparisons on one question are not independent: the
interval that resamples questions stands beside the published one, which resamples comparisons.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from evaluation.judging.aggregates.judgment import Judgment
from evaluation.judging.aggregates.style_control import Battles, style_lengths
from evaluation.records import Record
from evaluation.statistics import bootstrap_interval, unanimous_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# A verdict: whom it favours (+1: A, −1: B, 0: neither), and how many battles it counts as.
VERDICTS = {"A>>B": (1, 3), "A>B": (1, 1), "A=B": (0, 1), "B>A": (-1, 1), "B>>A": (-1, 3)}
# The labels of Arena-Hard v2.0: those that point the other way mean the same as their mirror.
LABELS_V2 = {
    **{label: label for label in VERDICTS},
    "A<B": "B>A",
    "A<<B": "B>>A",
    "B=A": "A=B",
    "B<A": "A>B",
    "B<<A": "A>>B",
}

Place = TypeVar("Place", bound=Hashable)

NUM_RESAMPLES = 1000
RESAMPLING_SEED = 0  # fixed: the same judgments have the same interval
MOST_RATED_APART = 9.0  # ratings are from 1 to 10
MAX_NULL_SHARE = 0.05
MAX_POSITION_BIAS = 0.25
# The share of the questions that must have both orders to count as compared in both, and that a bias must be measured on.
MIN_BIAS_COVERAGE = 0.9


def aggregate(judgments: Sequence[Judgment], *, num_expected: int, demonstration: bool = False, orders: str = "both") -> Record:
    """The candidate's result over its comparisons.

    Score and intervals are percentages. `position_bias` is the mean of +1 for a verdict for A, −1 for B and 0 for neither: 1 for a
    judge that always says A, about 0 for one that does not care for the order; `position_bias_coverage` is the share of the
    questions that it was measured on. `order_agreement` is the share of questions with both verdicts that name the same winner.
    `lengths` is None where a comparison lacks the style of its answers. A comparison that is given several times counts as often. Bias,
    agreement and the share without a verdict describe the judge, and so are over the comparisons that it was asked for; `n_unjudged`
    others were decided without it. Of the `n_null` that don't count, those whose verdict was left out are no part of `null_share`.
    """
    rows = battles(judgments)
    judged = [one for one in judgments if one.asked]
    num_null = sum(one.verdict is None for one in judged)
    null_share = sum(one.given is None for one in judged) / len(judged) if judged else 0.0
    both = _both_orders(judged)
    bias, covered = position_bias(judged)
    agreement = sum(first == -second for first, second in both) / len(both) if both else None
    questions = {one.question_id for one in judgments}
    places = {one.place for one in judgments}
    complete = len(places) == (2 if orders == "both" else 1) * len(questions) and len(questions) >= num_expected
    ci, ci_clustered = _intervals(rows)
    reason = distrust(
        len(judged) - num_null, null_share, demonstration=demonstration, bias=bias, needs_bias=True, bias_coverage=covered
    )
    return {
        "score": weighted_mean(rows),
        "ci": ci,
        "ci_clustered": ci_clustered,
        "n_games": len(judgments),
        "n_unjudged": len(judgments) - len(judged),
        "n_null": num_null,
        "null_share": null_share,
        "n_questions": len(questions),
        "n_expected": num_expected,
        "partial": not complete,
        "position_bias": bias,
        "position_bias_coverage": covered,
        "order_agreement": agreement,
        "lengths": style_lengths(judgments, [_won(one) for one in judgments]),
        "trusted": not reason,
        "untrusted_reason": reason,
        "demonstration": demonstration,
    }


def position_bias(judgments: Sequence[Judgment]) -> tuple[float | None, float]:
    """Whom the verdicts favour by position, and the share of the questions that this was measured on.

    Where nearly all questions were compared in both orders, it is the mean over those with both verdicts. Otherwise the questions of one
    order stand for those of the other, as where each is compared once in a random order: the mean of both orders' means, None where an
    order has no verdict. They can do so only in equal numbers: what one order has in excess of the other, beyond what chance gives (two
    standard deviations, 2√n), is not covered.
    """
    compared: dict[str, set[int]] = {}
    judged: dict[str, set[int]] = {}
    favours: dict[int, list[int]] = {1: [], 2: []}
    for one in judgments:
        compared.setdefault(one.question_id, set()).add(one.number)
        if one.label is not None:
            judged.setdefault(one.question_id, set()).add(one.number)
            favours[one.number].append(VERDICTS[one.label][0])
    in_both = sum(len(orders) == 2 for orders in judged.values())
    if not compared:
        return None, 0.0
    if sum(len(orders) == 2 for orders in compared.values()) >= MIN_BIAS_COVERAGE * len(compared):
        both = _both_orders(judgments)
        return sum(first + second for first, second in both) / (2 * len(both)) if both else None, in_both / len(compared)
    if not favours[1] or not favours[2]:
        return None, 0.0
    in_one = Counter(next(iter(orders)) for orders in judged.values() if len(orders) == 1)
    excess = max(0.0, abs(in_one[1] - in_one[2]) - 2 * math.sqrt(in_one.total()))
    means = [sum(found) / len(found) for found in favours.values()]
    return sum(means) / 2, (in_both + in_one.total() - excess) / len(compared)


Row = tuple[str, float, int]  # question, what the candidate got (1, ½, 0), battles


def battles(judgments: Sequence[Judgment]) -> list[Row]:
    """The comparisons with a verdict as battles of the candidate."""
    return [(one.question_id, got, count) for one, got, count in with_battles(judgments)]


def with_battles(judgments: Sequence[Judgment]) -> list[Battles]:
    """Each comparison with a verdict, with what the candidate got and how many battles it counts as."""
    return [
        (one, (1 + won) / 2, VERDICTS[one.label][1])
        for one in judgments
        if one.label is not None and (won := _won(one)) is not None
    ]


def _won(judgment: Judgment) -> int | None:
    """+1 where the candidate is better, −1 where the baseline is, 0 for a tie; None without a verdict."""
    if judgment.label is None:
        return None
    favours = VERDICTS[judgment.label][0]
    return -favours if judgment.number == 1 else favours


def weighted_mean(rows: Sequence[Row]) -> float | None:
    """What the candidate got per battle, in percent."""
    total = sum(count for _, _, count in rows)
    return 100 * sum(got * count for _, got, count in rows) / total if total else None


def _both_orders(judgments: Sequence[Judgment]) -> list[tuple[int, int]]:
    """Per question with two verdicts, whom each favours by position; a pair that is given several times, as often."""
    favours: dict[str, dict[int, list[int]]] = {}
    for one in judgments:
        if one.label is not None:
            favours.setdefault(one.question_id, {1: [], 2: []})[one.number].append(VERDICTS[one.label][0])
    return [pair for by_order in favours.values() for pair in zip(by_order[1], by_order[2], strict=False)]


def _intervals(rows: Sequence[Row]) -> tuple[list[float] | None, list[float] | None]:
    """Percentile bootstrap at 95 %, over battles and over questions."""
    if not rows:
        return None, None
    import numpy as np

    rng = np.random.default_rng(RESAMPLING_SEED)
    each = np.repeat([got for _, got, _ in rows], [count for _, _, count in rows])
    values, counts = np.unique(each, return_counts=True)
    drawn = rng.multinomial(len(each), counts / len(each), size=NUM_RESAMPLES)  # (R, values)
    scores = 100 * drawn @ values / len(each)
    got, weight = question_sums(rows)
    times = rng.multinomial(len(got), np.full(len(got), 1 / len(got)), size=NUM_RESAMPLES)  # (R, questions)
    by_question = 100 * (times @ np.array(list(got.values()))) / (times @ np.array(list(weight.values())))
    return resampled_interval(scores, len(rows), (0.0, 100.0)), resampled_interval(by_question, len(got), (0.0, 100.0))


def question_sums(rows: Sequence[Row]) -> tuple[dict[str, float], dict[str, float]]:
    """What the candidate got, and the battles, summed by question."""
    got: dict[str, float] = {}
    weight: dict[str, float] = {}
    for question, value, count in rows:
        got[question] = got.get(question, 0.0) + value * count
        weight[question] = weight.get(question, 0.0) + count
    return got, weight


def resampled_interval(drawn: NDArray[np.float64], n: int, scale: tuple[float, float]) -> list[float] | None:
    """The 2.5 and 97.5 percentiles of resampled values of `n` comparisons or questions, between the ends of their scale.

    Where resampling changes nothing, because all say the same, `unanimous_interval`. A single one has no interval.
    """
    import numpy as np

    if n < 2:
        return None
    if np.ptp(drawn) < 1e-9 * (scale[1] - scale[0]):
        return list(unanimous_interval(float(drawn[0]), n, *scale))
    return [float(bound) for bound in np.percentile(drawn, [2.5, 97.5])]


def score_delta(base: Sequence[Judgment], aligned: Sequence[Judgment]) -> Record:
    """How much more the aligned model scores against the same baseline, in points, with a question-clustered paired interval."""
    import numpy as np

    rows = {"base": battles(base), "aligned": battles(aligned)}
    sums = {model: question_sums(found) for model, found in rows.items()}
    shared = [question for question in sums["base"][0] if question in sums["aligned"][0]]
    if not shared:
        return {"delta": None, "delta_ci": None}
    rng = np.random.default_rng(RESAMPLING_SEED)
    times = rng.multinomial(len(shared), np.full(len(shared), 1 / len(shared)), size=NUM_RESAMPLES)
    scores = {
        model: [np.array([part[question] for question in shared]) for part in (got, weight)]
        for model, (got, weight) in sums.items()
    }
    points = {model: 100 * got.sum() / weight.sum() for model, (got, weight) in scores.items()}
    drawn = {model: 100 * (times @ got) / (times @ weight) for model, (got, weight) in scores.items()}
    return {
        "delta": float(points["aligned"] - points["base"]),
        "delta_ci": resampled_interval(drawn["aligned"] - drawn["base"], len(shared), (-100.0, 100.0)),
    }


def paired_delta(
    base: Mapping[Place, float | None],
    aligned: Mapping[Place, float | None],
    *,
    scale: float,
    clusters: Callable[[Place], Hashable] | None = None,
) -> Record:
    """How much higher the aligned model is rated where both are, times `scale`, with a bootstrap interval by question."""
    pairs = {
        place: after - before
        for place, before in base.items()
        if before is not None and (after := aligned.get(place)) is not None
    }
    if not pairs:
        return {"delta": None, "delta_ci": None}
    values = [scale * difference for difference in pairs.values()]
    groups = [clusters(place) if clusters else place for place in pairs]
    ci = bootstrap_interval(values, groups, scale=(-scale * MOST_RATED_APART, scale * MOST_RATED_APART))
    # The statistics module speaks in percent.
    return {"delta": sum(values) / len(values), "delta_ci": ci and [bound / 100 for bound in ci]}


def distrust(
    num_verdicts: int,
    null_share: float,
    *,
    demonstration: bool = False,
    bias: float | None = None,
    needs_bias: bool = False,
    bias_coverage: float = 1.0,
    ratings: Sequence[float] = (),
) -> str:
    """Why the score must not be believed; empty where nothing speaks against it. `ratings` are the verdicts of rated answers."""
    reasons = []
    if demonstration:
        reasons.append("a demonstration: the judge is too small to judge")
    if not num_verdicts:
        reasons.append("no verdict")
    elif null_share > MAX_NULL_SHARE:
        reasons.append(f"{null_share:.0%} of the games have no verdict (at most {MAX_NULL_SHARE:.0%})")
    if needs_bias and bias is None and num_verdicts:
        reasons.append("no question was judged in both orders")
    if bias is not None and abs(bias) > MAX_POSITION_BIAS:
        reasons.append(f"position bias {bias:+.2f} (at most {MAX_POSITION_BIAS} either way)")
    if bias is not None and bias_coverage < MIN_BIAS_COVERAGE:
        reasons.append(
            f"the position bias was measured on {bias_coverage:.0%} of the questions (at least {MIN_BIAS_COVERAGE:.0%})"
        )
    if len(ratings) > 1 and len(set(ratings)) == 1:
        reasons.append(f"every answer has the score {ratings[0]:g}")
    return "; ".join(reasons)
