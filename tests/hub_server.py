"""A Hugging Face hub on this machine, which serves models and data sets as the installed libraries ask for them, and can misbehave.

    with HubServer() as hub:
        first = hub.commit("model", "owner/name", folder)      # or {path: bytes}; gives the commit's hash, and moves `main` to it
        monkeypatch.setenv("HF_ENDPOINT", hub.url)             # before huggingface_hub is imported: tests run a process of their own

It knows branches, commits, file lists, HEAD and GET of files with ETags and ranges, files kept by LFS behind a redirect, tokens, gated and
absent repositories, and what to do wrong: `cut` ends the next answers in mid-file, `busy` refuses the next requests. There is no xet.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

# What the hub keeps by LFS.
_LFS = (".safetensors", ".parquet", ".bin", ".arrow")
_API = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(revision|tree|paths-info|auth-check)(?:/([^/]+))?(?:/(.*))?)?$")
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")


@dataclass
class Repository:
    """What the hub has under one id.

    Attributes:
        commits: the files of each commit, by hash.
        refs: the commit of each branch and tag.
        gated: whether only `readers` may read its files; everybody else sees that it is there.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    readers: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Request:
    """What was asked: `has_token` whether it came with one, `range` the part of a file."""

    method: str
    path: str
    has_token: bool
    range: str | None


class HubServer:
    """Threads, standard library only. `requests` is what was asked, in order."""

    def __init__(self, port: int = 0) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.files: dict[str, bytes] = {}  # plain files under /plain/, for URLs that are no repository's
        self.requests: list[Request] = []
        self.accounts: dict[str, str] = {}  # token → account
        self.busy = 0
        self._closed = self.is_slow = False
        self._slow: str | None = None
        self._going_on = threading.Event()
        self._cuts: dict[str, list[int]] = {}
        self._lock = threading.Lock()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self)

            def do_HEAD(self) -> None:
                hub._answer(self)

            def do_POST(self) -> None:
                hub._answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that went away is part of the tests

        self._http = Server(("127.0.0.1", port), Handler)
        self.port = self._http.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Be gone: whoever asks then is refused the connection, and one that is open ends."""
        self._closed = True
        self._http.shutdown()
        self._http.server_close()

    def commit(self, kind: str, name: str, files: Path | Mapping[str, bytes], *, branch: str = "main") -> str:
        """A new commit with these files and no others, which the branch then names."""
        if isinstance(files, Path):
            files = {file.relative_to(files).as_posix(): file.read_bytes() for file in files.rglob("*") if file.is_file()}
        repository = self.repositories.setdefault((kind, name), Repository())
        content = hashlib.sha1(f"{kind} {name} {len(repository.commits)}".encode())
        for path in sorted(files):
            content.update(path.encode() + files[path])
        repository.commits[content.hexdigest()] = dict(files)
        repository.refs[branch] = content.hexdigest()
        return content.hexdigest()

    def gate(self, kind: str, name: str, *readers: str) -> None:
        """Let only these accounts read the files."""
        self.repositories[kind, name].gated = True
        self.repositories[kind, name].readers = set(readers)

    def cut(self, path: str, *after: int) -> None:
        """End the next answers with this file after so many of its bytes, one after another."""
        self._cuts[path] = list(after)

    def slow_down(self, path: str) -> None:
        """Let the next answers with this file stop in their middle, until `go_on`; `is_slow` says that one has come so far."""
        self._slow, self._going_on = path, threading.Event()

    def go_on(self) -> None:
        self._slow = None
        self._going_on.set()

    def asked(self, pattern: str = "") -> list[str]:
        """The requests whose `METHOD path` holds the pattern."""
        found = [f"{one.method} {one.path}" for one in self.requests]
        return [one for one in found if re.search(pattern, one)]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        if self._closed:
            handler.close_connection = True
            handler.connection.shutdown(2)
            return None
        address = urlsplit(handler.path)
        path, query = unquote(address.path), parse_qs(address.query)
        size = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(size) if size else b""
        token = (handler.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        with self._lock:
            self.requests.append(Request(handler.command, path, token is not None, handler.headers.get("Range")))
            if self.busy:
                self.busy -= 1
                return _send(handler, 503, b"")
        if path.startswith("/plain/") and path.removeprefix("/plain/") in self.files:
            return self._file(handler, path, self.files[path.removeprefix("/plain/")], {})
        if match := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            found = next((content for content in self._contents() if _sha256(content) == match[1]), None)
            return _send(handler, 404, b"") if found is None else self._file(handler, path, found, {})
        if match := _API.fullmatch(path):
            return self._api(handler, match, query, body, token)
        if match := _FILE.fullmatch(path):
            return self._resolve(handler, "dataset" if match[1] else "model", match[2], match[3], match[4], token)
        return _send(handler, 404, b"")

    def _contents(self) -> Iterator[bytes]:
        for repository in self.repositories.values():
            for files in repository.commits.values():
                yield from files.values()

    def _at(self, handler: BaseHTTPRequestHandler, kind: str, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and its files; None where the answer was that there are none."""
        repository = self.repositories.get((kind, name))
        if repository is None:
            # The hub doesn't tell a stranger whether a repository is private or absent.
            _send(handler, 401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return None
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            _send(handler, 404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"})
            return None
        return commit, repository.commits[commit]

    def _may_read(self, handler: BaseHTTPRequestHandler, kind: str, name: str, token: str | None) -> bool:
        repository, account = self.repositories[kind, name], self.accounts.get(token or "")
        if not repository.gated or account in repository.readers:
            return True
        status = 401 if account is None else 403
        _send(handler, status, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to {kind} {name} is restricted"})
        return False

    def _api(
        self,
        handler: BaseHTTPRequestHandler,
        match: re.Match[str],
        query: Mapping[str, list[str]],
        body: bytes,
        token: str | None,
    ) -> None:
        kind, name, what, revision, inside = match.groups()
        found = self._at(handler, kind, name, revision or "main")
        if found is None or (what == "auth-check" and not self._may_read(handler, kind, name, token)):
            return None
        commit, files = found
        if what == "auth-check":
            return _json(handler, {})
        if what == "tree":
            return _json(
                handler, _tree(files, inside or "", recursive=query.get("recursive") == ["true"] or "True" in str(query))
            )
        if what == "paths-info":
            asked = json.loads(body) if body.startswith(b"{") else parse_qs(body.decode())
            return _json(handler, [entry for entry in _tree(files, "", recursive=True) if entry["path"] in asked["paths"]])
        with_sizes = "blobs" in query
        siblings = [
            {"rfilename": path, **({"size": len(content), "blobId": _blob(content)} if with_sizes else {})}
            for path, content in sorted(files.items())
        ]
        gated = "manual" if self.repositories[kind, name].gated else False
        about = {"_id": commit[:24], "id": name, "sha": commit, "private": False, "gated": gated, "disabled": False, "tags": []}
        return _json(handler, {**about, "downloads": 0, "likes": 0, "siblings": siblings})

    def _resolve(
        self, handler: BaseHTTPRequestHandler, kind: str, name: str, revision: str, path: str, token: str | None
    ) -> None:
        found = self._at(handler, kind, name, revision)
        if found is None or not self._may_read(handler, kind, name, token):
            return None
        commit, files = found
        headers = {"X-Repo-Commit": commit}
        if path not in files:
            return _send(handler, 404, b"", {**headers, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        content = files[path]
        if not path.endswith(_LFS):
            return self._file(handler, path, content, {**headers, "ETag": f'"{_blob(content)}"'})
        linked = {"X-Linked-Etag": f'"{_sha256(content)}"', "X-Linked-Size": str(len(content))}
        # As large files come from another host, which is to get no token.
        return _send(
            handler, 302, b"", {**headers, **linked, "Location": f"http://localhost:{self.port}/lfs/{_sha256(content)}"}
        )

    def _file(self, handler: BaseHTTPRequestHandler, path: str, content: bytes, headers: Mapping[str, str]) -> None:
        headers = {"ETag": f'"{_sha256(content)}"', "Accept-Ranges": "bytes", **headers}
        first, status, total = 0, 200, len(content)
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range") or ""):
            first, last = int(match[1]), int(match[2] or total - 1)
            if first >= total:
                return _send(handler, 416, b"", {"Content-Range": f"bytes */{total}"})
            content, status = content[first : last + 1], 206
            headers["Content-Range"] = f"bytes {first}-{min(last, total - 1)}/{total}"
        with self._lock:
            names = [one for one in self._cuts if self._cuts[one] and (path.endswith(one) or self._is_lfs(one, path))]
            after = self._cuts[names[0]].pop(0) if names and handler.command == "GET" else None
        slow = self._slow
        if slow is not None and handler.command == "GET" and (path.endswith(slow) or self._is_lfs(slow, path)):
            _send(handler, status, content[: len(content) // 2], {**headers, "Content-Length": str(len(content))})
            self.is_slow = True
            self._going_on.wait(300)
            handler.wfile.write(content[len(content) // 2 :])
            return None
        return _send(handler, status, content, headers, cut=None if after is None else max(0, after - first))

    def _is_lfs(self, name: str, path: str) -> bool:
        """Whether the path of an LFS object is that of a file of this name."""
        every = (files for repository in self.repositories.values() for files in repository.commits.values())
        return any(path == f"/lfs/{_sha256(files[name])}" for files in every if name in files)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _blob(content: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _tree(files: Mapping[str, bytes], inside: str, *, recursive: bool) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    top = f"{inside}/" if inside else ""
    for path, content in sorted(files.items()):
        if not path.startswith(top):
            continue
        *folders, _ = path.removeprefix(top).split("/")
        for number in range(1, len(folders) + 1):
            name = top + "/".join(folders[:number])
            if recursive or number == 1:
                found[name] = {"type": "directory", "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0, "path": name}
        if recursive or not folders:
            lfs = {"oid": _sha256(content), "size": len(content), "pointerSize": 130} if path.endswith(_LFS) else None
            entry = {"type": "file", "oid": _blob(content), "size": len(content), "path": path}
            found[path] = entry if lfs is None else {**entry, "lfs": lfs}
    return list(found.values())


def _json(handler: BaseHTTPRequestHandler, value: object) -> None:
    _send(handler, 200, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _send(
    handler: BaseHTTPRequestHandler,
    status: int,
    content: bytes,
    headers: Mapping[str, str] | None = None,
    cut: int | None = None,
) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command == "HEAD":
        return
    handler.wfile.write(content if cut is None else content[:cut])
    if cut is not None and cut < len(content):
        handler.wfile.flush()
        handler.close_connection = True
        handler.connection.shutdown(2)
