"""Seeds of what is sampled, made from names."""

from __future__ import annotations

import hashlib


def seed_of(names: str) -> int:
    """The seed that stands for these names, below 2**31: a hash, since sums would give two names the same seed."""
    return int.from_bytes(hashlib.sha256(names.encode()).digest()[:4]) & 0x7FFFFFFF
