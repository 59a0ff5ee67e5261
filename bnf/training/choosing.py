"""Which policies of a training outlast it: the best on the dev groups (`keep_best`), and those after steps that were asked for.

Torch is not imported here: a plan reads it too.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

KeepBest = Literal["none", "eval_accuracy", "eval_loss"]
# The share of preferred above dispreferred rewards, by its name in the log, where it follows `eval_`.
ACCURACY = "rewards/accuracies"
# How many pairs it is a share of; absent where single completions are compared.
NUM_PAIRS = "rewards/num_pairs"

_SAVE = re.compile(r"(save|step)([1-9]\d*)")


class Figure(NamedTuple):
    """What `keep_best` looks at: its name in the log, and whether more is better."""

    name: str
    greater_is_better: bool


FIGURES = {"eval_accuracy": Figure(f"eval_{ACCURACY}", True), "eval_loss": Figure("eval_loss", False)}


def policy_after(output_dir: Path, step: int) -> Path:
    """The model folder of the policy after a step, where a training kept it."""
    return output_dir / "policies" / f"step-{step}"


def every_save(save_steps: float, max_steps: int, *, with_last: bool) -> list[str]:
    """The saves of a training by their numbers: `save1`, `save2`, … The last policy is one of them only `with_last`.

    Raises:
        ValueError: their number isn't known before the data are: `save_steps` counts steps, and nothing says how many there are.
    """
    if save_steps < 1:
        number = math.ceil(1 / save_steps)
    elif max_steps > 0:
        number = math.ceil(max_steps / save_steps)
    else:
        raise ValueError(
            f"save_steps must be a share of all steps, or max_steps set, where every save is asked for, got {save_steps:g} steps: how many "
            "saves there will be isn't known; write train.save_steps=0.25, or name the steps in a list"
        )
    return [f"save{place}" for place in range(1, number + with_last)]


def after_step(step: int) -> str:
    """The name of the policy after a step."""
    return f"step{step}"


def step_of(name: str, save_steps: float, num_steps: int) -> int:
    """The step after which a policy is kept: of `step8` the eighth, of `save2` that of the second save; at most the last."""
    match = _SAVE.fullmatch(name)
    assert match is not None, name
    number = int(match[2])
    if match[1] == "save":
        number *= math.ceil(num_steps * save_steps) if save_steps < 1 else int(save_steps)
    return min(number, num_steps)


def num_kept(asked: Sequence[str], keep_best: KeepBest) -> int:
    """How many policies beside the last one lie on the disk at most: those that are asked for, and with `keep_best` the best one so far and
    the one that the last checkpoint takes for it."""
    return len(asked) + (2 if keep_best != "none" else 0)


def check_steps(asked: Sequence[str], num_steps: int) -> None:
    """Refuses a step that the training doesn't have.

    Raises:
        ValueError: naming it.
    """
    late = [name for name in asked if name.startswith("step") and int(name.removeprefix("step")) > num_steps]
    if late:
        raise ValueError(
            f"evaluation.checkpoints must be steps of the training, which has {num_steps}, got {late[0].removeprefix('step')}; lower "
            "it, or write all"
        )


def check_choice_of_best(keep_best: KeepBest, num_dev: int, comparable: bool, evaluations: int | None) -> None:
    """Refuses `keep_best` where the data give nothing to choose by.

    Args:
        num_dev: the number of dev groups.
        comparable: whether they hold pairs, or preferred and dispreferred completions.
        evaluations: how often they are evaluated after the training's first step; None where that isn't known.

    Raises:
        ValueError: naming what is missing.
    """
    if keep_best == "none":
        return
    if not num_dev:
        raise ValueError(
            f"keep_best must be none where the data have no dev groups, got {keep_best!r}; raise prepare.dev_fraction, or leave it out"
        )
    if keep_best == "eval_accuracy" and not comparable:
        raise ValueError(
            "keep_best must be eval_loss or none where the dev groups hold neither pairs nor both labels, got 'eval_accuracy'; write "
            "train.keep_best=eval_loss"
        )
    if evaluations is not None and evaluations < 2:
        raise ValueError(
            f"eval_steps must give keep_best several evaluations to choose from, got {evaluations} in the whole training; write "
            "train.eval_steps=0.1"
        )


def num_evaluations(eval_steps: float, num_steps: int | None) -> int | None:
    """How often a training of so many steps evaluates its dev groups after its first step; None where that isn't known."""
    if eval_steps < 1:
        return math.ceil(1 / eval_steps) if num_steps is None else math.ceil(num_steps / math.ceil(num_steps * eval_steps))
    return None if num_steps is None else math.ceil(num_steps / eval_steps)
