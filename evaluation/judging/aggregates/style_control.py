"""The style of answers: lengths beside every win rate, and Arena-Hard's style control.

Style control adds the difference of the two answers' style to the Bradley–Terry regression, so that a model's strength is what is
left when both answers are of one style. Version v0.1: raw counts of tokens, headers, list items and bold spans, each as
(a − b) / (a + b + 1), scaled by its standard deviation and not centred (0 is the baseline's own style), ridge of 1.
https://github.com/lmarena/arena-hard-auto · https://arxiv.org/abs/2403.04132
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.records import Record

FEATURES = ("tokens", "headers", "lists", "bold")
# Upstream counts a GPT tokenizer's tokens, which need its vocabulary from a network: here words and marks are counted.
FEATURE_VERSION = "arena-hard-v0.1 counts (tokens: words and marks)"

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


def style(text: str) -> Record:
    """Counts of an answer: characters and tokens of all of it; headers, list items and bold spans outside of code blocks."""
    prose = _CODE.sub("", text)
    counts = {name: sum(1 for _ in pattern.finditer(prose)) for name, pattern in _COUNTED.items()}
    return {"characters": len(text), "tokens": sum(1 for _ in _TOKEN.finditer(text)), **counts}


def style_lengths(games: Sequence[Record], won: Sequence[int | None]) -> Record | None:
    """`length_statistics` of the answers, in tokens; None where no record has its answers' style."""
    styled = [
        ((game["question_id"], game["candidate_style"]["tokens"], game["baseline_style"]["tokens"]), result)
        for game, result in zip(games, won, strict=True)
        if game.get("candidate_style") and game.get("baseline_style")
    ]
    return length_statistics([lengths for lengths, _ in styled], [result for _, result in styled], "words and marks")


def length_statistics(games: Sequence[tuple[str, int, int]], won: Sequence[float | None], unit: str) -> dict[str, Any] | None:
    """Mean and median length of either side over the questions, and how often the longer answer won; None without games.

    `longer_won` is over decided games between answers of different length: 0.5 for a judge that does not care for length.

    Args:
        games: Per game its question, the candidate's length and the baseline's.
        won: Per game above 0 where the candidate won, below where the baseline did; 0 or None where neither.
    """
    import statistics

    if not games:
        return None
    pairs = {question: (candidate, baseline) for question, candidate, baseline in games}
    decided = [
        (result > 0) == (candidate > baseline)
        for (_, candidate, baseline), result in zip(games, won, strict=True)
        if result and candidate != baseline
    ]
    sides = dict(zip(("candidate", "baseline"), zip(*pairs.values(), strict=True), strict=True))
    return {
        "unit": unit,
        **{
            name: {"mean": statistics.fmean(lengths), "median": float(statistics.median(lengths))}
            for name, lengths in sides.items()
        },
        "longer_won": sum(decided) / len(decided) if decided else None,
    }


def style_controlled(games_by_model: Mapping[str, Sequence[tuple[Record, float, int]]]) -> Record | None:
    """Scores with the style held at the baseline's, in percent, from one regression over all models' games.

    Args:
        games_by_model: per model (record with both answers' style, what the candidate got, battles).

    Returns:
        `features` (the version), `scores` by model, `coefficients` by feature (in logits per standard deviation); None where a game
        lacks the style of its answers, so that the regression would be over other games than the score.
    """
    import numpy as np

    rows = [(model, *game) for model, games in games_by_model.items() for game in games]
    if not rows or not all(game.get("candidate_style") and game.get("baseline_style") for _, game, _, _ in rows):
        return None
    names = list(games_by_model)
    models = np.zeros((len(rows), len(names)))
    models[np.arange(len(rows)), [names.index(model) for model, *_ in rows]] = _LN10  # strengths on Elo's scale, as upstream's
    differences = np.array([_difference(game) for _, game, _, _ in rows])  # (N, features)
    spread = differences.std(axis=0)
    scaled = np.divide(differences, spread, out=np.zeros_like(differences), where=spread > 0)
    weights = fit_logistic(
        np.hstack([models, scaled]), np.array([got for *_, got, _ in rows]), np.array([count for *_, count in rows]), _RIDGE
    )
    strengths, coefficients = weights[: len(names)], weights[len(names) :]
    return {
        "features": FEATURE_VERSION,
        "scores": {name: 100 / (1 + 10 ** -float(strength)) for name, strength in zip(names, strengths, strict=True)},
        "coefficients": {name: float(value) for name, value in zip(FEATURES, coefficients, strict=True)},
    }


def with_style_control(
    results: Mapping[str, Record], games_by_model: Mapping[str, Sequence[tuple[Record, float, int]]]
) -> None:
    """Adds `style_controlled` to every model's result, from one regression over all of them: the coefficients are the judge's."""
    judged = {model: games for model, games in games_by_model.items() if games}
    controlled = style_controlled(judged)
    for model, result in results.items():
        result["style_controlled"] = controlled and {
            "score": controlled["scores"].get(model),
            "features": controlled["features"],
            "coefficients": controlled["coefficients"],
            "models": list(judged),
        }


def fit_logistic(inputs: Any, outcomes: Any, counts: Any, ridge: float) -> Any:
    """Weights of a logistic regression without intercept by Newton's method: counts of rows (N, F) with outcomes in [0, 1].

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
    raise ValueError(f"the regression must converge within {_MAX_STEPS} steps, got separable games; use a ridge above 0")


def _difference(game: Record) -> list[float]:
    pairs = [(game["candidate_style"][name], game["baseline_style"][name]) for name in FEATURES]
    return [(candidate - baseline) / (candidate + baseline + 1) for candidate, baseline in pairs]
