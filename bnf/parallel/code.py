"""What code a node computes with: all of its nodes must have the same, or a training would mix two of them in silence."""

import hashlib
from importlib.metadata import version
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers")


def code_digest() -> str:
    """The versions of the libraries that compute, and the digest of this package's files as they are on the disk now."""
    files = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob("*.py")):
        files.update(f"{file.relative_to(_PACKAGE)}\0".encode() + file.read_bytes() + b"\0")
    libraries = " ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    return f"bnf {files.hexdigest()[:12]} {libraries}"
