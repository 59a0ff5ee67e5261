"""Finds the files that a source's path names, and opens them: a local file or folder, or an fsspec URL.

Files are of the split that their names or their folders' say, as on the hub
(https://huggingface.co/docs/datasets/repository_structure), and a split is asked for by its whole name: `train_prefs` is no part of
`train`. Where no name says a split, all files are `train`.
"""

from __future__ import annotations

import gzip
import io
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# A file that is open for reading bytes, packed or not; those of fsspec read alike.
ByteFile = io.BufferedReader | gzip.GzipFile

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".arrow")
# The hub's: a split's name has one of these words.
_SPLIT_WORDS = ("train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation")
_SPLIT_WORD = re.compile(rf"(^|[-._ 0-9])({'|'.join(_SPLIT_WORDS)})($|[-._ 0-9])", re.IGNORECASE)
# The number of a part of a split: `-00000-of-00002`, `_1`, `.part-3`.
_NUMBER = re.compile(r"([-._ ]+(of|part|shard)?[-._ ]*\d+)+$", re.IGNORECASE)
# A split that is written in parts may have any name.
_PART = re.compile(r".-\d{5}-of-\d{5,}$")
# JSON files that the datasets library writes beside data.
_NO_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")

_logger = logging.getLogger(__name__)


class DataFile(NamedTuple):
    """A file to read: `name` is its path within the folder that was asked for, or empty where it was asked for itself."""

    path: str
    name: str
    num_bytes: int


def list_files(path: str, split: str | None = None) -> list[DataFile]:
    """The file at the path, or a folder's data files sorted by name. Hidden files and the datasets library's own notes are left out; the
    log names other files that are not read. Links are followed, and a file that several names lead to is read once.

    Raises:
        FileNotFoundError: where there is nothing, or a link leads to nothing.
        ValueError: where the format is unknown, a folder holds no data, or no files of the split, or files of several splits and
            none was asked for.
    """
    if "://" in path:
        import fsspec

        system, inside = fsspec.core.url_to_fs(path)
        if not system.exists(inside):
            raise FileNotFoundError(f"data.path must exist, got nothing at {path}; correct the path")
        if not system.isdir(inside):
            return _single(DataFile(path, "", int(system.size(inside) or 0)), split)
        protocol, top = path.partition("://")[0], inside.rstrip("/")
        found = [
            DataFile(f"{protocol}://{name.lstrip('/')}", name.removeprefix(top).lstrip("/"), int(system.size(name) or 0))
            for name in system.find(inside)
        ]
        return _chosen(path, found, split)
    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(f"data.path must be a file or folder, got {path}; correct the path")
    if not place.is_dir():
        return _single(DataFile(path, "", place.stat().st_size), split)
    files = [
        DataFile(str(file), file.relative_to(place).as_posix(), file.stat().st_size)
        for file in files_inside(place, "data.path")
    ]
    return _once(_chosen(path, files, split))


def as_local(path: str) -> str:
    """The local path of a `file://` URL; anything else as it is."""
    if not path.startswith(("file://", "local://")):
        return path
    import fsspec

    return str(fsspec.core.url_to_fs(path)[1])


def files_inside(folder: Path, called: str) -> list[Path]:
    """A local folder's files, without hidden ones, with those of linked folders; a link back to a folder above it is not followed.

    `called` is what a message calls the folder.

    Raises:
        FileNotFoundError: a link leads to nothing.
    """
    found: list[Path] = []
    _collect(folder, [folder.resolve()], found, called)
    return sorted(found)


def _collect(folder: Path, above: list[Path], found: list[Path], called: str) -> None:
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            place = entry.resolve()
            if place not in above:
                _collect(entry, [*above, place], found, called)
        elif entry.is_file():
            found.append(entry)
        elif entry.is_symlink():
            raise FileNotFoundError(
                f"{called} must be a folder whose links lead to files, got {entry}, which leads to nothing ({entry.readlink()}); "
                "restore what it leads to, or remove the link"
            )


def _once(files: Sequence[DataFile]) -> list[DataFile]:
    """The files, each once, whatever links lead to it."""
    first: dict[Path, DataFile] = {}
    for file in files:
        known = first.setdefault(Path(file.path).resolve(), file)
        if known is not file:
            _logger.warning("%s is %s by another name, and is read once", file.path, known.name)
    return list(first.values())


def _single(file: DataFile, split: str | None) -> list[DataFile]:
    """A file that the path names itself. As on the hub it is one split: the one that its name says, or `train`."""
    if not is_known(file.path):
        raise ValueError(f"data.path must end in one of {', '.join(FORMATS)} (.gz too), got {file.path}; convert or rename it")
    own = _split_of(file.path.rpartition("/")[2]) or "train"
    if split not in (None, own):
        raise ValueError(
            f"data.split must be left out for a single file, got {split} for {file.path}; remove it, or name a folder"
        )
    return [file]


def _chosen(path: str, files: Sequence[DataFile], split: str | None) -> list[DataFile]:
    seen = [
        file for file in sorted(files, key=lambda file: file.name) if not any(part[:1] == "." for part in file.name.split("/"))
    ]
    known = [file for file in seen if is_known(file.path) and Path(file.name).name not in _NO_DATA]
    skipped = [file.name for file in seen if not is_known(file.path) and not _is_about(file.name)]
    if skipped:
        more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        _logger.warning(
            "%s holds files in none of %s, which are not read: %s%s", path, ", ".join(FORMATS), ", ".join(skipped[:5]), more
        )
    if not known:
        raise ValueError(f"data.path must hold files in one of {', '.join(FORMATS)}, got {path} without; correct the path")
    by_split: dict[str | None, list[DataFile]] = {}
    for file in known:
        by_split.setdefault(_split_of(file.name), []).append(file)
    if len(by_split) == 1 and split in (None, "train" if None in by_split else None):
        return known
    if split is not None and split in by_split:
        return by_split[split]
    splits = sorted(filter(None, by_split))
    unnamed = f"files named after no split ({by_split[None][0].name})" if None in by_split else ""
    holds = ", ".join([*splits, f"and {unnamed}"]) if splits and unnamed else ", ".join(splits) or f"only {unnamed}"
    if not splits:
        remedy = "leave data.split out"
    elif "train" in splits or len(splits) == 1:
        remedy = f"set data.split={'train' if 'train' in splits else splits[0]}"
    else:
        remedy = "set data.split to one of them"
    if splits and unnamed:
        remedy += ", or name single files in data.path"
    if split is not None:
        raise ValueError(f"data.path must hold files of the split {split}, got {path}, which holds {holds}; {remedy}")
    raise ValueError(f"data.split must be set, got none for {path}, which holds {holds}; {remedy}")


def _split_of(name: str) -> str | None:
    """The split that a file or its folder is named after, or None: `train` for `data/train-00000-of-00002.parquet`, `test_sft` for
    `test_sft/a.jsonl`."""
    *folders, file = name.split("/")
    stem = file[: -len(ending_of(file) + (".gz" if is_gzip(file) else "")) or None]
    for part in (*folders, stem):
        if _SPLIT_WORD.search(part) or (part is stem and _PART.search(part)):
            return _NUMBER.sub("", part)
    return None


def is_known(path: str) -> bool:
    """Whether the name ends in one of `FORMATS`, `.gz` aside."""
    return ending_of(path) in FORMATS


def is_gzip(path: str) -> bool:
    return path.lower().endswith(".gz")


def ending_of(path: str) -> str:
    """The ending that says the format, in lower case and without `.gz`."""
    return Path(path.lower().removesuffix(".gz")).suffix


def _is_about(path: str) -> bool:
    """Whether the file is about the data and holds none: a README or a license."""
    name = Path(path).name.upper()
    return name.endswith(".MD") or name.startswith(("README", "LICENSE"))


def open_file(path: str) -> io.BufferedReader:
    """A local file or a URL's, opened to read bytes."""
    if "://" not in path:
        return Path(path).open("rb")
    import fsspec

    file: io.BufferedReader = fsspec.open(path, "rb").open()
    return file
