"""Permissions of written files: safetensors makes its files readable for their owner alone (0600), whatever the umask says."""

import os
from pathlib import Path


def open_to_readers(path: Path) -> None:
    """Gives a file, or all files of a folder, the permissions that the umask gives to a new file."""
    mask = os.umask(0o077)
    os.umask(mask)
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(0o666 & ~mask)
