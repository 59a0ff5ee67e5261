"""Paths as a person writes them."""

import os
from pathlib import Path


def person_path(path: str) -> Path:
    """A path with `~` as the person's home, as a shell has it where a path begins a word."""
    return Path(os.path.expanduser(path))
