"""The reference's log-probabilities and log-odds of every completion token, computed once and cached in shards.

The pass runs the rows and head chunks that training runs, in the same numerics, so that policy and reference are equal to the
bit before the first step. A shard is written whole and then renamed; a killed pass resumes at the first missing shard. The
cache depends on the reference's weights, the token ids, the rows and the dtype, and on nothing else: no optimizer setting,
seed or label makes it stale.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bnf.attention import ATTENTION
from bnf.digests import model_digest
from bnf.groups import read_groups
from bnf.logps import CHUNK, row_logps
from bnf.losses import RowReference
from bnf.models import load_model
from bnf.packing import Row, pack, rows_digest

INDEX_FILE = "index.json"

# Tokens in a shard: what a killed pass loses at most.
_SHARD_TOKENS = 32_768

Progress = Callable[[int, int, str], None]


def cache_reference(
    model_dir: Path,
    groups_dir: Path,
    output_dir: Path,
    *,
    max_tokens_per_row: int,
    bf16: bool,
    progress: Progress,
    entropies: bool = False,
) -> dict[str, Any]:
    """Writes the reference's per-token values of all groups into `output_dir`, resuming what is there; returns the index.

    `progress` counts tokens; `entropies` stores the model's entropy at every position as well. The index is written last:
    where it exists the cache is complete.

    Raises:
        ValueError: where a group is longer than a row, or the model is not supported.
    """
    rows = pack(read_groups(groups_dir), max_tokens_per_row)
    identity = {
        "rows": rows_digest(rows),
        "model": model_digest(model_dir),
        "max_tokens_per_row": max_tokens_per_row,
        "bf16": bf16,
        "head_chunk": CHUNK,
        "attention": ATTENTION,
        "entropies": entropies,
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
    num_tokens = sum(row.num_tokens for row in rows)
    model = None
    done = 0
    started = time.monotonic()
    for number, (first, last) in enumerate(bounds):
        path = output_dir / _shard_name(number)
        if _shard_key(path) != key:
            if model is None:
                model = load_model(model_dir).eval()
            values: dict[str, list[torch.Tensor]] = defaultdict(list)
            for row in rows[first:last]:
                with torch.no_grad():
                    token_logps = row_logps(model, row, bf16=bf16, entropies=entropies)
                values["logps"].append(token_logps.logps.float().cpu())
                values["log_odds"].append(token_logps.log_odds.float().cpu())
                if entropies:
                    values["entropies"].append(token_logps.entropies.float().cpu())
                done += row.num_tokens
                progress(done, num_tokens, f"{done} of {num_tokens} tokens")
            partial = path.with_name(path.name + ".partial")
            save_file({name: torch.cat(parts) for name, parts in values.items()}, partial, metadata={"key": key})
            os.replace(partial, path)
        else:
            done += sum(row.num_tokens for row in rows[first:last])
            progress(done, num_tokens, f"{done} of {num_tokens} tokens, some cached")

    index = {
        "key": key,
        **identity,
        "num_rows": len(rows),
        "num_tokens": num_tokens,
        "num_completion_tokens": sum(row.num_completion_tokens for row in rows),
        "shards": [{"file": _shard_name(number), "rows": list(bound)} for number, bound in enumerate(bounds)],
        "seconds": round(time.monotonic() - started, 3),
    }
    partial = output_dir / (INDEX_FILE + ".partial")
    partial.write_text(json.dumps(index, indent=1) + "\n")
    os.replace(partial, index_file)
    return index


def read_reference(reference_dir: Path, rows: Sequence[Row], *, max_tokens_per_row: int, bf16: bool) -> list[RowReference]:
    """The cached values of each row.

    Raises:
        FileNotFoundError: where the cache is not complete.
        ValueError: where it was made for other rows, another row length or another dtype.
    """
    index_file = reference_dir / INDEX_FILE
    if not index_file.is_file():
        raise FileNotFoundError(
            f"reference_dir must hold {INDEX_FILE}, got {reference_dir} without it; run the reference stage"
        )
    index = json.loads(index_file.read_text())
    for name, wanted in (
        ("max_tokens_per_row", max_tokens_per_row),
        ("bf16", bf16),
        ("head_chunk", CHUNK),
        ("attention", ATTENTION),
        ("rows", rows_digest(rows)),
    ):
        if index[name] != wanted:
            what = "the reference was made from other groups" if name == "rows" else "reference and training must share it"
            raise ValueError(
                f"reference_dir's {name} must be {wanted!r}, got {index[name]!r}: {what}; run the reference stage again"
            )
    references: list[RowReference] = []
    for shard in index["shards"]:
        with safe_open(reference_dir / shard["file"], framework="pt") as file:
            sizes = [row.num_completion_tokens for row in rows[shard["rows"][0] : shard["rows"][1]]]
            names = [name for name in ("logps", "log_odds", "entropies") if name in file.keys()]  # noqa: SIM118
            parts = [file.get_tensor(name).split(sizes) for name in names]
        references.extend(RowReference(*values) for values in zip(*parts, strict=True))
    return references


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
