"""The studies of language models: sweep files that say what they ask."""

from __future__ import annotations

from pathlib import Path

from flows.errors import RecipeError
from flows.recipe.config import read_values
from flows.recipe.sweep_file import load_sweep
from tasks.keys import ROOT

FOLDER = ROOT / "flows" / "recipes" / "studies"
_SECTION = "study"


def study_names() -> list[str]:
    """The studies that there are. A file whose name begins with `_` is what others are based on."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.name.startswith("_"))


def study_path(name: str) -> str:
    """A study's file as a command names it: from the project's root where it lies there."""
    file = FOLDER / f"{name}.yaml"
    return (file.relative_to(ROOT) if file.is_relative_to(ROOT) else file).as_posix()


def question_of(name: str) -> str:
    """What a study asks, for the list of all.

    Raises:
        RecipeError: its file isn't a study's.
    """
    file = Path(FOLDER / f"{name}.yaml")
    if _SECTION not in read_values(file, study_path(name)):
        raise RecipeError(
            f"{study_path(name)} must have the section study, got none; write one, or begin the file's name with _ where others are "
            "based on it"
        )
    study = load_sweep(str(file)).study
    assert study is not None, "the section is there"
    return study.question
