"""Which files a source's path names, and how they are opened: a local file or folder, or an fsspec URL."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".arrow")
# Splits that a folder's files may be named after.
_SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
# What the datasets library writes beside data, in JSON.
_NO_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")

_logger = logging.getLogger(__name__)


def list_files(path: str, split: str | None = None) -> list[tuple[str, int]]:
    """(path, bytes) of a file, or of a folder's data files by name; hidden ones and the datasets library's own notes are
    left out, and of others that are not read the log has the names.

    Raises:
        FileNotFoundError: where there is nothing.
        ValueError: where the format is unknown, a folder holds no data, or files of several splits and none was asked for.
    """
    if "://" in path:
        import fsspec

        system, inside = fsspec.core.url_to_fs(path)
        if not system.exists(inside):
            raise FileNotFoundError(f"data.path must exist, got nothing at {path}; correct the path")
        protocol = path.partition("://")[0]
        found = [
            f"{protocol}://{name.lstrip('/') if protocol not in ('file', 'local') else name}" for name in system.find(inside)
        ]
        if not system.isdir(inside):
            found = [path]
        sizes = [int(system.size(name) or 0) for name in (system.find(inside) if system.isdir(inside) else [inside])]
        return _chosen(path, list(zip(found, sizes, strict=True)), split, is_folder=bool(system.isdir(inside)))
    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(f"data.path must be a file or folder, got {path}; correct the path")
    names = sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]
    return _chosen(path, [(str(name), name.stat().st_size) for name in names], split, is_folder=place.is_dir())


def _chosen(path: str, files: Sequence[tuple[str, int]], split: str | None, *, is_folder: bool) -> list[tuple[str, int]]:
    if not is_folder:
        if not is_known(path):
            raise ValueError(f"data.path must end in one of {', '.join(FORMATS)} (.gz too), got {path}; convert or rename it")
        return list(files)
    seen = [(name, size) for name, size in sorted(files) if not any(part[:1] == "." for part in _inner(path, name).split("/"))]
    known = [(name, size) for name, size in seen if is_known(name) and Path(name).name not in _NO_DATA]
    skipped = [_inner(path, name) for name, _ in seen if not is_known(name) and not _is_about(name)]
    if skipped:
        more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        _logger.warning(
            "%s holds files in none of %s, which are not read: %s%s", path, ", ".join(FORMATS), ", ".join(skipped[:5]), more
        )
    splits = {found for name, _ in known if (found := _split_of(_inner(path, name)))}
    if split is not None:
        known = [(name, size) for name, size in known if _split_of(_inner(path, name), (split,)) == split]
    elif len(splits) > 1:
        raise ValueError(
            f"data.split must be set, got none for {path}, which holds {', '.join(sorted(splits))}; set data.split=train"
        )
    if not known:
        wanted = f" of the split {split}" if split else ""
        raise ValueError(
            f"data.path must hold files{wanted} in one of {', '.join(FORMATS)}, got {path} without; correct the path"
        )
    return known


def _inner(folder: str, name: str) -> str:
    return name.removeprefix(folder).lstrip("/")


def _split_of(name: str, splits: Sequence[str] = _SPLITS) -> str | None:
    """The split that a file or its folder is named after: `train-00000-of-00002.parquet`, `test/a.jsonl`."""
    for part in name.split("/"):
        for split in splits:
            if part.startswith(split) and not part[len(split) : len(split) + 1].isalnum():
                return split
    return None


def is_known(path: str) -> bool:
    return ending_of(path) in FORMATS


def is_gzip(path: str) -> bool:
    return path.lower().endswith(".gz")


def ending_of(path: str) -> str:
    """The ending that says the format, in lower case and without `.gz`."""
    return Path(path.lower().removesuffix(".gz")).suffix


def _is_about(path: str) -> bool:
    """Whether the file is one of those that lie beside data and hold none."""
    name = Path(path).name.upper()
    return name.endswith(".MD") or name.startswith(("README", "LICENSE"))


def open_file(path: str) -> BinaryIO:
    if "://" not in path:
        return Path(path).open("rb")
    import fsspec

    file: BinaryIO = fsspec.open(path, "rb").open()
    return file
