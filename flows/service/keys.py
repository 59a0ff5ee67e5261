"""Keys of services from Prefect Secret blocks. They are read when a run starts, go to its processes, and are written nowhere."""

from __future__ import annotations

from typing import cast

from flows.errors import RecipeError
from flows.recipe.config import Recipe


def service_keys(recipe: Recipe) -> dict[str, str]:
    """The environment variables that the judges' blocks fill, with their values. Without a block a key comes from the environment.

    Raises:
        RecipeError: no such block, or two blocks for one variable.
    """
    judges = {
        "judge": recipe.judge,
        "judge.second": recipe.judge.second if recipe.judge else None,
        "label.judge": recipe.label.judge if recipe.label else None,
    }
    blocks: dict[str, tuple[str, str]] = {}
    for key, judge in judges.items():
        if judge is None or judge.api_key_block is None:
            continue
        if blocks.setdefault(judge.key_variable, (judge.api_key_block, key))[0] != judge.api_key_block:
            raise RecipeError(
                f"{key}.api_key_variable must differ between judges whose api_key_block does, got {judge.key_variable} for two "
                "blocks; name another variable"
            )
    keys = {}
    for variable, (block, key) in blocks.items():
        try:
            keys[variable] = _secret(block)
        except ValueError as error:
            raise RecipeError(
                f"{key}.api_key_block must be a Prefect Secret block, got {block!r} ({error}); create it in the UI or with "
                f"`Secret(value=…).save({block!r})`"
            ) from error
    return keys


def _secret(name: str) -> str:
    from prefect.blocks.system import Secret

    # Outside of an event loop, as here, it is no coroutine; its type allows for one.
    block = cast("Secret[str]", Secret.load(name))
    return str(block.get())
