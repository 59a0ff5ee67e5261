"""The policies of a training's way that a recipe asks for (`evaluation.checkpoints`)."""

from __future__ import annotations

from bnf.training.choosing import after_step, check_steps, every_save
from flows.errors import RecipeError
from flows.recipe.config import Recipe


def asked_checkpoints(recipe: Recipe) -> list[str]:
    """The names of the policies of the training's way that are evaluated: `save1`, `step8`.

    Raises:
        RecipeError: a step comes after the last, or every save is asked for and their number isn't known.
    """
    asked = recipe.evaluation.checkpoints
    if asked is None:
        return []
    config = recipe.train_config()
    names = [after_step(step) for step in asked] if asked != "all" else []
    try:
        if config.max_steps > 0:
            check_steps(names, config.max_steps)
        if names:
            return names
        # Where another one is taken, nothing else would say what the last policy is.
        return every_save(config.save_steps, config.max_steps, with_last=config.keep_best != "none")
    except ValueError as error:
        # The training knows no key of another section.
        of_saves = str(error).startswith("save_steps")
        raise RecipeError(f"train.{error} (evaluation.checkpoints=[100, 200])" if of_saves else str(error)) from error
