"""Arena-Hard v2.0's score: of each category by itself, over the questions whose two comparisons both have a verdict.

A much better answer counts as three battles and a tie as half a win, as in v0.1. Published are the mean of 100 bootstraps over battles and
their percentiles 5 and 95. https://github.com/lmarena/arena-hard-auto
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evaluation.judging.aggregates.judgment import Judgment, null_reasons
from evaluation.judging.aggregates.win_rate import RESAMPLING_SEED, battles
from evaluation.judging.aggregates.win_rate import aggregate as win_rate
from evaluation.records import Record

NUM_PUBLISHED_RESAMPLES = 100
PUBLISHED_PERCENTILES = (5, 95)
HALF_JUDGED = "no verdict in the question's other game"


def counted(judgments: Sequence[Judgment]) -> list[Judgment]:
    """The judgments of one model as they count: of a question both verdicts, or none. Where every question was compared in one order
    alone, all count.
    """
    verdicts: dict[str, list[bool]] = {}
    for one in judgments:
        verdicts.setdefault(one.question_id, []).append(one.verdict is not None)
    if all(len(found) == 1 for found in verdicts.values()):
        return list(judgments)
    whole = {question for question, found in verdicts.items() if len(found) == 2 and all(found)}
    return [one if one.question_id in whole else leave_out(one) for one in judgments]


def leave_out(judgment: Judgment) -> Judgment:
    """The judgment of a question whose other one has no verdict. It tells of the judge all the same."""
    if judgment.verdict is None:
        return judgment
    return replace(judgment, verdict=None, null_reason=HALF_JUDGED, left_out=judgment.verdict)


def aggregate(judgments: Sequence[Judgment], *, num_expected: int, demonstration: bool = False, orders: str = "both") -> Record:
    """The candidate's result over judgments as they count: as v0.1's, with what is published beside it.

    `as_published` has the mean and the interval of the published bootstrap; `score` is the plain mean, without the chance in that.
    """
    result = win_rate(judgments, num_expected=num_expected, demonstration=demonstration, orders=orders)
    return {**result, "null_reasons": null_reasons(judgments), "as_published": published(judgments)}


def published(judgments: Sequence[Judgment]) -> Record | None:
    """Mean and percentiles of the published bootstrap over battles, in percent; None without a battle."""
    import numpy as np

    rows = battles(judgments)
    if not rows:
        return None
    each = np.repeat([got for _, got, _ in rows], [count for _, _, count in rows])
    drawn = np.random.default_rng(RESAMPLING_SEED).choice(each, size=(NUM_PUBLISHED_RESAMPLES, len(each)))
    means = 100 * drawn.mean(axis=1)
    return {"score": float(means.mean()), "ci": [float(bound) for bound in np.percentile(means, PUBLISHED_PERCENTILES)]}
