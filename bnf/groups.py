"""Prompt groups, the one data shape of the whole pipeline: a prompt, and its completions with their labels.

A pair is a group of two, a thumb a group of one, on-policy samples a group of k. On disk a data set is `groups.safetensors`
(token ids and everything that training needs, flat, with offsets) and `groups.jsonl` beside it (one line per group, for
people and for the report).
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

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

    `texts` gives, per group, `messages` (the prompt's chat messages) and `completions` (the completions' texts) for
    groups.jsonl.

    Raises:
        ValueError: where there are no groups, two groups have one id, or `texts` does not match `groups`.
    """
    if not groups:
        raise ValueError("groups must hold at least one prompt group, got none; see the ledger for why records were left out")
    name, count = Counter(group.id for group in groups).most_common(1)[0]
    if count > 1:
        raise ValueError(f"groups' ids must be unique, got {name!r} {count} times; merge such groups or rename them")
    if texts is not None:
        _check_texts(groups, texts)
    folder.mkdir(parents=True, exist_ok=True)

    partial = folder / (TEXTS_FILE + ".partial")
    with partial.open("w", encoding="utf-8") as lines:
        for index, group in enumerate(groups):
            lines.write(json.dumps(_json_line(group, texts[index] if texts is not None else None), ensure_ascii=False) + "\n")
    os.replace(partial, folder / TEXTS_FILE)

    completions = [completion for group in groups for completion in group.completions]
    arrays: dict[str, Array] = {
        "token_ids": np.array([token for group in groups for token in _flat_tokens(group)], dtype=np.int32),
        "prompt_lengths": np.array([len(group.prompt_ids) for group in groups], dtype=np.int32),
        "completion_offsets": _offsets([len(group.completions) for group in groups]),
        "completion_lengths": np.array([len(completion.token_ids) for completion in completions], dtype=np.int32),
        "labels": np.array([completion.label for completion in completions], dtype=np.int8),
        "scores": np.array([np.nan if each.score is None else each.score for each in completions], dtype=np.float64),
        "pair_offsets": _offsets([len(group.pairs) for group in groups]),
        "pairs": np.array([pair for group in groups for pair in group.pairs], dtype=np.int32).reshape(-1, 2),
    }
    strings_by_name = {"id": [group.id for group in groups], "source": [completion.source for completion in completions]}
    for name, strings in strings_by_name.items():
        encoded = [string.encode() for string in strings]
        arrays[f"{name}_bytes"] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        arrays[f"{name}_offsets"] = _offsets([len(string) for string in encoded])
    partial = folder / (GROUPS_FILE + ".partial")
    save_file(arrays, partial, metadata={"format": FORMAT})
    os.replace(partial, folder / GROUPS_FILE)


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


def _check_texts(groups: Sequence[PromptGroup], texts: Sequence[dict[str, Any]]) -> None:
    if len(texts) != len(groups):
        raise ValueError(f"texts must have one entry per group ({len(groups)}), got {len(texts)}; build both together")
    for group, text in zip(groups, texts, strict=True):
        if set(text) != {"messages", "completions"} or len(text["completions"]) != len(group.completions):
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
    prompt: dict[str, Any] = {} if text is None else {"messages": text["messages"]}
    return {
        "id": group.id,
        **prompt,
        "num_prompt_tokens": len(group.prompt_ids),
        "completions": completions,
        "pairs": [list(pair) for pair in group.pairs],
    }


def _flat_tokens(group: PromptGroup) -> list[int]:
    return [*group.prompt_ids, *(token for completion in group.completions for token in completion.token_ids)]


def _offsets(lengths: Sequence[int]) -> Array:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def _strings(arrays: dict[str, Any], name: str) -> list[str]:
    data = arrays[f"{name}_bytes"].tobytes()
    offsets = arrays[f"{name}_offsets"].tolist()
    return [data[start:end].decode() for start, end in pairwise(offsets)]
