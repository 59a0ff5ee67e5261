"""Recipes: files that were damaged, and values and overrides of any kind."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from bnf.plain_yaml import dump
from evaluation.records import Record
from flows.recipe.config import load_recipe, make_recipe
from tasks.keys import ROOT
from tests.unit.fuzz.inputs import changed, damaged, texts, values
from tests.unit.fuzz.target import Target, in_folder, refused

_RECIPES = [path.read_bytes() for path in sorted((ROOT / "flows" / "recipes").glob("*.yaml"))]
_TRAINED: Record = {
    "name": "mine",
    "model_name_or_path": "org/model",
    "data": {"source": "pairs", "path": "pairs.jsonl"},
    "prepare": {"max_length": 512, "ratings": {"threshold": 3}},
    "train": {"objective": "bnf", "learning_rate": 1e-5, "objective_options": {}},
    "evaluation": {"benchmarks": {"gsm8k": {"limit": 4}, "math": None}, "num_samples": 1},
    "judge": {"model_name_or_path": "org/judge", "benchmarks": ["mt_bench"]},
}
_KEYS = [f"{section}.{key}" for section, held in _TRAINED.items() if isinstance(held, dict) for key in held] + [
    *_TRAINED,
    "seed",
    "chat_template_kwargs",
]


_SETTINGS = st.lists(st.tuples(st.one_of(st.sampled_from(_KEYS), texts), st.one_of(texts, values.map(repr))), max_size=2)


@in_folder
def _recipe_file(folder: Path, data: bytes) -> str:
    file = folder / "mine.yaml"
    file.write_bytes(data)
    return refused(lambda: _same_again(load_recipe(str(file))))


def _recipe_values(drawn: tuple[Any, list[tuple[str, str]]]) -> str:
    raw, overrides = drawn
    if not isinstance(raw, dict):
        raw = {"name": raw}
    return refused(lambda: _same_again(make_recipe(raw, [f"{key}={text}" for key, text in overrides])))


def _same_again(recipe: Any) -> None:
    """A recipe that is taken is written into its run's folder: what is read from there is the same."""
    values = recipe.model_dump(mode="json", exclude_unset=True)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        (folder / "recipe.yaml").write_text(dump(values))
        assert load_recipe(str(folder / "recipe.yaml")).model_dump() == recipe.model_dump()
    finally:
        shutil.rmtree(folder)


TARGETS = [
    Target("recipe files", damaged(st.sampled_from(_RECIPES)), _recipe_file, quick=40),
    Target("recipe values", st.tuples(changed([_TRAINED], _KEYS), _SETTINGS), _recipe_values),
]
