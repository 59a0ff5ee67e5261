"""Whether the model's chat template takes the recipe's `system_prompt`, and which of the evaluations don't get it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bnf.data.marked import Message
from bnf.model.templates import templated, write_templated
from flows.dag.checks import Check
from flows.recipe.config import Recipe

NAME = "system_prompt"


def system_prompt_check(recipe: Recipe, folder: Path | None) -> Check | None:
    """The check of a recipe with a system prompt; None for one without. `folder` is the model's, None until it is fetched."""
    if recipe.system_prompt is None:
        return None
    if folder is not None and (problem := _refused(recipe, folder)):
        return Check(
            NAME, f"system_prompt must be left out for {folder.name}, got one: {problem}; put it into the prompts, or remove it"
        )
    plain = [name for name, task in recipe.evaluation.lm_eval.items() if not task.chat]
    without = f"; lm-eval's {', '.join(plain)} without chat don't get it" if plain else ""
    return Check(NAME, None, f"before every conversation that has no system message of its own{without}")


def _refused(recipe: Recipe, folder: Path) -> str | None:
    """Why a chat template or the tokenizer refuses the system prompt before a question; None where neither does."""
    from bnf.data.rendering import Renderer, load_tokenizer

    system_prompt = str(recipe.system_prompt)
    messages: list[Message] = [{"role": "system", "content": system_prompt}, {"role": "user", "content": "What is it?"}]
    template = recipe.find("chat_template", recipe.chat_template) if recipe.chat_template is not None else None
    try:
        with tempfile.TemporaryDirectory() as scratch:
            # As the run will have it.
            write_templated(
                folder, shown := Path(scratch) / folder.name, templated(folder, template, recipe.chat_template_kwargs)
            )
            renderer = Renderer(load_tokenizer(shown, recipe.date))
        if control := renderer.control_tokens(system_prompt):
            return f"it holds the control token {control[0]}, which would end its turn"
        (rendered,) = renderer.render([(messages, [])])
    except (ValueError, OSError) as error:
        return str(error)
    return str(rendered) if isinstance(rendered, ValueError) else None
