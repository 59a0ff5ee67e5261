"""Keys of services from Prefect Secret blocks: read when a run starts, handed to its processes, written nowhere."""

from __future__ import annotations

from typing import cast

from flows.config import Recipe
from flows.errors import RecipeError


def service_keys(recipe: Recipe) -> dict[str, str]:
    """The variables that the judges' blocks fill, by name. Without blocks the keys come from the environment as it is.

    Raises:
        RecipeError: no such block, or two blocks for one variable.
    """
    judges = [recipe.judge, recipe.judge.second if recipe.judge else None, recipe.label.judge if recipe.label else None]
    blocks: dict[str, str] = {}
    for judge in judges:
        if judge is None or judge.api_key_block is None:
            continue
        if blocks.setdefault(judge.key_variable, judge.api_key_block) != judge.api_key_block:
            raise RecipeError(
                f"api_key_variable must differ between judges whose api_key_block does, got {judge.key_variable} for two blocks; name "
                "another variable"
            )
    return {variable: _secret(block) for variable, block in blocks.items()}


def _secret(name: str) -> str:
    from prefect.blocks.system import Secret

    try:
        # Outside of an event loop, as here, it is no coroutine; its type allows for one.
        block = cast("Secret[str]", Secret.load(name))
    except ValueError as error:
        raise RecipeError(
            f"judge.api_key_block must be a Prefect Secret block, got {name!r} ({error}); create it in the UI or with "
            f"`Secret(value=…).save({name!r})`"
        ) from error
    return str(block.get())
