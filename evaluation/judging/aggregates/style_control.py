"""The style of answers: lengths beside every win rate, and Arena-Hard's style control.

Style control adds the difference of the two answers' style to the Bradley–Terry regression, so that a model's strength is what is
left when both answers are of one style. Version v0.1: raw counts of tokens, headers, list items and bold spans, each as
(a − b) / (a + b + 1), scaled by its standard deviation and not centred (0 is the baseline's own style), ridge of 1.
https://github.com/lmarena/arena-hard-auto · https://arxiv.org/abs/2403.04132
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from evaluation.judging.aggregates.judgment import Judgment, Style
from evaluation.records import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

FEATURES = ("tokens", "headers", "lists", "bold")
# Upstream counts a GPT tokenizer's tokens, which need its vocabulary from a network: here words and marks are counted.
FEATURE_VERSION = "arena-hard-v0.1 counts (tokens: words and marks)"
# Its files of answers have them.
FEATURE_VERSION_OF_ANSWERS = "arena-hard-v0.1 counts (tokens: a GPT tokenizer's, of the files of answers)"

_CODE = re.compile(r"```[^`]*```")
_TOKEN = re.compile(r"\w+|[^\w\s]")
_COUNTED = {
    "headers": re.compile(r"^#{1,6}\s", re.MULTILINE),
    "lists": re.compile(r"^[^\S\n]*(?:\d+\.|[-*+])\s", re.MULTILINE),
    "bold": re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
}
_RIDGE = 1.0
_LN10 = math.log(10)
_MAX_STEPS = 100

# A comparison with a verdict, what the candidate got (1, ½, 0), and how many battles it counts as.
Battles = tuple[Judgment, float, int]


def style(text: str) -> Style:
    """Counts of an answer: characters and tokens of all of it; headers, list items and bold spans outside of code blocks."""
    prose = _CODE.sub("", text)
    counts = {name: sum(1 for _ in pattern.finditer(prose)) for name, pattern in _COUNTED.items()}
    return {"characters": len(text), "tokens": sum(1 for _ in _TOKEN.finditer(text)), **counts}


def style_lengths(judgments: Sequence[Judgment], won: Sequence[int | None]) -> Record | None:
    """`length_statistics` of the answers, in tokens; None where no comparison has its answers' style."""
    styled = [
        ((one.question_id, styles[0]["tokens"], styles[1]["tokens"]), result)
        for one, result in zip(judgments, won, strict=True)
        if (styles := styles_of(one)) is not None
    ]
    return length_statistics([lengths for lengths, _ in styled], [result for _, result in styled], "words and marks")


def length_statistics(lengths: Sequence[tuple[Hashable, int, int]], won: Sequence[float | None], unit: str) -> Record | None:
    """Mean and median length of either side over the questions, and how often the longer answer won; None without comparisons.

    `longer_won` is over decided comparisons of answers of different length: 0.5 for a judge that does not care for length.

    Args:
        lengths: Per comparison its question, the candidate's length and the baseline's.
        won: Per comparison above 0 where the candidate won, below where the baseline did; 0 or None where neither.
    """
    import statistics

    if not lengths:
        return None
    pairs = {question: (candidate, baseline) for question, candidate, baseline in lengths}
    decided = [
        (result > 0) == (candidate > baseline)
        for (_, candidate, baseline), result in zip(lengths, won, strict=True)
        if result and candidate != baseline
    ]
    sides = dict(zip(("candidate", "baseline"), zip(*pairs.values(), strict=True), strict=True))
    return {
        "unit": unit,
        **{name: {"mean": statistics.fmean(found), "median": float(statistics.median(found))} for name, found in sides.items()},
        "longer_won": sum(decided) / len(decided) if decided else None,
    }


def style_controlled(by_model: Mapping[str, Sequence[Battles]], features: str = FEATURE_VERSION) -> Record | None:
    """Scores with the style held at the baseline's, in percent, from one regression over all models' comparisons.

    Returns:
        `features` (the version), `scores` by model, `coefficients` by feature (in logits per standard deviation); None where a
        comparison lacks the style of its answers, so that the regression would be over other comparisons than the score.
    """
    import numpy as np

    rows = [(model, *one) for model, judged in by_model.items() for one in judged]
    styles = [found for _, judgment, _, _ in rows if (found := styles_of(judgment)) is not None]
    if not rows or len(styles) < len(rows):
        return None
    names = list(by_model)
    models = np.zeros((len(rows), len(names)))
    models[np.arange(len(rows)), [names.index(model) for model, *_ in rows]] = _LN10  # strengths on Elo's scale, as upstream's
    differences = np.array([_difference(*both) for both in styles])  # (N, features)
    spread = differences.std(axis=0)
    scaled = np.divide(differences, spread, out=np.zeros_like(differences), where=spread > 0)
    weights = fit_logistic(
        np.hstack([models, scaled]), np.array([got for *_, got, _ in rows]), np.array([count for *_, count in rows]), _RIDGE
    )
    strengths, coefficients = weights[: len(names)], weights[len(names) :]
    return {
        "features": features,
        "scores": {name: 100 / (1 + 10 ** -float(strength)) for name, strength in zip(names, strengths, strict=True)},
        "coefficients": {name: float(value) for name, value in zip(FEATURES, coefficients, strict=True)},
    }


def with_style_control(
    results: Mapping[str, Record], by_model: Mapping[str, Sequence[Battles]], features: str = FEATURE_VERSION
) -> None:
    """Adds `style_controlled` to every model's result, from one regression over all of them: the coefficients are the judge's."""
    judged = {model: found for model, found in by_model.items() if found}
    controlled = style_controlled(judged, features)
    for model, result in results.items():
        result["style_controlled"] = controlled and {
            "score": controlled["scores"].get(model),
            "features": controlled["features"],
            "coefficients": controlled["coefficients"],
            "models": list(judged),
        }


def fit_logistic(inputs: Floats, outcomes: Floats, counts: Floats, ridge: float) -> Floats:
    """Weights (F,) of a logistic regression without intercept, by Newton's method.

    Args:
        inputs: (N, F)
        outcomes: (N,), in [0, 1].
        counts: (N,), how often each row counts.

    Raises:
        ValueError: where it does not converge (without a ridge, separable data have no optimum).
    """
    import numpy as np

    weights = np.zeros(inputs.shape[1])
    for _ in range(_MAX_STEPS):
        p = 1 / (1 + np.exp(-np.clip(inputs @ weights, -500, 500)))
        gradient = inputs.T @ (counts * (outcomes - p)) - ridge * weights
        hessian = inputs.T @ (inputs * (counts * p * (1 - p))[:, None]) + ridge * np.eye(len(weights))
        step = np.linalg.solve(hessian, gradient)
        # A full step can overshoot where almost all outcomes agree; bounded ones still converge, the loss being convex.
        step *= min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        weights += step
        if float(np.abs(step).max()) < 1e-10:
            return weights
    raise ValueError(f"the regression must converge within {_MAX_STEPS} steps, got separable comparisons; use a ridge above 0")


def styles_of(judgment: Judgment) -> tuple[Style, Style] | None:
    """The candidate's and the baseline's, where the judgment has both."""
    candidate, baseline = judgment.facts.candidate_style, judgment.facts.baseline_style
    return (candidate, baseline) if candidate and baseline else None


def _difference(first: Style, second: Style) -> list[float]:
    pairs = [(first[name], second[name]) for name in FEATURES]
    return [(candidate - baseline) / (candidate + baseline + 1) for candidate, baseline in pairs]
