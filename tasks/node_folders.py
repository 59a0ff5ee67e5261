"""Where a node of a cluster has an artifact's folder: under the same path, or fetched from the shared store into the node's own home."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path

from bnf.parallel.node_folders import same_path
from bnf.paths import person_path
from tasks.home_lock import using
from tasks.remote import Remote
from tasks.store import Artifact, Store

# The homes of which this process reads artifacts. They are held until it ends, as no run here names what is fetched.
_homes: set[Path] = set()
_held = contextlib.ExitStack()


@dataclass(frozen=True)
class ArtifactFolder:
    """Called on a node, it gives the node's own path of a folder of the run's machine.

    Attributes:
        root: the artifacts folder of the run's machine.
    """

    root: str

    def __call__(self, folder: str) -> str:
        """The folder's path here. An artifact comes from the store that this node's `BNF_STORE` names, into its `BNF_HOME`; `bnf gc` drops
        nothing from it until this process ends.

        Raises:
            ValueError: it is not here, and no shared store is named, or it is no artifact or one that no store holds; or one of the two
                variables is a relative path.
            RemoteError: the shared store can't be reached, or what it holds is altered.
        """
        if not Path(folder).is_relative_to(self.root):
            return same_path(folder)
        if Path(folder).relative_to(self.root).parts[0] == "resolve":
            return _linked(folder)
        url = os.environ.get("BNF_STORE")
        if not url:
            if Path(folder).is_dir():
                return folder
            raise ValueError(
                f"BNF_STORE must be set where Ray is started on {platform.node()}, got none, and {folder} isn't there; set BNF_HOME and "
                "BNF_STORE as for a run there, or mount the home of the run's machine under the same path"
            )
        home = person_path(os.environ.get("BNF_HOME") or str(Path(self.root).parent))
        if not home.is_absolute():
            raise ValueError(f"BNF_HOME must be an absolute path where Ray is started on {platform.node()}, got {home}")
        path = re.sub(r"^(file|local):(//)?", "", url)
        if "://" not in path and not person_path(path).is_absolute():
            raise ValueError(
                f"BNF_STORE must be an absolute path or a URL where Ray is started on {platform.node()}, got {url}; write the whole path"
            )
        stage, name, *inside = Path(folder).relative_to(self.root).parts
        name = name.removesuffix(".part")
        key, _, fingerprint = name.partition(".")
        if home not in _homes:
            _held.enter_context(using(home))
            _homes.add(home)
        store = Store(home / "artifacts", Remote(url))
        artifact = Artifact(stage, key, fingerprint, store.root / stage / name)
        started_s = time.monotonic()
        was_here = store.damage(artifact) is None
        here = store.fetch(artifact)
        if not was_here:
            print(f"{platform.node()}: {stage}/{name} from {url} in {time.monotonic() - started_s:.1f} s", flush=True)
        return str(here.joinpath(*inside))


def _linked(folder: str) -> str:
    """A model's folder with the recipe's chat template: links to the model's files, so that no shared store has it.

    Raises:
        ValueError: it is not here, or a file that it links to is not.
    """
    here = platform.node()
    if not Path(folder).is_dir():
        raise ValueError(
            "a model with the recipe's chat_template or chat_template_kwargs must be on every node under the same path, got "
            f"{folder}, which isn't on {here} and comes from no BNF_STORE; mount the home of the run's machine there, or write the "
            "template into the model's own folder on every node and leave both keys out"
        )
    gone = next((entry for entry in sorted(Path(folder).iterdir()) if not entry.exists()), None)
    if gone is not None:
        raise ValueError(
            f"the model must be on every node under the same path, got {gone.readlink()}, which isn't on {here}; mount its folder there too"
        )
    return folder
