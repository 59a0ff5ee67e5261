"""Prompt groups, the one data shape of the whole pipeline: a prompt, and its completions with their labels.

A pair is a group of two, a thumb a group of one, on-policy samples a group of k. On disk a data set is `groups.safetensors`
(token ids and everything that training needs, flat, with offsets) and `groups.jsonl` beside it (one line per group, for
people and for the report).
"""

import json
import math
import os
import shutil
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from bnf.data.marked import CONTEXT_KEYS, context_of

FORMAT = "bnf.groups/1"
GROUPS_FILE = "groups.safetensors"
TEXTS_FILE = "groups.jsonl"
# Subfolder of a data set with groups of other prompts in the same format, which are measured and not trained on.
DEV = "dev"

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Completion:
    """One completion of a prompt: its token ids, and what is known about it.

    `label` is +1 (preferred) or −1 (dispreferred), `score` a reward or rating where there is one, `source` where the
    completion comes from.
    """

    token_ids: tuple[int, ...]
    label: int
    score: float | None = None
    source: str = ""


@dataclass(frozen=True)
class PromptGroup:
    """A prompt's token ids and all of its completions; `pairs` holds (index of chosen, index of rejected) within `completions`.

    Raises:
        ValueError: naming the group, where a prompt or completion is empty, a label is neither +1 nor −1, or a pair names no
        completion.
    """

    id: str
    prompt_ids: tuple[int, ...]
    completions: tuple[Completion, ...]
    pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        where = f"group {self.id!r}"
        if not self.prompt_ids:
            raise ValueError(f"{where}: prompt_ids must hold at least one token, got none; render it with the chat template")
        if not self.completions:
            raise ValueError(f"{where}: completions must hold at least one completion, got none; leave the group out")
        if min(self.prompt_ids) < 0:
            raise ValueError(f"{where}: prompt_ids must be non-negative, got {min(self.prompt_ids)}; mask nothing here")
        for index, completion in enumerate(self.completions):
            if not completion.token_ids:
                raise ValueError(f"{where}: completion {index} must hold at least one token, got none; leave it out")
            if min(completion.token_ids) < 0:
                raise ValueError(
                    f"{where}: completion {index}'s token_ids must be non-negative, got {min(completion.token_ids)}; "
                    "mask nothing here"
                )
            if completion.label not in (1, -1):
                raise ValueError(
                    f"{where}: completion {index}'s label must be 1 or -1, got {completion.label!r}; label it or leave it out"
                )
        for pair in self.pairs:
            in_range = all(0 <= index < len(self.completions) for index in pair)
            if len(pair) != 2 or not in_range or pair[0] == pair[1]:
                raise ValueError(
                    f"{where}: pairs must name two different completions of 0…{len(self.completions) - 1}, got {pair}; "
                    "give (index of chosen, index of rejected)"
                )

    @property
    def num_tokens(self) -> int:
        """Tokens that the group takes in a row: the prompt once, and every completion."""
        return len(self.prompt_ids) + sum(len(completion.token_ids) for completion in self.completions)


def tokens_digest(groups: Sequence[PromptGroup]) -> str:
    """A digest of the groups' token ids in their order: what packing and the reference's log-probabilities depend on, labels
    left out.
    """
    digest = sha256()
    for group in groups:
        lengths = [len(group.prompt_ids), *(len(completion.token_ids) for completion in group.completions)]
        digest.update(np.array([len(lengths), *lengths], dtype="<i8").tobytes())
        digest.update(np.array(_flat_tokens(group), dtype="<i4").tobytes())
    return digest.hexdigest()


def write_groups(folder: Path, groups: Sequence[PromptGroup], texts: Sequence[dict[str, Any]] | None = None) -> None:
    """Writes the groups into `folder`; the same groups give the same bytes, and the safetensors file appears last and whole.

    `texts` gives, per group, `messages` (the prompt's chat messages), `tools` and `documents` where there are some, and
    `completions` (the completions' texts) for groups.jsonl.

    Raises:
        ValueError: where there are no groups, two groups have one id, or `texts` does not match `groups`.
    """
    if texts is not None and len(texts) != len(groups):
        raise ValueError(f"texts must have one entry per group ({len(groups)}), got {len(texts)}; build both together")
    with GroupsWriter(folder) as writer:
        for index, group in enumerate(groups):
            writer.add(group, texts[index] if texts is not None else None)


class GroupsWriter:
    """Writes groups one at a time into what `write_groups` gives for all of them: token ids and texts go to disk as they come,
    so that memory holds a few numbers per completion.

    As a context manager it finishes the files, or takes them away where the block raised.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lines = self._partial(TEXTS_FILE).open("w", encoding="utf-8")
        self._tokens = self._partial("token_ids").open("wb")
        self._numbers: dict[str, array[Any]] = {name: array(code) for name, code in _NUMBERS.items()}
        self._strings = {"id": bytearray(), "source": bytearray()}
        self._ids: set[str] = set()

    def __enter__(self) -> "GroupsWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._lines.close()
        self._tokens.close()
        try:
            if kind is None:
                self._finish()
        finally:
            for name in (TEXTS_FILE, GROUPS_FILE, "token_ids"):
                self._partial(name).unlink(missing_ok=True)

    def add(self, group: PromptGroup, text: dict[str, Any] | None = None) -> None:
        """Appends a group, with its texts as `write_groups` takes them.

        Raises:
            ValueError: where the group's id was there before, or `text` does not match the group.
        """
        if group.id in self._ids:
            raise ValueError(f"groups' ids must be unique, got {group.id!r} 2 times; merge such groups or rename them")
        if text is not None:
            _check_text(group, text)
        self._ids.add(group.id)
        self._lines.write(json.dumps(_json_line(group, text), ensure_ascii=False) + "\n")
        self._tokens.write(np.array(_flat_tokens(group), dtype="<i4").tobytes())
        numbers = self._numbers
        numbers["prompt_lengths"].append(len(group.prompt_ids))
        numbers["num_completions"].append(len(group.completions))
        numbers["num_pairs"].append(len(group.pairs))
        for pair in group.pairs:
            numbers["pairs"].extend(pair)
        self._string("id", group.id)
        for completion in group.completions:
            numbers["completion_lengths"].append(len(completion.token_ids))
            numbers["labels"].append(completion.label)
            numbers["scores"].append(math.nan if completion.score is None else completion.score)
            self._string("source", completion.source)

    def _string(self, name: str, string: str) -> None:
        encoded = string.encode()
        self._strings[name] += encoded
        self._numbers[f"{name}_lengths"].append(len(encoded))

    def _partial(self, name: str) -> Path:
        return self._folder / (name + ".partial")

    def _finish(self) -> None:
        if not self._ids:
            raise ValueError(
                "groups must hold at least one prompt group, got none; see the ledger for why records were left out"
            )
        numbers = {name: np.array(values, dtype=values.typecode) for name, values in self._numbers.items()}
        arrays: dict[str, Array] = {
            "prompt_lengths": numbers["prompt_lengths"],
            "completion_offsets": _offsets(numbers["num_completions"]),
            "completion_lengths": numbers["completion_lengths"],
            "labels": numbers["labels"],
            "scores": numbers["scores"],
            "pair_offsets": _offsets(numbers["num_pairs"]),
            "pairs": numbers["pairs"].reshape(-1, 2),
        }
        for name, data in self._strings.items():
            arrays[f"{name}_bytes"] = np.frombuffer(bytes(data), dtype=np.uint8)
            arrays[f"{name}_offsets"] = _offsets(numbers[f"{name}_lengths"])
        _save(self._partial(GROUPS_FILE), arrays, self._partial("token_ids"))
        os.replace(self._partial(TEXTS_FILE), self._folder / TEXTS_FILE)
        os.replace(self._partial(GROUPS_FILE), self._folder / GROUPS_FILE)


# What a writer keeps in memory, with the type codes of `array`.
_NUMBERS = {
    "prompt_lengths": "i",
    "num_completions": "i",
    "completion_lengths": "i",
    "labels": "b",
    "scores": "d",
    "num_pairs": "i",
    "pairs": "i",
    "id_lengths": "i",
    "source_lengths": "i",
}
# The order in which safetensors writes tensors: by type, then by name. https://github.com/huggingface/safetensors#format
_TYPES = {"int64": "I64", "float64": "F64", "int32": "I32", "int8": "I8", "uint8": "U8"}


def _save(path: Path, arrays: dict[str, Array], token_ids: Path) -> None:
    """A safetensors file of the arrays and of the token ids, which are copied from a file of their own and never in memory."""
    shapes = {name: (list(array.shape), array.dtype.name, array.nbytes) for name, array in arrays.items()}
    num_bytes = token_ids.stat().st_size
    shapes["token_ids"] = ([num_bytes // 4], "int32", num_bytes)
    order = sorted(shapes, key=lambda name: (list(_TYPES).index(shapes[name][1]), name))
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT}}
    position = 0
    for name in order:
        shape, dtype, size = shapes[name]
        header[name] = {"dtype": _TYPES[dtype], "shape": shape, "data_offsets": [position, position + size]}
        position += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name in order:
            if name == "token_ids":
                with token_ids.open("rb") as tokens:
                    shutil.copyfileobj(tokens, file)
            else:
                file.write(arrays[name].tobytes())


def read_groups(folder: Path) -> list[PromptGroup]:
    """The groups that `write_groups` wrote into `folder`, in the same order.

    Raises:
        FileNotFoundError: where the folder holds no groups.
        ValueError: where the file is of another format, or a group is not valid.
    """
    path = folder / GROUPS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"groups_dir must hold {GROUPS_FILE}, got {folder} without it; run the prepare stage first")
    with safe_open(path, framework="numpy") as file:
        found = (file.metadata() or {}).get("format")
        if found != FORMAT:
            raise ValueError(f"{path} must be of format {FORMAT!r}, got {found!r}; prepare the data again")
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (the handle is no mapping)

    ids = _strings(arrays, "id")
    sources = _strings(arrays, "source")
    tokens: list[int] = arrays["token_ids"].tolist()
    lengths: list[int] = arrays["completion_lengths"].tolist()
    labels: list[int] = arrays["labels"].tolist()
    scores: list[float] = arrays["scores"].tolist()
    pairs: list[list[int]] = arrays["pairs"].tolist()
    groups = []
    position = 0
    for index, prompt_length in enumerate(arrays["prompt_lengths"].tolist()):
        prompt_ids = tuple(tokens[position : position + prompt_length])
        position += prompt_length
        completions = []
        for number in range(arrays["completion_offsets"][index], arrays["completion_offsets"][index + 1]):
            score = None if np.isnan(scores[number]) else scores[number]
            completions.append(
                Completion(tuple(tokens[position : position + lengths[number]]), labels[number], score, sources[number])
            )
            position += lengths[number]
        own_pairs = pairs[arrays["pair_offsets"][index] : arrays["pair_offsets"][index + 1]]
        groups.append(PromptGroup(ids[index], prompt_ids, tuple(completions), tuple((pair[0], pair[1]) for pair in own_pairs)))
    return groups


def _check_text(group: PromptGroup, text: dict[str, Any]) -> None:
    if set(text) - set(CONTEXT_KEYS) != {"messages", "completions"} or len(text["completions"]) != len(group.completions):
        raise ValueError(
            f"group {group.id!r}: texts must hold `messages` and {len(group.completions)} `completions`, "
            f"got {sorted(text)} with {len(text.get('completions', ()))}; give one text per completion"
        )


def _json_line(group: PromptGroup, text: dict[str, Any] | None) -> dict[str, Any]:
    completions: list[dict[str, Any]] = []
    for index, completion in enumerate(group.completions):
        line: dict[str, Any] = {} if text is None else {"text": text["completions"][index]}
        line |= {
            "label": completion.label,
            "score": completion.score,
            "source": completion.source,
            "num_tokens": len(completion.token_ids),
        }
        completions.append(line)
    prompt: dict[str, Any] = {} if text is None else {"messages": text["messages"], **context_of(text)}
    return {
        "id": group.id,
        **prompt,
        "num_prompt_tokens": len(group.prompt_ids),
        "completions": completions,
        "pairs": [list(pair) for pair in group.pairs],
    }


def _flat_tokens(group: PromptGroup) -> list[int]:
    return [*group.prompt_ids, *(token for completion in group.completions for token in completion.token_ids)]


def _offsets(lengths: Array) -> Array:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def _strings(arrays: dict[str, Any], name: str) -> list[str]:
    data = arrays[f"{name}_bytes"].tobytes()
    offsets = arrays[f"{name}_offsets"].tolist()
    return [data[start:end].decode() for start, end in pairwise(offsets)]
