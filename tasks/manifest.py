"""An artifact's manifest: what the artifact is made of, and its files with their sizes and hashes."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import NotRequired, TypedDict, TypeGuard

from tasks.job import Settings

MANIFEST = "manifest.json"
# More than any digest has, and less than a file's name may have.
_MOST_DIGITS = 128
_REQUIRED = {"files", "fingerprint", "ingredients"}
_FOLDERS = ("model_path", "model_folder")


class FileEntry(TypedDict):
    """What a file of an artifact was when it was made."""

    size: int
    sha256: str


class MadeOf(TypedDict):
    """What an artifact's key was made of, as `tasks.keys.Ingredients` says it."""

    stage: str
    settings: Settings
    inputs: dict[str, str]
    code: dict[str, str]
    libraries: NotRequired[dict[str, str | None]]


class Manifest(TypedDict):
    """A manifest's JSON. The fields that are not required are those of `tasks.job.Identity`, and where an engine computed."""

    seconds: float
    versions: dict[str, str]
    machine: dict[str, str | int | float | None]
    engine_placement: NotRequired[dict[str, int | float]]
    ray: NotRequired[str]
    model_path: NotRequired[str]
    model_folder: NotRequired[str]
    is_linked: NotRequired[bool]
    open: NotRequired[int]
    stage: str
    key: str
    fingerprint: str
    ingredients: MadeOf
    files: dict[str, FileEntry]


def is_digest(value: object) -> TypeGuard[str]:
    """Whether what a pointer names can be a fingerprint. It becomes part of a path: nothing but a digest will do."""
    return isinstance(value, str) and value.isalnum() and len(value) <= _MOST_DIGITS


def is_manifest(value: object) -> TypeGuard[Manifest]:
    """Whether JSON that was read is a manifest, as far as an artifact can't be checked without."""
    if not isinstance(value, dict) or not value.keys() >= _REQUIRED:
        return False
    files = value["files"]
    return (
        isinstance(value["fingerprint"], str)
        and all(isinstance(value.get(name, ""), str) for name in _FOLDERS)
        and isinstance(files, dict)
        and all(_is_entry(entry) for entry in files.values())
        and isinstance(value["ingredients"], dict)
    )


def _is_entry(value: object) -> bool:
    return isinstance(value, dict) and type(value.get("size")) is int and isinstance(value.get("sha256"), str)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact's folder.

    Raises:
        FileNotFoundError: there is none: the artifact isn't complete.
        ValueError: it is no JSON, or JSON of something else.
    """
    path = folder / MANIFEST
    try:
        value: object = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # no JSON, or no text
        raise ValueError(f"{path} is not JSON ({error})") from error
    if not is_manifest(value):
        raise ValueError(f"{path} is no manifest")
    return value


def file_sha256(path: Path, *, durable: bool = False) -> str:
    """The sha256 of a file's bytes; with `durable` they are on the disk itself before this returns."""
    with path.open("rb") as handle:
        if durable:
            os.fsync(handle.fileno())
        return hashlib.file_digest(handle, "sha256").hexdigest()
