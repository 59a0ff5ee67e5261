"""What a cache of the reference was made from and with: `index.json`, and `numerics.json` beside it."""

import json
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import TypedDict

from bnf.files import read_note
from bnf.model.kernels import could_have_made
from bnf.model.loading import Numerics
from bnf.model.logps import logits_budget

INDEX_FILE = "index.json"
NUMERICS_FILE = "numerics.json"


@dataclass(frozen=True)
class Identity:
    """What the cached values depend on. Two caches of equal identity hold equal values, up to the machine that computed them."""

    rows: str
    model: str
    max_tokens_per_row: int
    share_prompts: bool
    bf16: bool
    weights: str
    load_in_4bit: bool
    # How many logits exist at once, and the attention implementation: on CUDA its name says which kernels served.
    head_logits: int
    attention: str
    entropies: bool
    # The digest of the rows of KL pairs; None where the cache has none.
    mismatched: str | None
    # The digest of the pairs whose CHES scores the cache has; None where it has none.
    ches: str | None = None
    # What the model's logits are divided by.
    temperature: float = 1.0

    @property
    def key(self) -> str:
        """The digest by which a shard is known as part of this cache."""
        return sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, object]:
        """The fields as index.json holds them. A temperature of 1 and scores that are not there are left out: so such caches have the keys
        that they had before there were any."""
        plain = {"temperature": 1, "ches": None}
        return {name: value for name, value in asdict(self).items() if name not in plain or value != plain[name]}


class DevicePass(TypedDict):
    """The fields of an `Identity` that depend on the kind of device."""

    head_logits: int
    attention: str


def device_pass(attention: str) -> DevicePass:
    """What a pass on this machine does with this attention implementation."""
    return {"head_logits": logits_budget(), "attention": attention}


@dataclass(frozen=True)
class Shard:
    """A file of the cache, and the rows in it: (first, one past the last)."""

    file: str
    rows: tuple[int, int]


@dataclass(frozen=True)
class ReferenceIndex:
    """`index.json`: the cache's identity, its size and its shards. It is written last: where it exists, the cache is complete."""

    key: str
    identity: Identity
    num_rows: int
    num_tokens: int
    num_completion_tokens: int
    shards: tuple[Shard, ...]

    def to_json(self) -> dict[str, object]:
        """The fields as index.json holds them."""
        index = asdict(self)
        del index["identity"]
        return {"key": index.pop("key"), **self.identity.to_json(), **index}

    @classmethod
    def from_json(cls, text: str) -> "ReferenceIndex":
        """The index that a file's text holds."""
        found = json.loads(text)
        # Caches of older versions have no scores.
        identity = Identity(**{field.name: found.pop(field.name) for field in fields(Identity) if field.name in found})
        shards = tuple(Shard(shard["file"], tuple(shard["rows"])) for shard in found.pop("shards"))
        return cls(**found, identity=identity, shards=shards)


def read_index(reference_dir: Path) -> ReferenceIndex:
    """The index of a complete cache.

    Raises:
        FileNotFoundError: the cache is not complete.
    """
    index_file = reference_dir / INDEX_FILE
    if not index_file.is_file():
        raise FileNotFoundError(
            f"reference_dir must hold {INDEX_FILE}, got {reference_dir} without it; run the reference stage"
        )
    return ReferenceIndex.from_json(index_file.read_text())


def made_elsewhere(reference_dir: Path, attention: str = "auto") -> str | None:
    """How the pass differed from one with this `train.attention` on this kind of device, in words. Then the cached values are close to
    this device's, and not equal to the bit. None where it didn't differ.

    Raises:
        FileNotFoundError: the cache is not complete.
    """
    made = read_index(reference_dir).identity
    different = [] if made.head_logits == logits_budget() else [f"head_logits {made.head_logits}, here {logits_budget()}"]
    if not could_have_made(made.attention, attention):
        different.append(f"attention {made.attention}, here {attention}")
    return ", ".join(different) or None


def reference_numerics(reference_dir: Path) -> Numerics | None:
    """The numerics that the cache was computed with; None where it doesn't say."""
    found = read_note(reference_dir / NUMERICS_FILE)
    return None if found is None else Numerics(**found)
