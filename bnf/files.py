"""Files that are whole or absent, and that others may read. Everything in the project that replaces a file does it here."""

import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path, *, suffix: str = ".partial", durable: bool = False) -> Iterator[Path]:
    """Gives a name beside `path` to write under, and moves that file to `path` at the end: `path` is never half written.

    Args:
        suffix: What the name has at its end. Processes that write the same file at once need a suffix each.
        durable: Whether the content outlasts a power cut.
    """
    partial = path.with_name(path.name + suffix)
    yield partial
    if durable:
        with partial.open("rb") as file:
            os.fsync(file.fileno())
    os.replace(partial, path)


def write_json(
    path: Path,
    value: object,
    *,
    indent: int | None = None,
    ensure_ascii: bool = True,
    allow_nan: bool = True,
    suffix: str = ".partial",
    durable: bool = False,
) -> None:
    """Writes `value` as JSON with a line feed at its end, as `replacing` does."""
    text = json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, allow_nan=allow_nan)
    with replacing(path, suffix=suffix, durable=durable) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def read_note(path: Path) -> dict[str, Any] | None:
    """The JSON object of a small file that work in progress keeps for its next try. None where there is no such file, and where it holds
    no object, as a power cut may leave it: what it noted must then be found anew.
    """
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def put_folder(unfinished: Path, folder: Path) -> None:
    """Moves a folder to the name `folder`, in place of one that is there. When this returns the disk itself holds all of it under that
    name; what a kill or a power cut leaves under it is whole.
    """
    sync_folder(unfinished)
    old = unfinished.with_name(unfinished.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(unfinished, folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Has the disk itself hold all files below a folder, and which files it and its folders have, before this returns."""
    for path in folder.rglob("*"):
        if not path.is_symlink() and (path.is_file() or path.is_dir()):
            _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    """Has the disk itself hold a file's content, or which files a folder has and under which names, before this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_to_readers(path: Path) -> None:
    """Gives a file, or all files of a folder, the permissions that the umask leaves to a new file.

    safetensors writes its files for their owner alone (0600), whatever the umask says.
    """
    mask = _umask()
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(0o666 & ~mask)


_asking = threading.Lock()


def _umask() -> int:
    """The process's umask. Linux says it; elsewhere it must be set to be read, by one thread at a time."""
    try:
        found = re.search(r"^Umask:\s*([0-7]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except FileNotFoundError:
        found = None
    if found:
        return int(found[1], 8)
    with _asking:
        mask = os.umask(0o077)
        os.umask(mask)
    return mask
