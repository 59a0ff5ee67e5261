"""Write a recipe, and the schema of recipes."""

from __future__ import annotations


def schema() -> None:
    """Print the JSON schema of recipes, from which editors complete them; a recipe of `bnf init` names its file."""
    from flows.recipe.schema import as_text

    print(as_text(), end="")
