"""A store that several machines share: the artifacts' folders under an fsspec URL, such as `s3://bucket/path`.

    <url>/<stage>/<key>.<fingerprint>/…    the artifact; its manifest.json is put last
    <url>/<stage>/<key>.json               pointer to it; the first machine that puts one wins

An object is there whole or not at all, as object stores give it; so what has a manifest is complete.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


class RemoteError(OSError):
    """The shared store can't be used, or holds something else than its manifests say."""


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
        self.url, self._root = url, root.rstrip("/")
        self._pointers: dict[str, str | None] = {}

    def fingerprint(self, stage: str, key: str) -> str | None:
        """The fingerprint that the key's pointer names, asked once per process; None where there is no pointer."""
        name = f"{stage}/{key}.json"
        if name not in self._pointers:
            pointer = self._read(name)
            self._pointers[name] = None if pointer is None else str(pointer["fingerprint"])
        return self._pointers[name]

    def manifest(self, folder: str) -> dict[str, Any] | None:
        """The manifest of `<stage>/<key>.<fingerprint>`, or None."""
        return self._read(f"{folder}/{MANIFEST}")

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
            if not (path.exists() and _sha256(path) == entry["sha256"]):
                with self._reaching():
                    self._files.get_file(f"{self._root}/{folder}/{name}", str(path))
            if _sha256(path) != entry["sha256"]:
                path.unlink()
                raise RemoteError(
                    f"{self.url}/{folder}/{name} must have sha256 {entry['sha256']}, got another; delete that folder there"
                )
        (to / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")

    def upload(self, stage: str, key: str, fingerprint: str, artifact: Path, *, replace: bool) -> str:
        """Put an artifact, unless another machine was first with this key.

        Returns:
            The fingerprint that the key's pointer names now: the other machine's, where it was first. `replace` swaps the pointer.
        """
        known = self.fingerprint(stage, key)
        if known == fingerprint or (known is not None and not replace):
            return known
        folder = f"{stage}/{key}.{fingerprint}"
        if self.manifest(folder) is None:
            manifest = json.loads((artifact / MANIFEST).read_text())
            for name in (*manifest["files"], MANIFEST):
                target = f"{self._root}/{folder}/{name}"
                with self._reaching():
                    self._files.put_file(str(artifact / name), target)
        pointer = json.dumps({"fingerprint": fingerprint}).encode()
        del self._pointers[f"{stage}/{key}.json"]
        # Somebody may have been faster: then the pointer isn't ours, and what it names counts.
        with contextlib.suppress(FileExistsError), self._reaching():
            self._files.pipe_file(f"{self._root}/{stage}/{key}.json", pointer, mode="overwrite" if replace else "create")
        winner = self.fingerprint(stage, key)
        assert winner is not None
        return winner

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

    def _read(self, name: str) -> dict[str, Any] | None:
        with self._reaching():
            try:
                content = self._files.cat_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return None
        try:
            value: dict[str, Any] = json.loads(content)
        except json.JSONDecodeError as error:
            raise RemoteError(f"{self.url}/{name} must be JSON, got {error}; delete it there") from error
        return value


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
