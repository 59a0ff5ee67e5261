"""Where a node of a cluster has a folder that the run's machine names. Workers on Ray ask it before they open a model."""

import platform
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path

# Called on the node with the folder's path on the run's machine; gives its path there.
NodeFolder = Callable[[str], str]


def same_path(folder: str) -> str:
    """The path itself.

    Raises:
        ValueError: it is not on this node.
    """
    if not Path(folder).is_dir():
        raise ValueError(
            f"the folder must be on every node under the same path, got {folder}, which isn't there; mount BNF_HOME and the models on "
            f"{platform.node()} too"
        )
    return folder


# A run's stages are told more than this package knows: of the home, and of the shared store.
NODE_FOLDER: ContextVar[NodeFolder] = ContextVar("bnf_node_folder", default=same_path)
