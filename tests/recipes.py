"""The project's recipes, and its sweeps."""

from flows.recipe.sweep_file import is_sweep
from tasks.keys import ROOT

_FILES = sorted((ROOT / "flows" / "recipes").rglob("*.yaml"))
SWEEPS = [path for path in _FILES if is_sweep(str(path))]
RECIPES = [path for path in _FILES if path not in SWEEPS]
