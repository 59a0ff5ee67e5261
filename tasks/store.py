"""The artifact store: complete, verifiable folders found by key, and the partial work beside them.

artifacts/<stage>/<key>.json                 pointer to the newest artifact of this key, swapped atomically
artifacts/<stage>/<key>.<fingerprint>/       the artifact; its manifest.json is written last
artifacts/<stage>/<key>.work/                partial work, which survives kill -9
artifacts/<stage>/<key>.lock                 flock: freed by the kernel when its owner dies
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnf.digests import model_digest
from tasks.keys import KEY_CHARACTERS, Ingredients, digest

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """A complete output of a stage."""

    stage: str
    key: str
    fingerprint: str
    path: Path

    @property
    def manifest(self) -> dict[str, Any]:
        return read_json(self.path / MANIFEST)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Artifact:
        return cls(value["stage"], value["key"], value["fingerprint"], Path(value["path"]))

    def as_json(self) -> dict[str, str]:
        return {"stage": self.stage, "key": self.key, "fingerprint": self.fingerprint, "path": str(self.path)}


class Store:
    """The artifacts of one home folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, stage: str, key: str) -> Artifact | None:
        """The valid artifact of a key, or None. What is altered counts as absent; `problem` says what is wrong with it."""
        artifact = self._pointed(stage, key)
        return artifact if artifact is not None and damage(artifact) is None else None

    def problem(self, stage: str, key: str) -> str | None:
        """Why the artifact that the pointer names can't be used, or None where it can or where there is none."""
        artifact = self._pointed(stage, key)
        return damage(artifact) if artifact is not None else None

    def _pointed(self, stage: str, key: str) -> Artifact | None:
        try:
            pointer = read_json(self._file(stage, key, "json"))
        except FileNotFoundError:
            return None
        return Artifact(stage, key, pointer["fingerprint"], self.root / stage / f"{key}.{pointer['fingerprint']}")

    def work_folder(self, stage: str, key: str) -> Path:
        folder = self._file(stage, key, "work")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def discard_work(self, stage: str, key: str) -> None:
        """Drop partial work, so that a forced run starts from nothing."""
        shutil.rmtree(self._file(stage, key, "work"), ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, stage: str, key: str) -> Iterator[None]:
        """Hold the key's lock; waits while another process computes the same artifact."""
        path = self._file(stage, key, "lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def commit(
        self,
        ingredients: Ingredients,
        work: Path,
        *,
        content: Sequence[str],
        fingerprint: str | None,
        about: dict[str, Any],
    ) -> Artifact:
        """Turn a finished work folder into an artifact: manifest last, then a rename, then the pointer.

        `content` are the patterns of the files whose bytes make the fingerprint, unless the stage gives one itself (a model's
        digest); logs, timings and metrics stay outside it.
        """
        stage, key = ingredients.stage, ingredients.key()
        files = {
            str(path.relative_to(work)): {"size": path.stat().st_size, "sha256": file_sha256(path)}
            for path in sorted(work.rglob("*"))
            if path.is_file()
        }
        if fingerprint is None:
            marked = {name: entry["sha256"] for name, entry in files.items() if any(fnmatch.fnmatch(name, p) for p in content)}
            if not marked:
                raise ValueError(f"stage {stage} must write files matching {list(content)}, got {sorted(files)}")
            fingerprint = digest(marked)
        manifest = {
            **about,
            "stage": stage,
            "key": key,
            "fingerprint": fingerprint,
            "ingredients": ingredients.as_json(),
            "files": files,
        }
        write_json(work / MANIFEST, manifest)
        artifact = Artifact(
            stage, key, fingerprint[:KEY_CHARACTERS], self.root / stage / f"{key}.{fingerprint[:KEY_CHARACTERS]}"
        )
        if artifact.path.exists() and damage(artifact) is None:
            # A forced run gave the same bits: the folder that earlier runs name stays as it is.
            shutil.rmtree(work)
        else:
            shutil.rmtree(artifact.path, ignore_errors=True)
            os.rename(work, artifact.path)
        write_json(self._file(stage, key, "json"), {"fingerprint": artifact.fingerprint})
        return artifact

    def outside_fingerprint(self, path: Path) -> str:
        """The content digest of a file or model folder outside the store, read once per path, size and modification time."""
        if path.is_dir():
            return model_digest(path, self.root.parent / "digests.json")
        status = path.stat()
        return _outside_sha256(path, status.st_size, status.st_mtime_ns)

    def _file(self, stage: str, key: str, ending: str) -> Path:
        return self.root / stage / f"{key}.{ending}"


def damage(artifact: Artifact) -> str | None:
    """What is wrong with an artifact on disk, by its manifest's list of files and sizes; None where nothing is."""
    try:
        manifest = artifact.manifest
    except FileNotFoundError:
        return f"{artifact.path} has no {MANIFEST}"
    except json.JSONDecodeError as error:
        return f"{artifact.path / MANIFEST} is not JSON ({error})"
    for name, entry in manifest["files"].items():
        try:
            size = (artifact.path / name).stat().st_size
        except FileNotFoundError:
            return f"{artifact.path / name} is missing"
        if size != entry["size"]:
            return f"{artifact.path / name} has {size} bytes, its manifest says {entry['size']}"
    external = manifest.get("model_path")
    if external is not None and not Path(external).exists():
        return f"the model folder {external} is gone"
    return None


@functools.cache
def _outside_sha256(path: Path, size: int, mtime_ns: int) -> str:
    return file_sha256(path)


def file_sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole: to a neighbour first, then swapped in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    os.replace(partial, path)
