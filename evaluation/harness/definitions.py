"""Where the definitions of lm-eval's tasks lie, and which names they have."""

from __future__ import annotations

import functools
import re
from importlib.util import find_spec
from pathlib import Path

_NAME = re.compile(r"""^["']?(?:task|group)["']?:[ \t]*["']?([^\s"'#]+)["']?\s*$""", re.M)


def definition_folders(include_path: Path | None) -> list[Path]:
    """Where definitions lie: the user's folder, then lm-eval's own."""
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise ValueError("evaluation.lm_eval must have the package lm-eval, got none; run `make env`")
    return [*([include_path] if include_path else []), Path(spec.origin).parent / "tasks"]


@functools.cache
def names_in(folder: Path) -> dict[str, Path]:
    """The tasks and groups that a folder's files name, each with its file."""
    names: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.yaml")):
        for name in _NAME.findall(path.read_text(encoding="utf-8", errors="replace")):
            names.setdefault(name, path)
    return names
