"""The reference's log-probabilities and log-odds of every completion token, computed once and cached in shards.

The pass runs the rows and head chunks that training runs, in the same numerics, so that policy and reference are equal to the
bit before the first step. A shard is written whole and then renamed; a killed pass resumes at the first missing shard. The
cache depends on the reference's weights, the token ids, the rows and the dtype, and on nothing else: no optimizer setting,
seed or label makes it stale. For an objective that needs mismatched completions, the same pass and shards hold their values
too.
"""

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bnf.data.groups import DEV, read_groups
from bnf.data.longest import check_longest
from bnf.data.packing import Row, pack, rows_digest
from bnf.files import open_to_readers
from bnf.model.allocator import keep_freed_memory
from bnf.model.attention import ATTENTION
from bnf.model.digests import model_digest
from bnf.model.loading import load_model, numerics
from bnf.model.logps import logits_budget, row_logps
from bnf.progress import Progress
from bnf.reference.kl_pairs import mismatched_rows
from bnf.training.losses import MismatchedReference, RowReference

INDEX_FILE = "index.json"
NUMERICS_FILE = "numerics.json"

# Tokens in a shard: what a killed pass loses at most.
_SHARD_TOKENS = 32_768


def cache_reference(
    model_dir: Path,
    groups_dir: Path,
    output_dir: Path,
    *,
    max_tokens_per_row: int,
    bf16: bool,
    progress: Progress,
    max_groups_per_row: int | None = None,
    share_prompts: bool = True,
    entropies: bool = False,
    mismatched: bool = False,
) -> dict[str, Any]:
    """Writes the reference's per-token values of all groups into `output_dir`, resuming what is there; returns the index.

    `progress` counts tokens; `entropies` stores the model's entropy at every position as well, `mismatched` the values of the
    rows' mismatched completions. Those of the data set's dev groups, where it has some, go into the subfolder `dev`. The index
    is written last: where it exists the cache is complete.

    Raises:
        ValueError: where a group is longer than a row, the model is not supported, or one prompt leaves nothing to mismatch.
    """
    groups = read_groups(groups_dir)
    check_longest(groups_dir, max_tokens_per_row=max_tokens_per_row, share_prompts=share_prompts)
    if (groups_dir / DEV).is_dir():
        # First, so that the index of all is written last.
        cache_reference(
            model_dir,
            groups_dir / DEV,
            output_dir / DEV,
            max_tokens_per_row=max_tokens_per_row,
            max_groups_per_row=max_groups_per_row,
            bf16=bf16,
            progress=lambda done, total, note: progress(done, total, f"dev: {note}"),
            share_prompts=share_prompts,
            entropies=entropies,
            mismatched=mismatched,
        )
    rows = pack(groups, max_tokens_per_row, max_groups_per_row=max_groups_per_row, share_prompts=share_prompts)
    others = mismatched_rows(rows) if mismatched else None
    identity = {
        "rows": rows_digest(rows),
        "model": model_digest(model_dir),
        "max_tokens_per_row": max_tokens_per_row,
        "share_prompts": share_prompts,
        "bf16": bf16,
        **_device_identity(),
        "entropies": entropies,
        "mismatched": None if others is None else rows_digest(others),
    }
    key = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    output_dir.mkdir(parents=True, exist_ok=True)
    index_file = output_dir / INDEX_FILE
    if index_file.is_file():
        index: dict[str, Any] = json.loads(index_file.read_text())
        if index["key"] == key:
            return index
        index_file.unlink()

    bounds = _shard_bounds(rows)
    for stale in set(output_dir.glob("reference-*")) - {output_dir / _shard_name(number) for number in range(len(bounds))}:
        stale.unlink()
    tokens_of_row = [row.num_tokens + (0 if others is None else others[place].num_tokens) for place, row in enumerate(rows)]
    num_tokens = sum(tokens_of_row)
    model = None
    done = 0
    for number, (first, last) in enumerate(bounds):
        path = output_dir / _shard_name(number)
        if _shard_key(path) != key:
            if model is None:
                keep_freed_memory()
                model = load_model(model_dir).eval()
            values: dict[str, list[torch.Tensor]] = defaultdict(list)
            for place in range(first, last):
                with torch.no_grad():
                    token_logps = row_logps(model, rows[place], bf16=bf16, entropies=entropies)
                    if others is not None:
                        values["mismatched_logps"].append(row_logps(model, others[place], bf16=bf16).logps.float().cpu())
                values["logps"].append(token_logps.logps.float().cpu())
                values["log_odds"].append(token_logps.log_odds.float().cpu())
                if entropies:
                    values["entropies"].append(token_logps.entropies.float().cpu())
                done += tokens_of_row[place]
                progress(done, num_tokens, "tokens")
            partial = path.with_name(path.name + ".partial")
            save_file({name: torch.cat(parts) for name, parts in values.items()}, partial, metadata={"key": key})
            open_to_readers(partial)
            os.replace(partial, path)
        else:
            done += sum(tokens_of_row[first:last])
            progress(done, num_tokens, "tokens, some cached")

    index = {
        "key": key,
        **identity,
        "num_rows": len(rows),
        "num_tokens": num_tokens,
        "num_completion_tokens": sum(row.num_completion_tokens for row in rows),
        "shards": [{"file": _shard_name(number), "rows": list(bound)} for number, bound in enumerate(bounds)],
    }
    # Not part of key or index: another machine's cache is worth trying, and the first step of training says whether it fits.
    (output_dir / NUMERICS_FILE).write_text(json.dumps(numerics(), indent=1) + "\n")
    partial = output_dir / (INDEX_FILE + ".partial")
    partial.write_text(json.dumps(index, indent=1) + "\n")
    os.replace(partial, index_file)
    return index


def read_reference(
    reference_dir: Path,
    rows: Sequence[Row],
    *,
    max_tokens_per_row: int,
    bf16: bool,
    mismatched: Sequence[Row] | None = None,
) -> list[RowReference]:
    """The cached values of each row; those of its mismatched completions too where the mismatched rows are given.

    Raises:
        FileNotFoundError: where the cache is not complete.
        ValueError: where it was made for other rows, another row length or another dtype, or without mismatched completions.
    """
    index = _read_index(reference_dir)
    for name, wanted in (
        ("max_tokens_per_row", max_tokens_per_row),
        ("share_prompts", rows[0].share_prompts),
        ("bf16", bf16),
        ("rows", rows_digest(rows)),
    ):
        if index[name] != wanted:
            what = "the reference was made from other groups" if name == "rows" else "reference and training must share it"
            raise ValueError(
                f"reference_dir's {name} must be {wanted!r}, got {index[name]!r}: {what}; run the reference stage again"
            )
    if mismatched is not None and index["mismatched"] != rows_digest(mismatched):
        raise ValueError(
            f"reference_dir's mismatched must be {rows_digest(mismatched)!r}, got {index['mismatched']!r}: it holds no values of "
            "these rows' mismatched completions, which the objective needs; run the reference stage again for this objective"
        )
    references: list[RowReference] = []
    for shard in index["shards"]:
        own = slice(*shard["rows"])
        parts: dict[str, Sequence[Any]] = {}
        with safe_open(reference_dir / shard["file"], framework="pt") as file:
            stored = set(file.keys())
            for name in ("logps", "log_odds", "entropies"):
                if name in stored:
                    parts[name] = file.get_tensor(name).split([row.num_completion_tokens for row in rows[own]])
            if mismatched is not None:
                others = mismatched[own]
                logps = file.get_tensor("mismatched_logps").split([row.num_completion_tokens for row in others])
                parts["mismatched"] = [MismatchedReference(*values) for values in zip(others, logps, strict=True)]
        references.extend(RowReference(**dict(zip(parts, values, strict=True))) for values in zip(*parts.values(), strict=True))
    return references


def made_elsewhere(reference_dir: Path) -> str | None:
    """What of the cache another kind of device did otherwise than this one would, in words: its values are near, and not equal to
    the bit. None where nothing is known to differ.

    Raises:
        FileNotFoundError: where the cache is not complete.
    """
    index = _read_index(reference_dir)
    different = [f"{name} {index[name]}, here {own}" for name, own in _device_identity().items() if index[name] != own]
    return ", ".join(different) or None


def _device_identity() -> dict[str, Any]:
    """What of a pass depends on the kind of device: in how many parts the head is computed, and by which attention."""
    return {"head_logits": logits_budget(), "attention": ATTENTION}


def _read_index(reference_dir: Path) -> dict[str, Any]:
    index_file = reference_dir / INDEX_FILE
    if not index_file.is_file():
        raise FileNotFoundError(
            f"reference_dir must hold {INDEX_FILE}, got {reference_dir} without it; run the reference stage"
        )
    index: dict[str, Any] = json.loads(index_file.read_text())
    return index


def reference_numerics(reference_dir: Path) -> dict[str, Any]:
    """What the cache was computed with (`bnf.model.loading.numerics`); empty where it doesn't say."""
    file = reference_dir / NUMERICS_FILE
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return found


def _shard_name(number: int) -> str:
    return f"reference-{number:05d}.safetensors"


def _shard_key(path: Path) -> str | None:
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("key")


def _shard_bounds(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """(first row, one past the last) of each shard."""
    starts, tokens = [0], 0
    for number, row in enumerate(rows):
        if tokens and tokens + row.num_tokens > _SHARD_TOKENS:
            starts.append(number)
            tokens = 0
        tokens += row.num_tokens
    return list(pairwise([*starts, len(rows)]))
