"""What a hub has of a model or a data set, asked before anything runs: whether it is there, and how large its weights are."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from bnf.failures import Cause, cause_of

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Found:
    """What the hub or the cache has of a model or data set.

    Attributes:
        wrong: why it can't be had; None where it can.
        seen: what there is, in words.
        folder: where it lies in the cache, where it came from there.
        files: the names and sizes that the hub gives; None where it wasn't reached.
    """

    wrong: str | None
    seen: str = ""
    folder: Path | None = None
    files: dict[str, int] | None = None

    @property
    def weights_bytes(self) -> int | None:
        """The size of the safetensors files; None where it isn't known."""
        if self.folder is not None:
            return weights_bytes(self.folder)
        if self.files is None:
            return None
        return sum(size for name, size in self.files.items() if fnmatch(name, "*.safetensors"))


def weights_bytes(folder: Path) -> int:
    """The size of a model folder's safetensors files."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


@functools.cache
def ask(kind: Literal["model", "dataset"], name: str, revision: str | None) -> Found:
    """Ask the hub for a model or a data set, and where it can't be reached, this machine's cache of it. Asked once per process."""
    # Must be set before the library is imported, as it is for the stages' processes.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api = HfApi()
        if kind == "model":
            siblings = api.model_info(name, revision=revision, timeout=TIMEOUT_S, files_metadata=True).siblings
        else:
            siblings = api.dataset_info(name, revision=revision, timeout=TIMEOUT_S).siblings
    except HfHubHTTPError as error:
        if cause_of(error) is Cause.PASSING:
            return Found(None, "the hub is busy; it is asked again when the stage runs")
        wrong = f"the hub doesn't give it ({_short(error)})"
    except Exception as error:  # whatever its transport raises: it is said, and the cache decides
        wrong = f"the hub wasn't reached ({_short(error)})"
    else:
        files = {file.rfilename: file.size or 0 for file in siblings or ()}
        return Found(None, "on the hub", files=files)
    cached = _cached_model(name, revision) if kind == "model" else _cached_set(name)
    if cached is None:
        return Found(f"{wrong}, and this machine's cache has none")
    return Found(None, f"{wrong}; in this machine's cache", folder=cached)


def _cached_model(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _cached_set(name: str) -> Path | None:
    """Where the datasets library keeps what it has read of a set."""
    from huggingface_hub.constants import HF_HOME

    root = Path(os.environ.get("HF_DATASETS_CACHE") or Path(HF_HOME) / "datasets")
    # It writes names with small letters, and an underscore before what was a capital.
    wanted = name.replace("/", "___").replace("_", "").lower()
    return next((path for path in root.glob("*___*") if path.name.replace("_", "").lower() == wanted.replace("_", "")), None)


def _short(error: Exception) -> str:
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else 'no reason given'}"
