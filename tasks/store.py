"""The artifact store: one folder per artifact, found by its key and checked against its manifest, and partial work beside them.

artifacts/<stage>/<key>.json                 pointer to the newest artifact of this key, swapped atomically
artifacts/<stage>/<key>.<fingerprint>/       the artifact; its manifest.json is written last
artifacts/<stage>/<key>.<fingerprint>.part/  an artifact of the shared store on its way here, or the part of it that a stage reads
artifacts/<stage>/<key>.work/                partial work, which survives kill -9
artifacts/<stage>/<key>.lock                 flock: freed by the kernel when its owner dies
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import fnmatch
import functools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import bnf.files
from bnf.model.digests import file_state, model_digest
from data.reading.files import files_inside
from evaluation.records import read_json
from tasks.keys import KEY_CHARACTERS, Ingredients, canonical, digest
from tasks.manifest import MANIFEST, Manifest, file_sha256, is_digest, read_manifest
from tasks.remote import Remote

LOCK_INTERVAL_S = 0.2


@dataclass(frozen=True)
class Artifact:
    """A complete output of a stage: its folder, its key, and the digest of its content (`fingerprint`)."""

    stage: str
    key: str
    fingerprint: str
    path: Path

    @property
    def manifest(self) -> Manifest:
        return read_manifest(self.path)

    @property
    def folder(self) -> str:
        """Where it lies in a store: `<stage>/<key>.<fingerprint>`."""
        return f"{self.stage}/{self.path.name}"

    @classmethod
    def from_json(cls, value: Mapping[str, str]) -> Artifact:
        return cls(value["stage"], value["key"], value["fingerprint"], Path(value["path"]))

    def as_json(self) -> dict[str, str]:
        return {"stage": self.stage, "key": self.key, "fingerprint": self.fingerprint, "path": str(self.path)}


class Store:
    """The artifacts of one home folder, and of the shared store behind it where there is one.

    Args:
        root: the home's artifacts folder.
        remote: the shared store. What it has need not be computed here, and what is computed here is put there.
        verify: compare every file's sha256 with the manifest, not its size alone.
    """

    def __init__(self, root: Path, remote: Remote | None = None, *, verify: bool = False) -> None:
        self.root, self.remote, self.verify = root, remote, verify
        self._verified: set[Path] = set()

    def find(self, stage: str, key: str) -> Artifact | None:
        """The valid artifact of a key, or None. One that was altered counts as none; `problem` says what is wrong with it.

        One that only the shared store has is found too; `fetch` brings its files.
        """
        artifact = self._pointed(stage, key)
        if artifact is not None and self.damage(artifact) is None:
            return artifact
        shared = self._shared(stage, key)
        return shared if shared is not None and self._damage_there(shared) is None else None

    def problem(self, stage: str, key: str) -> str | None:
        """Why the artifact that a pointer names, here or in the shared store, can't be used; None where it can or there is none."""
        artifact = self._pointed(stage, key)
        if artifact is not None:
            return self.damage(artifact)
        shared = self._shared(stage, key)
        return self._damage_there(shared) if shared is not None else None

    def damage(self, artifact: Artifact) -> str | None:
        """What is wrong with an artifact on disk, by its manifest; None where nothing is. Hashes are compared once per process."""
        if artifact.path in self._verified:
            return None
        wrong = damage(artifact, hashes=self.verify)
        if wrong is None and self.verify:
            self._verified.add(artifact.path)
        return wrong

    def available(self, artifact: Artifact) -> bool:
        """Whether the artifact is whole here, or in the shared store."""
        return self.damage(artifact) is None or (self.remote is not None and self._damage_there(artifact) is None)

    def manifest(self, artifact: Artifact) -> Manifest:
        """An artifact's manifest, from here or from the shared store.

        Raises:
            FileNotFoundError: neither has it.
        """
        if self.remote is None or (artifact.path / MANIFEST).exists():
            return artifact.manifest
        manifest = self.remote.manifest(artifact.folder)
        if manifest is None:
            raise FileNotFoundError(f"{artifact.path} must be a complete artifact here or in {self.remote.url}, got none")
        return manifest

    def open_part(self, artifact: Artifact) -> str | None:
        """Which requests of an artifact failed and can be made at another time, in words; None where there are none.

        None also for an artifact that only the shared store has: a plan would have to ask the store once more for every artifact.
        """
        number = artifact.manifest.get("open") if (artifact.path / MANIFEST).exists() else None
        return f"{number} of its requests failed and are made again" if number else None

    def fetch(
        self, artifact: Artifact, leave_out: Sequence[str] = (), while_waiting: Callable[[], None] = lambda: None
    ) -> Path:
        """The folder of an artifact's files on this machine, brought from the shared store where they aren't here.

        `leave_out` are patterns of files that the reader doesn't need. They are not brought, and the folder is then a part.
        `while_waiting` is called as by `lock`.

        Raises:
            RemoteError: the shared store can't be reached, or what it holds is altered.
        """
        if self.remote is None or self.damage(artifact) is None:
            return artifact.path
        with self.lock(artifact.stage, artifact.key, while_waiting):
            if self.damage(artifact) is None:
                return artifact.path
            part = artifact.path.with_name(f"{artifact.path.name}.part")
            self.remote.download(artifact.folder, part, leave_out)
            if damage(dataclasses.replace(artifact, path=part)) is not None:
                return part
            shutil.rmtree(artifact.path, ignore_errors=True)
            os.rename(part, artifact.path)
            self._point(artifact)
        return artifact.path

    def publish(self, artifact: Artifact, *, replace: bool = False) -> Artifact:
        """Put an artifact into the shared store and return the one that counts there: another machine's, where that was first.

        With `replace` this one counts. An artifact that stands for a model folder outside the store stays on this machine.
        """
        if self.remote is None or self.damage(artifact) is not None or _model_outside(artifact) is not None:
            return artifact
        fingerprint = self.remote.upload(artifact.stage, artifact.key, artifact.fingerprint, artifact.path, replace=replace)
        if fingerprint == artifact.fingerprint:
            return artifact
        return self._artifact(artifact.stage, artifact.key, fingerprint)

    def share(self, artifact: Artifact) -> Artifact:
        """Put an artifact into the shared store, and return it: others can fetch it there though another one counts under its key."""
        if self.publish(artifact) != artifact:
            assert self.remote is not None
            self.remote.put(artifact.folder, artifact.path)
        return artifact

    def same_but_code(self, ingredients: Ingredients) -> Artifact | None:
        """The newest valid artifact of this machine whose key differs from this one's in code alone."""
        wanted = {**ingredients.as_json(), "code": None}
        pointers = sorted((self.root / ingredients.stage).glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        for pointer in pointers:
            artifact = self._pointed(ingredients.stage, pointer.stem)
            if artifact is None or self.damage(artifact) is not None:
                continue
            if canonical({**artifact.manifest["ingredients"], "code": None}) == canonical(wanted):
                return artifact
        return None

    def work_folder(self, stage: str, key: str) -> Path:
        """The folder of a key's partial work; it is made where it isn't there."""
        folder = self._file(stage, key, "work")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def discard_work(self, stage: str, key: str) -> None:
        """Drop partial work, so that a forced run starts from nothing."""
        shutil.rmtree(self._file(stage, key, "work"), ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, stage: str, key: str, while_waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the key's lock; waits while another process computes the same artifact, calling `while_waiting` meanwhile."""
        path = self._file(stage, key, "lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as handle:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    while_waiting()
                    time.sleep(LOCK_INTERVAL_S)
            yield

    def commit(
        self,
        ingredients: Ingredients,
        work: Path,
        *,
        content: Sequence[str],
        fingerprint: str | None,
        about: Mapping[str, object],
    ) -> Artifact:
        """Turn a finished work folder into an artifact: its manifest is written last, then it is renamed, then the pointer is set.

        Args:
            content: patterns of the files whose bytes make the fingerprint: all but logs, times and metrics.
            fingerprint: the output's own digest, where it has one (a model's).
            about: what the manifest says besides.

        Raises:
            ValueError: no file matches `content`.
        """
        stage, key = ingredients.stage, ingredients.key()
        # Left by a process that was killed at this place, or while it wrote a file.
        (work / MANIFEST).unlink(missing_ok=True)
        for unfinished in work.rglob("*.partial"):
            unfinished.unlink()
        # Some libraries write files that only their owner may read, and a home may be shared.
        bnf.files.open_to_readers(work)
        files = {
            str(path.relative_to(work)): {"size": path.stat().st_size, "sha256": file_sha256(path, durable=True)}
            for path in sorted(work.rglob("*"))
            if path.is_file() and not path.is_symlink()
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
        write_json(work / MANIFEST, manifest, durable=True)
        artifact = self._artifact(stage, key, fingerprint[:KEY_CHARACTERS])
        if self.damage(artifact) is None:
            # A forced run gave the same bits: the folder that earlier runs name stays as it is.
            shutil.rmtree(work)
        else:
            shutil.rmtree(artifact.path, ignore_errors=True)
            os.rename(work, artifact.path)
        self._point(artifact)
        return artifact

    def outside_fingerprint(self, path: Path) -> str:
        """The content digest of a file, model folder or data folder outside the store; a file is read once per `file_state`."""
        if path.is_dir() and not (path / "config.json").exists():
            return digest(
                {str(file.relative_to(path)): self.outside_fingerprint(file) for file in files_inside(path, str(path))}
            )
        if path.is_dir():
            home = self.root.parent
            # A plan must not create the home.
            return model_digest(path, home / "digests.json" if home.exists() else None, fresh=self.verify)
        return _outside_sha256(path, file_state(path))

    def _shared(self, stage: str, key: str) -> Artifact | None:
        """The artifact that the shared store has under a key, by its pointer there."""
        fingerprint = self.remote.fingerprint(stage, key) if self.remote is not None else None
        return self._artifact(stage, key, fingerprint) if fingerprint is not None else None

    def _damage_there(self, artifact: Artifact) -> str | None:
        """What is wrong with an artifact in the shared store; None where nothing is."""
        assert self.remote is not None
        return self.remote.damage(artifact.folder)

    def _pointed(self, stage: str, key: str) -> Artifact | None:
        try:
            fingerprint = read_json(self._file(stage, key, "json"))["fingerprint"]
            if not is_digest(fingerprint):
                raise ValueError("a pointer must name a fingerprint, which becomes part of a path")
            return self._artifact(stage, key, fingerprint)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            # A kill or a power cut came between an artifact and its pointer: a whole artifact counts without one.
            return self._unpointed(stage, key)

    def _unpointed(self, stage: str, key: str) -> Artifact | None:
        """The newest whole artifact of a key that no pointer names."""
        manifests = (self.root / stage).glob(f"{key}.*/{MANIFEST}")
        for manifest in sorted(manifests, key=lambda path: path.stat().st_mtime, reverse=True):
            fingerprint = manifest.parent.name.removeprefix(f"{key}.")
            if fingerprint != "work" and not fingerprint.endswith(".part"):
                artifact = self._artifact(stage, key, fingerprint)
                if self.damage(artifact) is None:
                    return artifact
        return None

    def _artifact(self, stage: str, key: str, fingerprint: str) -> Artifact:
        return Artifact(stage, key, fingerprint, self.root / stage / f"{key}.{fingerprint}")

    def _point(self, artifact: Artifact) -> None:
        write_json(self._file(artifact.stage, artifact.key, "json"), {"fingerprint": artifact.fingerprint}, durable=True)

    def _file(self, stage: str, key: str, ending: str) -> Path:
        return self.root / stage / f"{key}.{ending}"


def damage(artifact: Artifact, *, hashes: bool = False) -> str | None:
    """What is wrong with an artifact on disk, by its manifest's list of files and sizes, or `hashes`; None where nothing is."""
    try:
        manifest = artifact.manifest
    except FileNotFoundError:
        return f"{artifact.path} has no {MANIFEST}"
    except ValueError as error:
        return str(error)
    for name, entry in manifest["files"].items():
        path = artifact.path / name
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return f"{path} is missing"
        if size != entry["size"]:
            return f"{path} has {size} bytes, its manifest says {entry['size']}"
        if hashes and file_sha256(path) != entry["sha256"]:
            return f"{path} was altered: its sha256 is not the one in its manifest"
    external = _model_outside(artifact)
    linked = list(external.iterdir()) if external is not None and "is_linked" in manifest else []
    if external is not None and not all(path.exists() for path in (external, *linked)):
        return f"the model folder {external} is gone"
    if external is not None and hashes and model_digest(external, fresh=True) != manifest["fingerprint"]:
        return f"the model folder {external} was altered: its digest is not the one in the manifest"
    return None


def _model_outside(artifact: Artifact) -> Path | None:
    """The model's folder whose files lie outside the store, or that links to such files; None where the artifact has its files."""
    manifest = artifact.manifest
    if "model_path" in manifest:
        return Path(manifest["model_path"])
    return artifact.path / manifest["model_folder"] if manifest.get("is_linked") else None


@functools.cache
def _outside_sha256(path: Path, state: str) -> str:
    return file_sha256(path)


def write_json(path: Path, value: object, *, durable: bool = False) -> None:
    """Writes a file of the home whole, whoever else writes it at the same time. With `durable` it outlasts a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bnf.files.write_json(path, value, indent=2, ensure_ascii=False, suffix=f".{os.getpid()}.partial", durable=durable)
