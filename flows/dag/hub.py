"""What a hub has of a model or a data set, asked before anything runs: at which commit it is, and how large its weights are.

Where `BNF_OFFLINE` names a bundle, the bundle is asked and no hub.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from bnf.failures import Cause, cause_of, is_transport
from evaluation.bundle import Bundle, NotInBundle, PartKind, damage, opened, url_name
from evaluation.hub_loading import cached_folders, is_commit, refused
from flows.dag.checks import Check
from tasks.stages.resolve import FETCHED

TIMEOUT_S = 10.0

HubKind = Literal["model", "dataset"]


@dataclass(frozen=True)
class Found:
    """What the hub or the cache has of a model or data set.

    Attributes:
        wrong: why it can't be had; None where it can.
        seen: what there is, in words.
        folder: where it lies in the cache or the bundle, where it came from there.
        files: the names and sizes that the hub gives; None where it wasn't reached.
        commit: the hub's commit that the revision stands for; None where nobody knows it.
        is_reached: whether the hub said so, and not the cache.
    """

    wrong: str | None
    seen: str = ""
    folder: Path | None = None
    files: dict[str, int] | None = None
    commit: str | None = None
    is_reached: bool = True

    @property
    def weights_bytes(self) -> int | None:
        """The size of the safetensors files; None where it isn't known."""
        if self.folder is not None:
            return weights_bytes(self.folder)
        if self.files is None:
            return None
        return sum(size for name, size in self.files.items() if fnmatch(name, "*.safetensors"))


def set_check(key: str, name: str, revision: str | None, remedy: str) -> Check:
    """A data set that has to be fetched must be on the hub, in this machine's cache of it, or in the bundle."""
    found = asked_for("dataset", name, revision)
    problem = f"{key} must be a data set that the hub gives, got {name!r}: {found.wrong}; {remedy}" if found.wrong else None
    return Check(f"data set {name}", problem, found.seen, is_stale=problem is None and not found.is_reached)


def weights_bytes(folder: Path) -> int:
    """The size of a model folder's safetensors files."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


# The commit of each branch that was asked for, by kind and id.
_pins: dict[tuple[HubKind, str], dict[str | None, str]] = {}


def pinned(kind: HubKind, name: str, revision: str | None) -> str | None:
    """The commit that a revision of the hub stands for now, which keys hold; the revision itself where nobody knows it."""
    if is_commit(revision):
        return revision
    commit = ask(kind, name, revision).commit
    if commit is None:
        return revision
    _pins.setdefault((kind, name), {})[revision] = commit
    return commit


def pins(kind: HubKind, name: str) -> Mapping[str | None, str]:
    """The commit of each revision of a model or data set that this process has asked for."""
    return _pins.get((kind, name), {})


def asked_for(kind: HubKind, name: str, revision: str | None) -> Found:
    """What `ask` found for the revision that a node's commit came from: the hub is not asked again."""
    of = {commit: asked for asked, commit in pins(kind, name).items()}
    return ask(kind, name, of.get(revision or "", revision))


@functools.cache
def ask(kind: HubKind, name: str, revision: str | None) -> Found:
    """Ask the hub for a model or a data set, and where it can't be reached, this machine's cache of it. Asked once per process."""
    try:
        if (bundle := opened()) is not None:
            return _in_bundle(bundle, kind, name, revision)
    except (ValueError, NotInBundle) as error:
        return Found(str(error), is_reached=False)
    # Must be set before the library is imported, as it is for the stages' processes.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import DatasetInfo, HfApi, ModelInfo
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        if kind == "model":
            info: ModelInfo | DatasetInfo = api.model_info(name, revision=revision, timeout=TIMEOUT_S, files_metadata=True)
        else:
            info = api.dataset_info(name, revision=revision, timeout=TIMEOUT_S)
        if getattr(info, "gated", False):
            # What is there anybody may see; who may read it is another question.
            api.auth_check(name, repo_type=kind)
    except HfHubHTTPError as error:
        commit = _known_commit(kind, name, revision)
        if cause_of(error) is Cause.PASSING:
            # Without a commit the run's keys hold none: that is shown.
            said = "the hub is busy; it is asked again when the stage runs"
            return Found(None, said, commit=commit, is_reached=commit is not None)
        wrong = f"the hub doesn't give it ({_short(error)})"
        if type(error) is not HfHubHTTPError and (why := refused(error, "model" if kind == "model" else "data set", name)):
            wrong = why
    except Exception as error:  # whatever its transport raises: it is said, and the cache decides
        commit = _known_commit(kind, name, revision)
        wrong = f"the hub wasn't reached ({_short(error)})"
    else:
        commit = getattr(info, "sha", None)
        if commit is not None:
            _remember(kind, name, revision)
        files = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        return Found(None, "on the hub", files=files, commit=commit)
    cached = _cached_model(name, commit or revision) if kind == "model" else _cached_set(name, commit)
    if cached is None:
        return Found(f"{wrong}, and this machine's cache has none", commit=commit, is_reached=False)
    at = f" at commit {commit[:12]}" if commit else ""
    return Found(None, f"{wrong}; in this machine's cache{at}", folder=cached, commit=commit, is_reached=False)


def url_in_bundle(url: str) -> Found | None:
    """What the bundle has of a URL; None where there is no bundle."""
    bundle = opened()
    return None if bundle is None else _in_bundle(bundle, "url", url_name(url), None)


def _in_bundle(bundle: Bundle, kind: PartKind, name: str, revision: str | None) -> Found:
    commit = bundle.commit(kind, name, revision)
    if commit is None:
        return Found(bundle.lacks(kind, name, revision), is_reached=False)
    parts = [part for part in bundle.parts.values() if (part.kind, part.name, part.commit) == (kind, name, commit)]
    wrong = next((found for part in parts if (found := damage(part, bundle.folder, by_size=True))), None)
    if wrong is not None:
        return Found(f"the bundle {bundle.folder} has {wrong}; fetch it again")
    which = "version" if kind == "url" else "commit"
    return Found(None, f"in the bundle, at {which} {commit[:12]}", folder=bundle.folder / parts[0].place, commit=commit)


def _known_commit(kind: HubKind, name: str, revision: str | None) -> str | None:
    """The commit that the revision was at when this machine asked last."""
    if is_commit(revision):
        return revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionResolutionError

    try:
        return str(HfApi().resolve_revision(name, repo_type=kind, revision=revision, local_files_only=True).resolved)
    except (RevisionResolutionError, OSError, ValueError):
        return None


def _remember(kind: HubKind, name: str, revision: str | None) -> None:
    """Have the hub's library keep which commit the revision is at, for when the hub isn't reached."""
    from huggingface_hub import HfApi

    try:
        HfApi().resolve_revision(name, repo_type=kind, revision=revision)
    except Exception as error:  # the hub went away meanwhile: the next one to ask remembers it
        if not isinstance(error, OSError) and not is_transport(error):
            raise


def _cached_model(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        # Of what the stage fetches nothing may be missing; the rest of the repository never came here.
        return Path(snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=FETCHED))
    except LocalEntryNotFoundError:
        return None


def _cached_set(name: str, commit: str | None) -> Path | None:
    """Where the datasets library keeps what it has read of a set: of the commit, or where nobody knows it, of any."""
    found = cached_folders(name, commit)
    if commit is None and not found:
        # A folder that holds no set yet is one that is being made.
        from huggingface_hub.constants import HF_HOME

        root = Path(os.environ.get("HF_DATASETS_CACHE") or Path(HF_HOME) / "datasets")
        wanted = name.replace("/", "___").replace("_", "").lower()
        # It writes names with small letters, and an underscore before what was a capital.
        return next(
            (path for path in root.glob("*___*") if path.name.replace("_", "").lower() == wanted.replace("_", "")), None
        )
    return found[0] if found else None


def _short(error: Exception) -> str:
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else 'no reason given'}"
