"""Token by token: a few completions with their log-probabilities under the reference and under the policy, for people to read.

Nothing is computed for it. `bnf.analysis.likelihood_shift` keeps the policy's values beside its figures, and the reference stage keeps its
own; both are read here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from tokenizers import Tokenizer

from bnf.data.groups import GROUPS_FILE, ChosenGroups, PromptGroup, read_groups
from bnf.data.row_order import order_digest, row_order
from bnf.data.token_ids import Array

# The policy's values, beside shifts.json.
POLICY_LOGPS = "policy_logps"
_INDEX, _TOKENIZER = "index.json", "tokenizer.json"
_MOST_TOKENS = 240


@dataclass(frozen=True)
class ShownToken:
    """A completion token as text, and its log-probabilities in nats."""

    text: str
    reference_logp: float
    policy_logp: float


@dataclass(frozen=True)
class ShownCompletion:
    """A completion's first tokens, and how many are left out after them. `label` is +1 or −1."""

    group: str
    prompt: str
    label: int
    tokens: tuple[ShownToken, ...]
    num_left_out: int


def token_shifts(
    policy_dir: Path,
    groups_dir: Path,
    reference_dir: Path,
    policy_logps_dir: Path,
    *,
    max_groups_per_row: int | None,
    num_groups: int,
) -> list[ShownCompletion]:
    """Of the first groups in the order of packing, which digests decide and nobody picks: one completion of each label. Groups that have
    both labels come first.

    Empty where the values aren't on this machine, or are of other rows than these.
    """
    folders = (reference_dir, policy_logps_dir)
    if not all(
        path.is_file() for path in (*(folder / _INDEX for folder in folders), groups_dir / GROUPS_FILE, policy_dir / _TOKENIZER)
    ):
        return []
    # The index as it stands: the modules that know it load transformers, which takes longer than all that is read here.
    indices = [json.loads((folder / _INDEX).read_text()) for folder in folders]
    shards = [index["shards"][0] for index in indices]
    files = [folder / shard["file"] for folder, shard in zip(folders, shards, strict=True)]
    if not all(path.is_file() for path in files):
        return []
    data = read_groups(groups_dir)
    rows = row_order(
        data,
        indices[0]["max_tokens_per_row"],
        max_groups_per_row=max_groups_per_row,
        share_prompts=indices[0]["share_prompts"],
    )
    if {index["rows"] for index in indices} != {order_digest((row, ChosenGroups(data, row)) for row in rows)}:
        return []
    last = min(shard["rows"][1] for shard in shards)
    tokenizer = Tokenizer.from_file(str(policy_dir / _TOKENIZER))
    groups: list[tuple[PromptGroup, list[tuple[int, int]]]] = []
    start = 0
    for group in (data[index] for row in rows[:last] for index in row):
        # The first completion of each label, and where its values begin.
        places: dict[int, tuple[int, int]] = {}
        for number, completion in enumerate(group.completions):
            places.setdefault(completion.label, (number, start))
            start += len(completion.token_ids)
        groups.append((group, list(places.values())))
    groups.sort(key=lambda one: len(one[1]), reverse=True)
    values = [_logps(path) for path in files]
    return [
        _shown(tokenizer, group, number, [of_model[begin : begin + _MOST_TOKENS] for of_model in values])
        for group, places in groups[:num_groups]
        for number, begin in places
    ]


def values_elsewhere(groups_dir: Path, reference_dir: Path, policy_logps_dir: Path) -> bool:
    """Whether the values were kept, and their files are on another machine: indices come from a shared store, large files don't."""
    indices = [folder / _INDEX for folder in (reference_dir, policy_logps_dir)]
    if not all(path.is_file() for path in indices):
        return False
    files = [path.parent / json.loads(path.read_text())["shards"][0]["file"] for path in indices]
    return not all(path.is_file() for path in (groups_dir / GROUPS_FILE, *files))


def _shown(tokenizer: Tokenizer, group: PromptGroup, number: int, values: Sequence[Array]) -> ShownCompletion:
    completion = group.completions[number]
    ids = list(completion.token_ids)
    pieces = _pieces(tokenizer, ids[:_MOST_TOKENS])
    tokens = tuple(ShownToken(text, float(before), float(after)) for text, before, after in zip(pieces, *values, strict=False))
    return ShownCompletion(
        group.id, _decoded(tokenizer, list(group.prompt_ids)), completion.label, tokens, len(ids) - len(tokens)
    )


def _logps(path: Path) -> Array:
    with safe_open(path, framework="np") as file:
        values: Array = file.get_tensor("logps")
    return values


def _decoded(tokenizer: Tokenizer, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False))


def _pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """The text of each token: what it adds to those before it. A token that only begins a character is shown as `�`."""
    pieces: list[str] = []
    before = ""
    for stop in range(1, len(ids) + 1):
        text = _decoded(tokenizer, ids[:stop])
        known = before.rstrip("�")
        pieces.append(text[len(known) :] if text.startswith(known) else _decoded(tokenizer, ids[stop - 1 : stop]))
        before = text
    return pieces
