"""A store that several machines share: the artifacts' folders under an fsspec URL, such as `s3://bucket/path`.

    <url>/<stage>/<key>.<fingerprint>/…    the artifact; its manifest.json is put last
    <url>/<stage>/<key>.json               pointer to it; the first machine that puts one wins

An object is there whole or not at all, as object stores give it; so what has a manifest is complete.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from bnf.urls import without_secrets
from evaluation.records import write_json
from tasks.manifest import MANIFEST, Manifest, file_sha256, is_digest, is_manifest, read_manifest


class RemoteError(OSError):
    """The shared store can't be used, or holds something else than its manifests say. The message is without the secrets of its URLs."""

    def __init__(self, message: str) -> None:
        super().__init__(without_secrets(message))


class Remote:
    """The shared store at an fsspec URL.

    Raises:
        RemoteError: the URL's protocol is unknown, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            # A folder's subfolders are made as they are needed; a bucket with a mistyped name is not.
            folder = fsspec.utils.get_protocol(url) == "file"
            self._files, root = fsspec.core.url_to_fs(url, **{"auto_mkdir": True} if folder else {"use_listings_cache": False})
        except (ValueError, ImportError) as error:
            raise RemoteError(
                f"BNF_STORE must be a folder or an fsspec URL, got {url!r} ({error}); write s3://bucket/path"
            ) from error
        # As messages name it.
        self.url, self._root = without_secrets(url), root.rstrip("/")
        self._pointers: dict[str, str | None] = {}
        self._damage: dict[str, str | None] = {}

    def fingerprint(self, stage: str, key: str) -> str | None:
        """The fingerprint that the key's pointer names, asked once per process; None where there is no readable pointer."""
        name = f"{stage}/{key}.json"
        if name not in self._pointers:
            pointer = self._read(name)
            fingerprint = pointer.get("fingerprint") if isinstance(pointer, dict) else None
            self._pointers[name] = fingerprint if is_digest(fingerprint) else None
        return self._pointers[name]

    def manifest(self, folder: str) -> Manifest | None:
        """The manifest of `<stage>/<key>.<fingerprint>`, or None where there is no readable one."""
        found = self._read(f"{folder}/{MANIFEST}")
        if not is_manifest(found):
            return None
        # Files are written here under these names: none may lead out of the artifact's folder.
        paths = [PurePosixPath(name) for name in found["files"]]
        return None if any(path.is_absolute() or ".." in path.parts for path in paths) else found

    def damage(self, folder: str) -> str | None:
        """What is wrong with `<stage>/<key>.<fingerprint>` by its manifest's list of files and sizes, asked once per process; None
        where nothing is. Contents are compared when they are fetched."""
        if folder not in self._damage:
            self._damage[folder] = self._find_damage(folder)
        return self._damage[folder]

    def _find_damage(self, folder: str) -> str | None:
        manifest = self.manifest(folder)
        if manifest is None:
            return f"{self.url}/{folder} has no {MANIFEST} that can be read"
        with self._reaching():
            there = self._files.find(f"{self._root}/{folder}", detail=True)
        sizes = {name.removeprefix(f"{self._root}/{folder}/"): entry["size"] for name, entry in there.items()}
        for name, entry in manifest["files"].items():
            if name not in sizes:
                return f"{self.url}/{folder}/{name} is missing"
            if sizes[name] != entry["size"]:
                return f"{self.url}/{folder}/{name} has {sizes[name]} bytes, its manifest says {entry['size']}"
        return None

    def download(self, folder: str, to: Path, leave_out: Sequence[str] = ()) -> None:
        """Fetch an artifact's files and then its manifest, checking every sha256; files already there are not fetched again.

        Raises:
            RemoteError: the artifact is gone, or a file isn't what the manifest says.
        """
        manifest = self.manifest(folder)
        if manifest is None:
            raise RemoteError(f"{self.url}/{folder} must be a complete artifact, got no {MANIFEST}; run the stage again")
        for name, entry in manifest["files"].items():
            if any(fnmatch.fnmatch(Path(name).name, pattern) for pattern in leave_out):
                continue
            path = to / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not (path.exists() and file_sha256(path) == entry["sha256"]):
                with self._reaching():
                    self._files.get_file(f"{self._root}/{folder}/{name}", str(path))
            if file_sha256(path) != entry["sha256"]:
                path.unlink()
                raise RemoteError(
                    f"{self.url}/{folder}/{name} must have sha256 {entry['sha256']}, got another; run again with --refresh "
                    f"{folder.split('/')[0]}, which makes it anew and replaces it there"
                )
        write_json(to / MANIFEST, manifest, indent=2, ensure_ascii=False)

    def upload(self, stage: str, key: str, fingerprint: str, artifact: Path, *, replace: bool) -> str:
        """Put an artifact, unless another machine was first with this key and what it put is whole.

        Returns:
            The fingerprint that the key's pointer names now: the other machine's, where it was first. With `replace` the files and the
            pointer are put whatever is there.
        """
        known = self.fingerprint(stage, key)
        if known is not None and not replace and self.damage(f"{stage}/{key}.{known}") is None:
            return known
        folder, name = f"{stage}/{key}.{fingerprint}", f"{stage}/{key}.json"
        if replace or self.damage(folder) is not None:
            self._put(folder, artifact)
        pointer = json.dumps({"fingerprint": fingerprint}).encode()
        # A pointer that names nothing whole, or that can't be read, is replaced; a pointer that somebody has put meanwhile is not.
        mode = "overwrite" if replace or (self._exists(name) and known == self._fresh_fingerprint(stage, key)) else "create"
        with contextlib.suppress(FileExistsError), self._reaching():
            self._files.pipe_file(f"{self._root}/{name}", pointer, mode=mode)
        # Somebody may have been faster: then the pointer isn't ours, and what it names counts.
        winner = self._fresh_fingerprint(stage, key)
        assert winner is not None
        return winner

    def put(self, folder: str, artifact: Path) -> None:
        """Put an artifact's files where they aren't there whole. Which artifact counts under its key stays as it is."""
        if self.damage(folder) is not None:
            self._put(folder, artifact)

    def _put(self, folder: str, artifact: Path) -> None:
        """Put an artifact's files, manifest last; one that is there is taken away first, so that what has a manifest is whole."""
        target = f"{self._root}/{folder}"
        manifest = read_manifest(artifact)
        if self._exists(f"{folder}/{MANIFEST}"):
            with self._reaching():
                self._files.rm_file(f"{target}/{MANIFEST}")
        for name in (*manifest["files"], MANIFEST):
            with self._reaching():
                self._files.put_file(str(artifact / name), f"{target}/{name}")
        self._damage.pop(folder, None)

    def _exists(self, name: str) -> bool:
        with self._reaching():
            return bool(self._files.exists(f"{self._root}/{name}"))

    def _fresh_fingerprint(self, stage: str, key: str) -> str | None:
        self._pointers.pop(f"{stage}/{key}.json", None)
        return self.fingerprint(stage, key)

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        """Every protocol has errors of its own; people need to know which store it was and what to look at."""
        try:
            yield
        except FileExistsError:
            raise
        except Exception as error:
            raise RemoteError(
                f"BNF_STORE must be reachable, got {type(error).__name__} from {self.url} ({error}); check its keys and endpoint"
            ) from error

    def _read(self, name: str) -> object:
        """A JSON file of the store; None where there is none that can be read."""
        with self._reaching():
            try:
                content = self._files.cat_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return None
        try:
            value: object = json.loads(content)
        except (ValueError, RecursionError):  # no JSON, or no text
            return None
        return value
