"""Prompt groups, the one data shape of the whole pipeline: a prompt, and its completions with their labels.

A pair is a group of two, a thumb a group of one, on-policy samples a group of k. On disk a data set is `groups.safetensors`
(token ids and everything that training needs, flat, with offsets) and `groups.jsonl` beside it (one line per group, for
people and for the report). In memory it is that file, mapped: groups are made of it when they are asked for.
"""

import json
import math
import os
import shutil
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, overload

import numpy as np

from bnf.data.columns import ColumnsWriter
from bnf.data.group_arrays import AGAIN, COLUMNS, FORMAT, are_valid, checked_arrays, mapped
from bnf.data.marked import CONTEXT_KEYS, context_of
from bnf.data.token_ids import Array, TokenIds

GROUPS_FILE = "groups.safetensors"
TEXTS_FILE = "groups.jsonl"
# Subfolder of a data set with groups of other prompts in the same format, which are measured and not trained on.
DEV = "dev"


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion of a prompt: its token ids, and what is known about it.

    `label` is +1 (preferred) or −1 (dispreferred), `score` a reward or rating where there is one, `source` where the
    completion comes from. `token_ids` may be given as any sequence and are kept as `TokenIds`.
    """

    token_ids: Sequence[int]
    label: int
    score: float | None = None
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", TokenIds(self.token_ids))


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """A prompt's token ids and all of its completions; `pairs` holds (index of chosen, index of rejected) within `completions`.

    `prompt_ids` may be given as any sequence and are kept as `TokenIds`.

    Raises:
        ValueError: naming the group, where a prompt or completion is empty, a label is neither +1 nor −1, or a pair names no
        completion.
    """

    id: str
    prompt_ids: Sequence[int]
    completions: tuple[Completion, ...]
    pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt_ids", TokenIds(self.prompt_ids))
        where = f"group {self.id!r}"
        if not self.prompt_ids:
            raise ValueError(f"{where}: prompt_ids must hold at least one token, got none; render it with the chat template")
        if not self.completions:
            raise ValueError(f"{where}: completions must hold at least one completion, got none; leave the group out")
        if (least := np.min(self.prompt_ids)) < 0:
            raise ValueError(f"{where}: prompt_ids must be non-negative, got {least}; mask nothing here")
        for index, completion in enumerate(self.completions):
            if not completion.token_ids:
                raise ValueError(f"{where}: completion {index} must hold at least one token, got none; leave it out")
            if (least := np.min(completion.token_ids)) < 0:
                raise ValueError(
                    f"{where}: completion {index}'s token_ids must be non-negative, got {least}; mask nothing here"
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
        parts = [group.prompt_ids, *(completion.token_ids for completion in group.completions)]
        digest.update(np.array([len(parts), *map(len, parts)], dtype="<i8").tobytes())
        for ids in parts:
            digest.update(_bytes(ids))
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
    """Writes groups one at a time into what `write_groups` gives for all of them. Everything goes to disk as it comes; at the end memory
    holds 16 bytes a group, to see that all ids differ.

    As a context manager it finishes the files, or takes them away where the block raised.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lines = self._partial(TEXTS_FILE).open("w", encoding="utf-8")
        self._columns = ColumnsWriter(folder / GROUPS_FILE, COLUMNS)
        self._num_groups = 0

    def __enter__(self) -> "GroupsWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            # On a full disk closing raises too.
            self._lines.close()
            self._columns.close()
            if kind is None:
                self._finish()
        finally:
            self._columns.remove()
            for name in (TEXTS_FILE, GROUPS_FILE):
                self._partial(name).unlink(missing_ok=True)

    def add(self, group: PromptGroup, text: dict[str, Any] | None = None) -> None:
        """Appends a group, with its texts as `write_groups` takes them.

        Raises:
            ValueError: where `text` does not match the group.
        """
        if text is not None:
            _check_text(group, text)
        self._num_groups += 1
        self._lines.write(json.dumps(_json_line(group, text), ensure_ascii=False) + "\n")
        columns, completions = self._columns, group.completions
        columns.add_bytes("token_ids", b"".join(map(_bytes, (group.prompt_ids, *(one.token_ids for one in completions)))))
        columns.add("prompt_lengths", len(group.prompt_ids))
        columns.add("completion_lengths", *(len(one.token_ids) for one in completions))
        columns.add("labels", *(one.label for one in completions))
        columns.add("scores", *(math.nan if one.score is None else one.score for one in completions))
        columns.add("pairs", *(index for pair in group.pairs for index in pair))
        columns.add_strings("source", *(one.source for one in completions))
        columns.add_strings("id", group.id)
        columns.add_lengths("completion", len(completions))
        columns.add_lengths("pair", len(group.pairs))

    def extend(self, folder: Path) -> None:
        """Appends all groups of a data set that another writer has finished."""
        arrays = mapped(folder / GROUPS_FILE)
        self._num_groups += len(arrays["prompt_lengths"])
        self._columns.extend(arrays)
        with (folder / TEXTS_FILE).open(encoding="utf-8", newline="") as lines:
            shutil.copyfileobj(lines, self._lines)

    def _partial(self, name: str) -> Path:
        return self._folder / (name + ".partial")

    def _finish(self) -> None:
        if not self._num_groups:
            raise ValueError(
                "groups must hold at least one prompt group, got none; see the ledger for why records were left out"
            )
        if (id := self._columns.repeated("id")) is not None:
            raise ValueError(f"groups' ids must be unique, got {id!r} 2 times; merge such groups or rename them")
        self._columns.finish(self._partial(GROUPS_FILE), {"format": FORMAT})
        os.replace(self._partial(TEXTS_FILE), self._folder / TEXTS_FILE)
        os.replace(self._partial(GROUPS_FILE), self._folder / GROUPS_FILE)


class LazyGroups(Sequence[PromptGroup]):
    """A sequence whose groups are made at each access. It equals any sequence of equal groups."""

    @abstractmethod
    def _make(self, place: int) -> PromptGroup:
        """The group at a place of 0…n - 1."""

    @overload
    def __getitem__(self, index: int) -> PromptGroup: ...
    @overload
    def __getitem__(self, index: slice) -> "LazyGroups": ...
    def __getitem__(self, index: int | slice) -> "PromptGroup | LazyGroups":
        places = range(len(self))[index]
        return self._make(places) if isinstance(places, int) else ChosenGroups(self, places)

    def __iter__(self) -> Iterator[PromptGroup]:
        return map(self._make, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other, strict=True))


class ChosenGroups(LazyGroups):
    """Those at some places of other groups, in the order of the places."""

    def __init__(self, groups: Sequence[PromptGroup], places: Sequence[int]) -> None:
        self._groups, self._places = groups, places

    def __len__(self) -> int:
        return len(self._places)

    def _make(self, place: int) -> PromptGroup:
        return self._groups[self._places[place]]


class MappedGroups(LazyGroups):
    """The groups of a mapped file. Their token ids are views of its arrays."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        """Raises ValueError, naming the first group that is not valid."""
        self._arrays = arrays
        prompts, completions = _offsets(arrays["prompt_lengths"]), _offsets(arrays["completion_lengths"])
        # Where each group's tokens begin.
        self._starts = prompts[:-1] + completions[arrays["completion_offsets"][:-1]]
        if not are_valid(arrays):
            for group in self:
                PromptGroup(group.id, group.prompt_ids, group.completions, group.pairs)
            raise ValueError(f"groups must have as many token ids, labels and scores as their lengths say, got others; {AGAIN}")

    def __len__(self) -> int:
        return len(self._starts)

    def _make(self, place: int) -> PromptGroup:
        arrays, tokens = self._arrays, self._arrays["token_ids"]
        start = int(self._starts[place])
        stop = start + int(arrays["prompt_lengths"][place])
        prompt_ids = TokenIds.view(tokens[start:stop])
        completions = []
        own = slice(*arrays["completion_offsets"][place : place + 2].tolist())
        columns = (arrays[name][own].tolist() for name in ("completion_lengths", "labels", "scores"))
        for number, (length, label, score) in enumerate(zip(*columns, strict=True), start=own.start):
            start, stop = stop, stop + length
            ids, source = TokenIds.view(tokens[start:stop]), self._string("source", number)
            completions.append(_unchecked(Completion, ids, label, None if math.isnan(score) else score, source))
        pairs = arrays["pairs"][slice(*arrays["pair_offsets"][place : place + 2].tolist())].tolist()
        id = self._string("id", place)
        return _unchecked(PromptGroup, id, prompt_ids, tuple(completions), tuple((pair[0], pair[1]) for pair in pairs))

    def _string(self, name: str, place: int) -> str:
        start, stop = self._arrays[f"{name}_offsets"][place : place + 2].tolist()
        text = self._arrays[f"{name}_bytes"][start:stop].tobytes()
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"groups must have each {name} in UTF-8, got {text[:60]!r} at {place}; {AGAIN}") from error


def read_groups(folder: Path) -> LazyGroups:
    """The groups that `write_groups` wrote into `folder`, in the same order, mapped into memory: processes share them.

    Raises:
        FileNotFoundError: where the folder holds no groups.
        ValueError: where the file is of another format, or a group is not valid.
    """
    path = folder / GROUPS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"groups_dir must hold {GROUPS_FILE}, got {folder} without it; run the prepare stage first")
    arrays = checked_arrays(path)
    try:
        return MappedGroups(arrays)
    except ValueError as error:
        raise ValueError(f"{path} must hold groups: {error}") from error


def _unchecked(kind: type[Any], *values: object) -> Any:
    """An object of a frozen dataclass, of values that were checked all together: three times as fast as one by one."""
    made = object.__new__(kind)
    for name, value in zip(kind.__slots__, values, strict=True):
        object.__setattr__(made, name, value)
    return made


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


def _bytes(ids: Sequence[int]) -> bytes:
    return np.asarray(ids, dtype="<i4").tobytes()


def _offsets(lengths: Array) -> Array:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])
