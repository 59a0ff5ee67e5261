"""Arena-Hard v2.0's style control: a Bradley–Terry regression of all models together, with the style of both answers beside them.

It differs from v0.1's (`style_control.py`): headers, list items and bold spans are densities (per token, plus one) and not counts; the
difference of lengths is (a − b) / (a + b); every feature is centred and scaled over all battles of the fit, so that a score is the win rate
at these battles' mean style, and depends on which models are fitted together; there is next to no ridge; the score is the median of 100
bootstraps over battles. https://github.com/lmarena/arena-hard-auto
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evaluation.judging.aggregates.arena_hard_v2 import NUM_PUBLISHED_RESAMPLES, PUBLISHED_PERCENTILES
from evaluation.judging.aggregates.judgment import Style
from evaluation.judging.aggregates.style_control import FEATURES, Battles, fit_logistic, styles_of
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
# Upstream's optimizer stops after 50 steps, so that a model that wins all its battles has a finite strength. Here this does.
_RIDGE = 1e-3


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
    models = np.zeros((len(rows), len(names)))
    models[np.arange(len(rows)), [names.index(model) for model, *_ in rows]] = 1.0
    inputs, outcomes = np.hstack([models, features]), np.array([got for *_, got, _ in rows])
    rng, num_battles = np.random.default_rng(RESAMPLING_SEED), int(counts.sum())
    # A battle drawn is a row drawn as often as it counts.
    drawn = rng.multinomial(num_battles, counts / num_battles, size=NUM_PUBLISHED_RESAMPLES)  # (R, N)
    weights = np.array([fit_logistic(inputs, outcomes, times.astype(float), _RIDGE) for times in drawn])  # (R, F)
    scores = 100 / (1 + np.exp(-weights[:, : len(names)]))
    low, middle, high = np.percentile(scores, [PUBLISHED_PERCENTILES[0], 50, PUBLISHED_PERCENTILES[1]], axis=0)
    medians = np.median(weights[:, len(names) :], axis=0)
    return {
        "scores": {
            name: {"score": float(middle[place]), "ci": [float(low[place]), float(high[place])]}
            for place, name in enumerate(names)
        },
        "coefficients": {name: float(value) for name, value in zip(FEATURES, medians, strict=True)},
    }


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
