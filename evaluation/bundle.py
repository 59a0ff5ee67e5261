"""A bundle: what recipes read of hubs and URLs, in one folder, for machines without a network.

`bnf fetch` makes it, and `BNF_OFFLINE` names it. Its `bundle.json` says of each model, data set and URL which commit it is of, and every
file's size and sha256. Whoever reads a part checks its files against them first.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Literal

from bnf.files import replacing
from bnf.paths import person_path
from bnf.urls import without_keys

VARIABLE = "BNF_OFFLINE"
MANIFEST = "bundle.json"
_FORMAT = 1

PartKind = Literal["model", "dataset", "url"]


class NotInBundle(FileNotFoundError):
    """The bundle lacks what is asked for, or a file of it isn't as it was fetched."""


@dataclass(frozen=True)
class Part:
    """One model, data set or URL of a bundle.

    Attributes:
        name: the hub id, or the URL without what may be a key.
        commit: the hub's commit; of a URL the version that its server said.
        revisions: the branches and tags that were at this commit when they were fetched last.
        variant: of a data set which configuration of it.
        place: where it lies in the bundle: a folder, or of a URL one file.
        files: size and sha256 of each file, by its path below `place`; of one file by the empty path.
    """

    kind: PartKind
    name: str
    commit: str
    revisions: list[str]
    variant: str
    place: str
    files: dict[str, tuple[int, str]]

    @property
    def num_bytes(self) -> int:
        return sum(size for size, _ in self.files.values())

    def path(self, folder: Path, file: str) -> Path:
        """Where a file of the part lies in the bundle's folder."""
        return folder / self.place / file if file else folder / self.place


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder and its parts, by key."""

    folder: Path
    parts: Mapping[str, Part]

    def commit(self, kind: PartKind, name: str, revision: str | None) -> str | None:
        """The commit that a branch, tag or commit stands for in the bundle; None where it has none."""
        asked = revision or "main"
        of_name = [part for part in self.parts.values() if (part.kind, part.name) == (kind, name)]
        return next((part.commit for part in of_name if asked == part.commit or asked in part.revisions), None)

    def find(self, kind: PartKind, name: str, revision: str | None, variant: str = "") -> Path:
        """Where a part lies, after its files were checked.

        Raises:
            NotInBundle: with what to do.
        """
        commit = self.commit(kind, name, revision)
        part = None if commit is None else self.parts.get(part_key(kind, name, commit, variant))
        if part is None:
            raise NotInBundle(self.lacks(kind, name, revision, variant))
        if wrong := damage(part, self.folder):
            raise NotInBundle(f"{VARIABLE} must name a whole bundle, got {self.folder} with {wrong}; {_remedy(self.folder)}")
        return self.folder / part.place

    def lacks(self, kind: PartKind, name: str, revision: str | None, variant: str = "") -> str:
        """What is said of a part that isn't there."""
        what = {"model": "the model", "dataset": "the data set", "url": "the content of"}[kind]
        of = f" at {revision}" if revision else ""
        of += f" in the configuration {variant}" if variant and self.commit(kind, name, revision) else ""
        return f"the bundle {self.folder} has not {what} {name}{of}; {_remedy(self.folder)}"


def _remedy(folder: Path) -> str:
    return f"run `bnf fetch RECIPE --to {folder}` on a machine with a network, and bring the folder here"


def part_key(kind: PartKind, name: str, commit: str, variant: str = "") -> str:
    """The key of a part in `bundle.json`."""
    return f"{kind} {name}@{commit}" + (f" {variant}" if variant else "")


def set_variant(config: str | None, more: Mapping[str, object] | None = None) -> str:
    """The variant of a data set's part: its configuration, and what else load_dataset was told."""
    told = {name: value for name, value in (more or {}).items() if value is not None}
    return f"{config or 'default'}" + (f" {json.dumps(told, sort_keys=True)}" if told else "")


def opened() -> Bundle | None:
    """The bundle that `BNF_OFFLINE` names; None where it names none, and then hubs are asked.

    Raises:
        FileNotFoundError, ValueError: it names no bundle.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    folder = person_path(named).resolve()
    file = folder / MANIFEST
    if not file.is_file():
        raise NotInBundle(
            f"{VARIABLE} must name a bundle, got {folder}, which holds no {MANIFEST}; make one with `bnf fetch RECIPE --to {folder}` on "
            "a machine with a network"
        )
    return _read(folder, file.stat().st_mtime_ns)


def in_bundle(path: str) -> str:
    """The place in the bundle of a URL's content; any other path, and every path without a bundle, as it is.

    Raises:
        NotInBundle: there is a bundle, and it lacks the URL.
    """
    if "://" not in path or path.startswith(("file://", "local://")) or (bundle := opened()) is None:
        return path
    return str(bundle.find("url", url_name(path), None))


def url_name(url: str) -> str:
    """What a URL is called in a bundle: without what may be a key. A hash tells those apart that differ in that alone."""
    shown = without_keys(url)
    return shown if shown == url else f"{shown}?{sha256(url.encode()).hexdigest()[:12]}"


def read_bundle(folder: Path) -> Bundle:
    """The bundle in a folder; an empty one where there is none yet."""
    file = folder / MANIFEST
    return _read(folder, file.stat().st_mtime_ns) if file.is_file() else Bundle(folder, {})


def write_bundle(bundle: Bundle) -> None:
    """Write `bundle.json`, whole or not at all."""
    parts = {key: asdict(part) for key, part in sorted(bundle.parts.items())}
    with replacing(bundle.folder / MANIFEST, durable=True) as partial:
        partial.write_text(json.dumps({"format": _FORMAT, "parts": parts}, indent=1) + "\n", encoding="utf-8")


@functools.lru_cache(maxsize=4)
def _read(folder: Path, changed_ns: int) -> Bundle:
    file = folder / MANIFEST
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["format"] != _FORMAT:
            raise ValueError(f"format {found['format']}, and this version reads {_FORMAT}")
        parts = {}
        for key, given in found["parts"].items():
            files = {path: (int(size), str(digest)) for path, (size, digest) in given["files"].items()}
            if any(Path(name).is_absolute() or ".." in Path(name).parts for name in (given["place"], *files)):
                raise ValueError(f"{key} leads out of its folder")
            parts[key] = Part(**{**given, "files": files})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} must be a bundle's, got {type(error).__name__}: {error}; {_remedy(folder)}") from error
    return Bundle(folder, parts)


def damage(part: Part, folder: Path, *, by_size: bool = False) -> str | None:
    """What is wrong with a part's files; None where nothing is. `by_size` reads none of them.

    A file that wasn't fetched would be read with the others, and a link may lead to any file of the machine.
    """
    top = folder / part.place
    there = [] if "" in part.files else [path for path in top.rglob("*") if path.is_symlink() or not path.is_dir()]
    for path in (top, *there):
        if not path.resolve().is_relative_to(folder.resolve()):
            return f"{path.relative_to(folder)}, which leads out of it"
    if more := [path for path in there if path.relative_to(top).as_posix() not in part.files]:
        return f"{more[0].relative_to(folder)}, which was not fetched"
    for name, (size, digest) in part.files.items():
        path = part.path(folder, name)
        if not path.is_file():
            return f"no {path.relative_to(folder)}"
        if path.stat().st_size != size:
            return f"{path.relative_to(folder)} of {path.stat().st_size} bytes instead of {size}"
        if not by_size and _sha256(path, path.stat().st_mtime_ns) != digest:
            return f"{path.relative_to(folder)}, which has changed since it was fetched"
    return None


@functools.lru_cache(maxsize=4096)
def _sha256(path: Path, changed_ns: int) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
