"""Makes a bundle (`evaluation.bundle`): fetches what it lacks, file by file, and writes down each part when all its files are there."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from evaluation.bundle import Bundle, Part, damage, read_bundle, write_bundle
from evaluation.hub_loading import refused
from evaluation.records import Record
from flows.dag.wanted import Wanted
from flows.errors import RecipeError
from tasks.keys import digest
from tasks.stages.resolve import FETCHED

# What stays free on the bundle's disk.
MARGIN_BYTES = 1 << 28
_CARD = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.S)
# Beside a data set's files what says how they are read: its card, and two old forms of it.
_CARD_FILES = ("README.md", ".huggingface.yaml", "dataset_infos.json")


@dataclass(frozen=True)
class _Listed:
    """A file to fetch: its size, and what the hub says of its content; None of what nobody says."""

    size: int | None
    sha256: str | None = None
    blob: str | None = None


@dataclass(frozen=True)
class _Listing:
    """What of one part is to be fetched. `card` is what of the data set's card its part keeps."""

    wanted: Wanted
    place: str
    files: Mapping[str, _Listed]
    card: str | None = None

    def missing(self, folder: Path) -> int:
        """Bytes of the files that aren't there yet."""
        paths = {folder / self.place / name if name else folder / self.place: one.size for name, one in self.files.items()}
        return sum(size or 0 for path, size in paths.items() if not path.is_file() or path.stat().st_size != size)

    def num_bytes(self) -> int:
        """Bytes of all files whose size is known."""
        return sum(one.size or 0 for one in self.files.values())


@contextmanager
def bundle_at(folder: Path) -> Iterator[Bundle]:
    """The bundle in a folder, for one process at a time.

    Raises:
        RecipeError: another one is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecipeError(
                f"--to must be a folder in which nobody else fetches, got {folder}; wait until that ends"
            ) from None
        yield read_bundle(folder)


def complete(bundle: Bundle, asked: Sequence[Wanted], say: Callable[[str], None]) -> tuple[Bundle, list[Wanted]]:
    """The bundle with everything that is asked for, and what had to be fetched.

    Parts that are there are not fetched again; those whose files have changed are. A part is written down when it is whole: after a kill
    the next call goes on with the files that are missing.

    Raises:
        RecipeError: the disk has not the room, or a hub or server refuses.
    """
    have = [one for one in asked if _is_whole(bundle, one)]
    lacking = [one for one in asked if one not in have]
    for one in have:
        bundle = _named(bundle, one, bundle.parts[one.part_key])
    listings = [_list(one) for one in lacking]
    _require_room(bundle.folder, sum(one.missing(bundle.folder) for one in listings))
    for listing in listings:
        say(f"fetching {listing.wanted.kind} {listing.wanted.part_name} ({listing.num_bytes():,} bytes)")
        bundle = _named(bundle, listing.wanted, _fetch(listing, bundle.folder))
        write_bundle(bundle)
    if have or not lacking:
        write_bundle(bundle)
    return bundle, lacking


def _is_whole(bundle: Bundle, one: Wanted) -> bool:
    part = bundle.parts.get(one.part_key)
    return part is not None and damage(part, bundle.folder) is None


def _named(bundle: Bundle, one: Wanted, part: Part) -> Bundle:
    """The bundle with this part, to which the revisions lead from now on that are at its commit."""
    revisions = sorted({*part.revisions, *one.revisions()})
    parts = {
        key: replace(other, revisions=[name for name in other.revisions if name not in one.revisions()])
        if (other.kind, other.name) == (part.kind, part.name) and other.commit != part.commit
        else other
        for key, other in bundle.parts.items()
    }
    return Bundle(bundle.folder, {**parts, one.part_key: replace(part, revisions=revisions)})


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed and free < needed + MARGIN_BYTES:
        raise RecipeError(
            f"the disk of {folder} must have {(needed + MARGIN_BYTES) >> 20:,} MiB free for what is to be fetched, got {free >> 20:,} MiB; "
            "free some, or name a folder on another disk"
        )


def _list(one: Wanted) -> _Listing:
    try:
        found = {"url": _list_url, "model": _list_model, "dataset": _list_set}[one.kind](one)
        _require_inside(found)
        return found
    except Exception as error:
        raise _refusal(one, error) from error


def _require_inside(listing: _Listing) -> None:
    """See that no name that a hub or server gives leads out of the part's folder."""
    outside = next((name for name in listing.files if name.startswith("/") or ".." in name.split("/")), None)
    if outside is not None:
        raise ValueError(f"its files must lie below it, got {outside!r}")


def _refusal(one: Wanted, error: Exception) -> Exception:
    what = {"model": "model", "dataset": "data set", "url": "URL"}[one.kind]
    said = refused(error, what, one.name)
    if said is None and not isinstance(error, OSError | ValueError | ImportError):
        return error
    said = said or f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
    return RecipeError(f"{one.key} must be a {what} that can be fetched, got {one.part_name!r}: {said}")


def _list_model(one: Wanted) -> _Listing:
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    tree = _tree(one)
    names = filter_repo_objects(tree, allow_patterns=FETCHED)
    return _Listing(one, f"models/{_folder(one)}", {name: tree[name] for name in names})


def _list_set(one: Wanted) -> _Listing:
    import datasets
    from huggingface_hub import hf_hub_download

    builder = datasets.load_dataset_builder(one.name, one.config, revision=one.commit, **dict(one.more))
    found = builder.config.data_files or {}
    start = f"hf://datasets/{one.name}@{one.commit}/"
    urls = list(dict.fromkeys(str(url) for split in found.values() for url in split))
    elsewhere = next((url for url in urls if not url.startswith(start)), None)
    if elsewhere is not None or not urls:
        raise ValueError(
            f"its files must lie in its own repository, got {elsewhere or 'none'}; give the data as files of your own"
        )
    tree = _tree(one)
    card: Record = {}
    for name in _CARD_FILES[:2]:
        if name in tree:
            file = hf_hub_download(one.name, name, repo_type="dataset", revision=one.commit)
            card |= _card_of(Path(file).read_text(encoding="utf-8"), is_yaml=name.endswith(".yaml"))
    names = [url.removeprefix(start) for url in urls] + [name for name in _CARD_FILES[2:] if name in tree]
    own = re.sub(r"[^A-Za-z0-9._-]+", "-", one.config or "default")
    place = f"datasets/{_folder(one)}/{own}" + (f"-{digest(dict(one.more))[:8]}" if one.more else "")
    return _Listing(one, place, {name: tree[name] for name in names}, _card_text(card, builder.config.name))


def _card_of(text: str, *, is_yaml: bool) -> Record:
    import yaml

    match = None if is_yaml else _CARD.match(text)
    found = yaml.safe_load(text if is_yaml else match[1] if match else "")
    return found if isinstance(found, dict) else {}


def _card_text(card: Record, config: str) -> str:
    """The card with one configuration alone: the others' files are not in the part."""
    import yaml

    kept: Record = {}
    for name in ("configs", "dataset_info"):
        value = card.get(name)
        if isinstance(value, list):
            value = [one for one in value if one.get("config_name", "default") == config]
        if value:
            kept[name] = value
    return f"---\n{yaml.safe_dump(kept, sort_keys=False)}---\n" if kept else ""


def _list_url(one: Wanted) -> _Listing:
    import fsspec

    system, path = fsspec.core.url_to_fs(one.name)
    # Another version lies elsewhere: of the older one files may be left that the newer doesn't have.
    place = f"urls/{hashlib.sha256(f'{one.part_name}@{one.commit}'.encode()).hexdigest()[:16]}"
    if not system.isdir(path):
        # Its name says its format.
        return _Listing(one, f"{place}/{Path(one.part_name.partition('?')[0]).name}", {"": _Listed(system.size(path))})
    top = path.rstrip("/")
    inside = {name.removeprefix(top).lstrip("/"): _Listed(system.size(name)) for name in system.find(path)}
    return _Listing(one, place, inside)


def _folder(one: Wanted) -> str:
    return f"{one.name.replace('/', '--')}/{one.commit}"


def _tree(one: Wanted) -> dict[str, _Listed]:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    listed = HfApi().list_repo_tree(one.name, recursive=True, revision=one.commit, repo_type=one.kind)
    return {
        file.path: _Listed(file.size, file.lfs.sha256 if file.lfs else None, None if file.lfs else file.blob_id)
        for file in listed
        if isinstance(file, RepoFile)
    }


def _fetch(listing: _Listing, folder: Path) -> Part:
    one, place = listing.wanted, folder / listing.place
    try:
        if one.kind == "url":
            _fetch_url(listing, folder)
        else:
            _fetch_repository(listing, place)
    except Exception as error:
        raise _refusal(one, error) from error
    if listing.card:
        (place / "README.md").write_text(listing.card, encoding="utf-8")
    names = [*listing.files, *(["README.md"] if listing.card else [])]
    if "" not in names:
        _drop_others(place, names)
    files = {name: _noted(one, place / name if name else place, listing.files.get(name)) for name in names}
    return Part(one.kind, one.part_name, one.commit, [], one.variant, listing.place, files)


def _drop_others(place: Path, names: Sequence[str]) -> None:
    """Delete what a fetch that was killed, or an older one, left in a part's folder: whoever reads the folder would read it too."""
    for path in place.rglob("*"):
        if (path.is_symlink() or not path.is_dir()) and path.relative_to(place).as_posix() not in names:
            path.unlink()


def _fetch_repository(listing: _Listing, place: Path) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    one = listing.wanted
    for name, listed in listing.files.items():
        file = place / name
        if file.is_file() and not _is_as_listed(file, listed):
            # Cut, or changed since: the library would take it for whole.
            file.unlink()
        if not file.is_file():
            hf_hub_download(one.name, name, repo_type=one.kind, revision=one.commit, local_dir=place)
    # What the library noted of the download, and what a killed one left.
    shutil.rmtree(place / ".cache", ignore_errors=True)


def _fetch_url(listing: _Listing, folder: Path) -> None:
    import fsspec

    system, path = fsspec.core.url_to_fs(listing.wanted.name)
    for name in listing.files:
        file = folder / listing.place / name if name else folder / listing.place
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f"{file.name}.partial")
        with system.open(f"{path.rstrip('/')}/{name}" if name else path, "rb") as source, partial.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
        partial.replace(file)


def _is_as_listed(file: Path, listed: _Listed) -> bool:
    if listed.size is not None and file.stat().st_size != listed.size:
        return False
    if listed.sha256 is not None:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == listed.sha256
    if listed.blob is not None:
        # Git's own hash of a file.
        whole = file.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(whole) + whole).hexdigest() == listed.blob
    return True


def _noted(one: Wanted, file: Path, listed: _Listed | None) -> tuple[int, str]:
    if listed is not None and not _is_as_listed(file, listed):
        raise RecipeError(
            f"{one.key} must come as its server lists it, got another {file.name} of {one.part_name}; run the command again"
        )
    with file.open("rb") as content:
        return file.stat().st_size, hashlib.file_digest(content, "sha256").hexdigest()
