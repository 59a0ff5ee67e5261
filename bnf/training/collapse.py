"""When a training has collapsed, and what to try: a loss that is no number, preferred completions that became unlikely, samples
that do not end.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from bnf.objectives import load_objective
from bnf.training.config import TrainConfig

# Nats per token that dev preferred completions may lie under the reference, at all but one evaluation.
_MOST_NATS_DOWN = 1.0
_EVALUATIONS_DOWN = 2
# Share of samples without an end, absolutely and as a multiple of what the model had before training.
_MOST_UNTERMINATED = 0.10
_MOST_TIMES_UNTERMINATED = 3
# Of a few samples one or two more without an end are chance: 4 of 4 where none was before have 1 in 70.
_FEWEST_MORE_UNTERMINATED = 4

SHIFT = "eval_logps_shift/chosen"
UNTERMINATED = "eval_samples/unterminated"
NUM_SAMPLES = "eval_samples/number"


class TrainingCollapsed(ArithmeticError):
    """The training is of no use from here on; the message names the figure, its limit, and what to try."""


def non_finite(what: str, value: float, step: int, config: TrainConfig) -> TrainingCollapsed:
    """The error of a number that is none."""
    weighting = ", or label_weighting with less weight on dispreferred completions" if _weighs_labels(config) else ""
    return TrainingCollapsed(
        f"{what} must be finite, got {value} at step {step}; try a lower learning_rate (now {config.learning_rate:g}), "
        f"a lower max_grad_norm (now {config.max_grad_norm:g}){weighting}"
    )


def check_evaluations(evaluations: Sequence[Mapping[str, Any]], config: TrainConfig) -> None:
    """Looks at the evaluations so far, the one before the first step first.

    Raises:
        TrainingCollapsed: where the latest shows a collapse.
    """
    latest, step = evaluations[-1], evaluations[-1]["step"]
    down = [entry for entry in evaluations if entry.get(SHIFT, 0.0) < -_MOST_NATS_DOWN]
    if len(down) >= _EVALUATIONS_DOWN and down[-1] is latest:
        raise TrainingCollapsed(
            f"dev preferred completions must stay within {_MOST_NATS_DOWN:g} nat per token of the reference, got "
            f"{latest[SHIFT]:.2f} at step {step} and {down[-2][SHIFT]:.2f} at step {down[-2]['step']}: the training destroys what it "
            f"should keep; {_remedies(config)}"
        )
    if UNTERMINATED not in latest:
        return
    share, before = latest[UNTERMINATED], evaluations[0][UNTERMINATED]
    more = round((share - before) * latest[NUM_SAMPLES])
    if share > _MOST_UNTERMINATED and share > _MOST_TIMES_UNTERMINATED * before and more >= _FEWEST_MORE_UNTERMINATED:
        raise TrainingCollapsed(
            f"samples without an end within {config.dev_max_new_tokens} tokens must stay under {_MOST_UNTERMINATED:.0%} or "
            f"{_MOST_TIMES_UNTERMINATED} times the {before:.1%} before training, got {share:.1%} at step {step}; check that preferred "
            f"completions are whole and hold their end-of-turn token (groups.jsonl), or {_remedies(config)}"
        )


def _remedies(config: TrainConfig) -> str:
    remedies = [f"try a lower learning_rate (now {config.learning_rate:g}) or fewer steps"]
    if config.objective == "nll_signed":
        # Measured: with every weight at 1 the log-probability of right answers fell from -0.68 to -2.35.
        remedies.append("objective bnf, whose weights bound what nll_signed lets fall")
    elif config.objective in ("dpo", "cdpo", "ipo", "kto", "r_dpo"):
        remedies.append(f"objective dpop or dpo_nll, which hold preferred completions where {config.objective} does not")
    elif config.label_weighting == "none" and _weighs_labels(config):
        remedies.append("label_weighting balanced, or {preferred: 1, dispreferred: 0.5}")
    elif _weighs_labels(config):
        remedies.append(f"label_weighting with less weight on dispreferred completions (now {config.label_weighting})")
    return ", ".join(remedies)


def _weighs_labels(config: TrainConfig) -> bool:
    return "label_weighting" in load_objective(config.objective, config.objective_options).reads
