"""Arena-Hard v2.0's style control: a Bradley–Terry regression of all models together, with the style of both answers beside them.

It differs from v0.1's (`style_control.py`): headers, list items and bold spans are densities (per token, plus one) and not counts; the
difference of lengths is (a − b) / (a + b); every feature is centred and scaled over all battles of the fit, so that a score is the win rate
at these battles' mean style, and depends on which models are fitted together; there is no ridge; the score is the median of 100 bootstraps
over battles. The optimizer is part of the published figures: it stops after 50 steps of L-BFGS, before it has converged, which leaves
strong and weak models nearer 50 % (4.3 instead of 3.9 % in one made-up case). https://github.com/lmarena/arena-hard-auto
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evaluation.judging.aggregates.arena_hard_v2 import NUM_PUBLISHED_RESAMPLES, PUBLISHED_PERCENTILES
from evaluation.judging.aggregates.judgment import Style
from evaluation.judging.aggregates.style_control import FEATURES, Battles, styles_of
from evaluation.judging.aggregates.win_rate import RESAMPLING_SEED
from evaluation.records import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Upstream counts GPT-4o's tokens, which its files of answers have; in the judge's prompts words and marks are counted.
FEATURE_VERSION = "arena-hard v2.0 densities (tokens: words and marks)"
FEATURE_VERSION_OF_ANSWERS = "arena-hard v2.0 densities (tokens: a GPT tokenizer's, of the files of answers)"
ONE_MODEL = "one model alone: the features are centred on its own style, so that little of it is held equal"
_NUM_STEPS = 50
_STEP_SIZE = 0.1
_TOLERANCE = 1e-9
_START = 0.5


def with_style_control(
    results: Mapping[str, Record], by_model: Mapping[str, Sequence[Battles]], features: str = FEATURE_VERSION
) -> None:
    """Adds `style_controlled` to every model's result: None where a comparison lacks its answers' style, or all have one style."""
    judged = {model: found for model, found in by_model.items() if found}
    controlled = style_controlled(judged)
    for model, result in results.items():
        result["style_controlled"] = None
        if controlled is not None and model in judged:
            result["style_controlled"] = {
                **controlled["scores"][model],
                "features": features,
                "coefficients": controlled["coefficients"],
                "models": list(judged),
                "note": ONE_MODEL if len(judged) == 1 else None,
            }


def style_controlled(by_model: Mapping[str, Sequence[Battles]]) -> Record | None:
    """Each model's score and interval in percent, and the features' coefficients in logits per standard deviation.

    Returns:
        `scores` by model, each with `score` and `ci` (percentiles 5 and 95), and `coefficients` by feature; None where there is nothing
        to control.
    """
    import numpy as np

    rows = [(model, *one) for model, judged in by_model.items() for one in judged]
    styles = [found for _, judgment, _, _ in rows if (found := styles_of(judgment)) is not None]
    if not rows or len(styles) < len(rows):
        return None
    names = list(by_model)
    counts = np.array([count for *_, count in rows], dtype=float)  # (N,)
    features = _standardised(np.array([differences(*both) for both in styles]), counts)
    if not features.any():
        return None
    # The last model is the baseline, which stands against every other.
    models = np.zeros((len(rows), len(names) + 1))
    models[np.arange(len(rows)), [names.index(model) for model, *_ in rows]] = 1.0
    models[:, -1] = -1.0
    varies = features.any(axis=0)  # upstream has no value for a feature that never varies
    inputs, outcomes = np.hstack([models, features[:, varies]]), np.array([got for *_, got, _ in rows])
    rng, num_battles = np.random.default_rng(RESAMPLING_SEED), int(counts.sum())
    # A battle drawn is a row drawn as often as it counts.
    drawn = rng.multinomial(num_battles, counts / num_battles, size=NUM_PUBLISHED_RESAMPLES)  # (R, N)
    weights = np.array([_fitted(inputs, outcomes, times.astype(float)) for times in drawn])  # (R, F)
    strengths = weights[:, : len(names)] - weights[:, [len(names)]]
    low, middle, high = np.percentile(
        100 / (1 + np.exp(-strengths)), [PUBLISHED_PERCENTILES[0], 50, PUBLISHED_PERCENTILES[1]], axis=0
    )
    coefficients = np.zeros(len(FEATURES))
    coefficients[varies] = np.median(weights[:, len(names) + 1 :], axis=0)
    return {
        "scores": {
            name: {"score": float(middle[place]), "ci": [float(low[place]), float(high[place])]}
            for place, name in enumerate(names)
        },
        "coefficients": {name: float(value) for name, value in zip(FEATURES, coefficients, strict=True)},
    }


def _fitted(inputs: Floats, outcomes: Floats, counts: Floats) -> Floats:
    """The weights (F,) of a logistic regression after the published number of steps; as in `style_control.fit_logistic` but for that."""
    import torch

    x, y, times = (torch.from_numpy(values) for values in (inputs, outcomes, counts))
    weights = torch.full((x.shape[1],), _START, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights], lr=_STEP_SIZE, max_iter=_NUM_STEPS, tolerance_grad=_TOLERANCE, tolerance_change=_TOLERANCE
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = torch.nn.functional.binary_cross_entropy_with_logits(x @ weights, y, weight=times, reduction="sum")
        found.backward()
        return found

    optimizer.step(loss)
    fitted: Floats = weights.detach().numpy()
    return fitted


def differences(candidate: Style, baseline: Style) -> list[float]:
    """The features of a comparison: length, then headers, list items and bold spans by density."""
    tokens = candidate["tokens"] + baseline["tokens"]
    found = [(candidate["tokens"] - baseline["tokens"]) / tokens if tokens else 0.0]
    for name in FEATURES[1:]:
        first, second = (one[name] / (one["tokens"] + 1) for one in (candidate, baseline))
        found.append((first - second) / (first + second + 1))
    return found


def _standardised(features: Floats, counts: Floats) -> Floats:
    """Centred and scaled over all battles, a row counting as often as it has battles; a feature that never varies is 0."""
    import numpy as np

    num_battles = counts.sum()
    centred = features - counts @ features / num_battles
    spread = np.sqrt(counts @ centred**2 / max(num_battles - 1, 1))
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-12)
