"""What a shell completes: runs, recipes, benchmarks, stages and other names. A shell waits for it, so it reads folders and no more.

`bnf --install-completion` sets it up. A list that is empty leaves it to the shell, which then completes files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from bnf.plugins import Kind, T, names

_ROOT = Path(__file__).resolve().parents[2]
_ENDINGS = (".yaml", ".yml")


def runs(incomplete: str) -> list[str]:
    """The home's runs, the newest first, and `latest`."""
    from flows.errors import RecipeError
    from flows.runs.home import home_folder

    try:
        folders = [(entry.stat().st_mtime, entry.name) for entry in os.scandir(home_folder() / "runs") if entry.is_dir()]
    except (OSError, RecipeError):
        return []
    return _beginning([name for _, name in sorted(folders, reverse=True)] + (["latest"] if folders else []), incomplete)


def recipes(incomplete: str) -> list[str]:
    """The YAML files where the text leads, and the project's recipes by the path by which every folder knows them."""
    folder, _, begun = incomplete.rpartition("/")
    place = Path(os.path.expanduser(folder or ("/" if incomplete.startswith("/") else ".")))
    here = [f"{folder}/{name}" if folder else name for name in _files(place) if name.startswith(begun)]
    own = _ROOT / "flows" / "recipes"
    project = [path.relative_to(_ROOT).as_posix() for path in sorted(own.rglob("*.yaml"))]
    return list(dict.fromkeys([*here, *_beginning(project, incomplete)]))


def studies(incomplete: str) -> list[str]:
    """The studies: those without a language model, and the project's sweeps that are studies."""
    files = [name.rpartition(".")[0] for name in _files(_ROOT / "flows" / "recipes" / "studies") if not name.startswith("_")]
    return _beginning(["bandit", "length", *files], incomplete)


def stages(incomplete: str) -> list[str]:
    """The stages, also behind a comma."""
    from tasks.stages import STAGES

    return _listed(STAGES, incomplete)


def benchmarks(incomplete: str) -> list[str]:
    """The benchmarks, also behind a comma."""
    from evaluation.benchmarks import BENCHMARKS

    return _listed(BENCHMARKS, incomplete)


def sources(incomplete: str) -> list[str]:
    """The kinds of data."""
    from data.sources import SOURCES

    return _beginning(names(SOURCES), incomplete)


def objectives(incomplete: str) -> list[str]:
    """The objectives."""
    from bnf.objectives import OBJECTIVES

    return _beginning(names(OBJECTIVES), incomplete)


def engines(incomplete: str) -> list[str]:
    """The engines."""
    from evaluation.engines import ENGINES

    return _beginning(names(ENGINES), incomplete)


def _files(folder: Path) -> Sequence[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(_ENDINGS) and entry.is_file())
    except OSError:
        return []


def _listed(kind: Kind[T], incomplete: str) -> list[str]:
    """The names that may end a list with commas; those that are in it already are left out."""
    before, comma, begun = incomplete.rpartition(",")
    left = [name for name in names(kind) if name not in before.split(",")]
    return [f"{before}{comma}{name}" for name in _beginning(left, begun)]


def _beginning(known: Iterable[str], incomplete: str) -> list[str]:
    """Those that begin so; `-` and `_` are the same."""
    begun = incomplete.replace("-", "_")
    return [name for name in known if name.replace("-", "_").startswith(begun)]
