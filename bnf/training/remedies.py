"""What to try after a training that collapsed, by its settings."""

from bnf.objectives import load_objective
from bnf.training.config import TrainConfig


def remedies(config: TrainConfig) -> str:
    """What to try where a training destroys what it should keep."""
    found = [f"try a lower learning_rate (now {config.learning_rate:g}) or fewer steps"]
    if config.objective == "nll_signed":
        # Measured: with every weight at 1 the log-probability of right answers fell from -0.68 to -2.35.
        found.append("objective bnf, whose weights bound what nll_signed lets fall")
    elif config.objective in ("dpo", "cdpo", "ipo", "kto", "r_dpo"):
        found.append(f"objective dpop or dpo_nll, which hold preferred completions where {config.objective} does not")
    elif config.objective in ("reinforce", "ppo", "grpo", "gspo"):
        kl_coef = config.objective_options.get("kl_coef", 0)
        what = f"a higher objective_options.kl_coef (now {kl_coef:g})" if kl_coef else "objective_options.kl_coef above 0"
        found.append(f"{what}, which holds the policy near the reference")
    elif config.label_weighting == "none" and _weighs_labels(config):
        found.append("label_weighting balanced, or {preferred: 1, dispreferred: 0.5}")
    elif _weighs_labels(config):
        found.append(f"label_weighting with less weight on dispreferred completions (now {config.label_weighting})")
    return ", ".join(found)


def remedies_for_overflow(config: TrainConfig) -> str:
    """What to try where a number of a training is infinite or not a number."""
    weighting = ", or label_weighting with less weight on dispreferred completions" if _weighs_labels(config) else ""
    return (
        f"try a lower learning_rate (now {config.learning_rate:g}), "
        f"a lower max_grad_norm (now {config.max_grad_norm:g}){weighting}"
    )


def _weighs_labels(config: TrainConfig) -> bool:
    return "label_weighting" in load_objective(config.objective, config.objective_options).reads
