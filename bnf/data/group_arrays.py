"""The arrays of `groups.safetensors`: which they are, and how they are mapped and checked. `bnf.data.groups` makes groups of them."""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from bnf.data.columns import Column
from bnf.data.token_ids import Array

FORMAT = "bnf.groups/1"
COLUMNS = {
    "prompt_lengths": Column("I32"),
    "completion_offsets": Column("I64"),
    "completion_lengths": Column("I32"),
    "labels": Column("I8"),
    "scores": Column("F64"),
    "pair_offsets": Column("I64"),
    "pairs": Column("I32", width=2),
    "id_bytes": Column("U8"),
    "id_offsets": Column("I64"),
    "source_bytes": Column("U8"),
    "source_offsets": Column("I64"),
    "token_ids": Column("I32"),
}
# What helps where a file is not as it was written.
AGAIN = "prepare the data again"
# The types of the file's arrays, by safetensors' names for them.
_TYPES = {"I64": "<i8", "F64": "<f8", "I32": "<i4", "I8": "i1", "U8": "u1"}


def checked_arrays(path: Path) -> dict[str, Array]:
    """The arrays of a file that `GroupsWriter` wrote, mapped; their shapes and offsets are those of one data set.

    Raises:
        ValueError: where the file can't be read, is of another format, or its arrays don't fit each other.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            found = (file.metadata() or {}).get("format")
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} must be a whole file of groups, got one that can't be read ({error}); {AGAIN}") from error
    if found != FORMAT:
        raise ValueError(f"{path} must be of format {FORMAT!r}, got {found!r}; {AGAIN}")
    if types != {name: column.type for name, column in COLUMNS.items()} or not _fit(arrays := mapped(path)):
        raise ValueError(f"{path} must have arrays that fit each other, got others; {AGAIN}")
    return arrays


def _fit(arrays: dict[str, Array]) -> bool:
    """Whether the arrays' shapes and offsets are those of one data set."""
    num_groups, num_completions = len(arrays["prompt_lengths"]), len(arrays["completion_lengths"])
    # What each list of offsets cuts up, and into how many parts.
    cut = {"completion": ("labels", num_groups), "pair": ("pairs", num_groups), "id": ("id_bytes", num_groups)}
    cut["source"] = ("source_bytes", num_completions)
    for name, (of, num_parts) in cut.items():
        offsets = arrays[f"{name}_offsets"]
        if offsets.ndim != 1 or len(offsets) != num_parts + 1 or offsets[0] != 0 or offsets[-1] != len(arrays[of]):
            return False
        if (np.diff(offsets) < 0).any():
            return False
    return all(array.ndim == (2 if name == "pairs" else 1) for name, array in arrays.items()) and arrays["pairs"].shape[1:] == (
        2,
    )


def mapped(path: Path) -> dict[str, Array]:
    """A safetensors file's arrays, mapped. safetensors' own `get_tensor` copies: of 75 million token ids it took 300 MiB in every
    process, and mapped they take nothing of its own; its `get_slice` copies a group's in 7 µs, a view of the mapped takes 0.2 µs.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__")
    data = np.asarray(np.memmap(path, dtype=np.uint8, mode="r", offset=8 + size))
    return {
        name: data[slice(*of["data_offsets"])].view(_TYPES[of["dtype"]]).reshape(of["shape"]) for name, of in header.items()
    }


def are_valid(arrays: dict[str, Array]) -> bool:
    """Whether all groups are what PromptGroup asks for."""
    num_completions = np.diff(arrays["completion_offsets"])
    pairs, num_pairs = arrays["pairs"], np.diff(arrays["pair_offsets"])
    return bool(
        len(arrays["completion_lengths"]) == len(arrays["labels"]) == len(arrays["scores"]) == num_completions.sum()
        and (arrays["prompt_lengths"] > 0).all()
        and (num_completions > 0).all()
        and (arrays["completion_lengths"] > 0).all()
        and arrays["prompt_lengths"].sum() + arrays["completion_lengths"].sum() == len(arrays["token_ids"])
        and arrays["token_ids"].min(initial=0) >= 0
        and (np.abs(arrays["labels"]) == 1).all()
        and ((pairs >= 0) & (pairs < np.repeat(num_completions, num_pairs)[:, None])).all()
        and (pairs[:, 0] != pairs[:, 1]).all()
    )
