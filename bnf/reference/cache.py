"""The reference's log-probabilities and log-odds of every completion token: computed once, cached in shards.

The pass runs the rows and head chunks that training runs, with the same numerics. So policy and reference are equal to the bit before
the first step. A shard is written whole and then renamed; a killed pass resumes at the first missing shard. The cache depends on the
reference's weights, the token ids, the rows, the dtype and the kind of device. No optimizer setting, seed or label makes it stale.
Where the objective needs KL pairs, the same pass and the same shards hold their values too. So they hold the CHES scores of the data's
pairs where they are asked for; then other pairs make the cache stale.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bnf.data.groups import DEV, read_groups
from bnf.data.longest import check_longest
from bnf.data.packing import Row, rows_digest
from bnf.files import open_to_readers, read_note, replacing, write_json
from bnf.model.loading import Weights
from bnf.parallel.group import is_first, of_first, wait_for_all
from bnf.parallel.placement import Placement
from bnf.progress import Progress
from bnf.reference.ches import CHES, CHES_FILE, MEAN_CHES, write_scores
from bnf.reference.computing import Computing, Pass, PassRows, Processes, Values
from bnf.reference.index import (
    INDEX_FILE,
    NUMERICS_FILE,
    ReferenceIndex,
    Shard,
    read_index,
    reference_numerics,
)
from bnf.reference.on_ray import RayPass
from bnf.reference.values import KlPairReference, RowReference

# Tokens in a shard: what a killed pass loses at most.
_SHARD_TOKENS = 32_768
_HERE = Placement()


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
    weights: Weights = "fp32",
    load_in_4bit: bool = False,
    attention: str = "auto",
    entropies: bool = False,
    kl_pairs: bool = False,
    temperature: float = 1.0,
    ches: bool = False,
    placement: Placement = _HERE,
    ray: str | None = None,
) -> ReferenceIndex:
    """Writes the reference's per-token values of all groups into `output_dir`, and returns the index. It keeps finished shards.

    `progress` counts tokens. `weights` and `load_in_4bit` are `load_model`'s, `attention` is `train.attention`; the index says which
    kernels served. `entropies` also stores the model's entropy at every position, `kl_pairs` the values of the rows' KL pairs, and `ches`
    the pairs' CHES scores, by pair in ches.jsonl. If the data set has dev groups, their values go into the subfolder `dev`. All values are
    of the logits divided by `temperature`. The index is written last: where it exists, the cache is complete. Where several processes call
    it, they share the rows, and where `placement` says so the model. With `ray`, an address
    (`bnf.parallel.ray_workers`), one process calls it, and workers there compute whole shards.

    Raises:
        ValueError: a group is longer than a row, the model is not supported, there is one prompt alone and so no KL pair, or Ray or its
            workers are not as the pass needs them.
    """
    # Dev groups come first, so that the index of all is written last.
    parts = [DEV, ""] if (groups_dir / DEV).is_dir() else [""]
    groups = {part: read_groups(groups_dir / part) for part in parts}
    check_longest(groups_dir, max_tokens_per_row=max_tokens_per_row, share_prompts=share_prompts)
    pass_ = Pass(
        model_dir,
        groups_dir,
        max_tokens_per_row=max_tokens_per_row,
        max_groups_per_row=max_groups_per_row,
        share_prompts=share_prompts,
        bf16=bf16,
        weights=weights,
        load_in_4bit=load_in_4bit,
        attention=attention,
        entropies=entropies,
        kl_pairs=kl_pairs,
        ches=ches,
        temperature=temperature,
    )
    rows = {part: pass_.rows(groups[part]) for part in parts}

    def of_dev(done: int, total: int, note: str) -> None:
        progress(done, total, f"dev: {note}")

    with closing(_computing(pass_, rows, placement, ray)) as computing:
        for part in parts:
            folder, told = output_dir / part, of_dev if part == DEV else progress
            index = _cache_part(pass_, part, rows[part], folder, computing, told)
    return index


def _computing(pass_: Pass, rows: Mapping[str, PassRows], placement: Placement, ray: str | None) -> Computing:
    if ray is None:
        return Processes(pass_, placement)
    return RayPass(pass_, ray, most=max(len(_shard_bounds(of_part.rows)) for of_part in rows.values()))


def _cache_part(
    pass_: Pass, part: str, rows: PassRows, output_dir: Path, computing: Computing, progress: Progress
) -> ReferenceIndex:
    """Writes the shards that are missing, and the index."""
    identity = pass_.identity(rows, computing.device)
    key, tokens_of_row = identity.key, rows.num_tokens
    bounds = _shard_bounds(rows.rows)
    shards = [Shard(f"reference-{number:05d}.safetensors", bound) for number, bound in enumerate(bounds)]
    missing = of_first(lambda: _missing(output_dir, shards, key))
    if missing is None:
        return read_index(output_dir)

    num_tokens = sum(tokens_of_row)
    done = num_tokens - sum(sum(tokens_of_row[slice(*shard.rows)]) for shard in missing)
    if done:
        progress(done, num_tokens, "tokens, some cached")
    _compute_alike(output_dir, computing, goes_on=len(missing) < len(shards))

    def took(places: Sequence[int]) -> None:
        nonlocal done
        done += sum(tokens_of_row[place] for place in places)
        progress(done, num_tokens, "tokens")

    for shard, values in computing.shards(part, rows, missing, took):
        if is_first():
            _write_shard(output_dir / shard.file, values, key)

    num_completion_tokens = sum(row.num_completion_tokens for row in rows.rows)
    index = ReferenceIndex(key, identity, len(rows.rows), num_tokens, num_completion_tokens, tuple(shards))
    if is_first():
        if identity.ches is not None:
            write_scores(output_dir / CHES_FILE, rows.rows, _scores(output_dir, shards))
        write_json(output_dir / INDEX_FILE, index.to_json(), indent=1, durable=True)
    wait_for_all()
    return index


def read_reference(
    reference_dir: Path,
    rows: Sequence[Row],
    *,
    max_tokens_per_row: int,
    bf16: bool,
    weights: Weights = "fp32",
    load_in_4bit: bool = False,
    kl_pairs: Sequence[Row] | None = None,
) -> list[RowReference]:
    """The cached values of each row, and of its KL pairs where `kl_pairs` gives their rows.

    Raises:
        FileNotFoundError: the cache is not complete.
        ValueError: it was made for other rows, another row length or another dtype, of weights held otherwise, or without the KL pairs,
            or a shard is not whole.
    """
    index = read_index(reference_dir)
    made = index.identity
    for name, found, wanted in (
        ("max_tokens_per_row", made.max_tokens_per_row, max_tokens_per_row),
        ("share_prompts", made.share_prompts, rows[0].share_prompts),
        ("bf16", made.bf16, bf16),
        ("weights", made.weights, weights),
        ("load_in_4bit", made.load_in_4bit, load_in_4bit),
        ("rows", made.rows, rows_digest(rows)),
    ):
        if found != wanted:
            what = "the reference was made from other groups" if name == "rows" else "reference and training must share it"
            raise ValueError(f"reference_dir's {name} must be {wanted!r}, got {found!r}: {what}; run the reference stage again")
    if kl_pairs is not None and made.mismatched != rows_digest(kl_pairs):
        raise ValueError(
            f"reference_dir's mismatched must be {rows_digest(kl_pairs)!r}, got {made.mismatched!r}: it holds no values of "
            "these rows' KL pairs, which the objective needs; run the reference stage again for this objective"
        )
    references: list[RowReference] = []
    for shard in index.shards:
        own = slice(*shard.rows)
        try:
            references.extend(_read_shard(reference_dir / shard.file, rows[own], None if kl_pairs is None else kl_pairs[own]))
        except (FileNotFoundError, SafetensorError) as error:
            raise ValueError(
                f"reference_dir must hold whole shards, got {reference_dir / shard.file} ({error}); delete {INDEX_FILE} beside it, and "
                "run the reference stage again"
            ) from error
    return references


def _missing(output_dir: Path, shards: Sequence[Shard], key: str) -> list[Shard] | None:
    """The shards that are not there yet, where the cache isn't complete; None where it is. Removes those of another cache."""
    output_dir.mkdir(parents=True, exist_ok=True)
    index_file = output_dir / INDEX_FILE
    if index_file.is_file():
        if (read_note(index_file) or {}).get("key") == key:
            return None
        index_file.unlink()
    for stale in set(output_dir.glob("reference-*")) - {output_dir / shard.file for shard in shards}:
        stale.unlink()
    return [shard for shard in shards if _shard_key(output_dir / shard.file) != key]


def _compute_alike(output_dir: Path, computing: Computing, *, goes_on: bool) -> None:
    """Notes what the pass computes with. A pass that goes on takes as many threads as it began with: their number changes bits.

    It is neither in the key nor in the index: another machine's cache is worth trying, and training's first step says whether it fits.
    """
    began_with = of_first(lambda: reference_numerics(output_dir)) if goes_on else None
    if began_with is not None and began_with.num_threads and not torch.cuda.is_available():
        computing.take_threads(began_with.num_threads)
    elif is_first():
        write_json(output_dir / NUMERICS_FILE, computing.numerics.to_json(), indent=1, durable=True)


def _write_shard(path: Path, of_rows: Sequence[Values], key: str) -> None:
    # A shard is known by its header alone: whatever has one under this name must be whole.
    with replacing(path, durable=True) as partial:
        values = {name: torch.cat([of_row[name] for of_row in of_rows]) for name in of_rows[0]}
        save_file(values, partial, metadata={"key": key})
        open_to_readers(partial)


def _read_shard(path: Path, rows: Sequence[Row], kl_pairs: Sequence[Row] | None) -> Iterator[RowReference]:
    """The values of a shard's rows."""

    def split(name: str, of: Sequence[Row]) -> Sequence[Tensor]:
        parts: Sequence[Tensor] = file.get_tensor(name).split([row.num_completion_tokens for row in of])
        return parts

    with safe_open(path, framework="pt") as file:
        logps, log_odds = split("logps", rows), split("log_odds", rows)
        entropies = split("entropies", rows) if "entropies" in file.keys() else None  # noqa: SIM118  (the handle is no mapping)
        pair_logps = None if kl_pairs is None else split("mismatched_logps", kl_pairs)
    for place in range(len(rows)):
        pair = None
        if kl_pairs is not None and pair_logps is not None:
            pair = KlPairReference(kl_pairs[place], pair_logps[place])
        yield RowReference(logps[place], log_odds[place], None if entropies is None else entropies[place], pair)


def _scores(output_dir: Path, shards: Sequence[Shard]) -> Iterator[tuple[float, float]]:
    """The CHES scores of all pairs, in the order of the rows."""
    for shard in shards:
        with safe_open(output_dir / shard.file, framework="pt") as file:
            yield from zip(file.get_tensor(CHES).tolist(), file.get_tensor(MEAN_CHES).tolist(), strict=True)


def _shard_key(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("key")
    except SafetensorError:
        # Left half by a power cut: it is computed again.
        return None


def _shard_bounds(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """(first row, one past the last) of each shard."""
    starts, tokens = [0], 0
    for number, row in enumerate(rows):
        if tokens and tokens + row.num_tokens > _SHARD_TOKENS:
            starts.append(number)
            tokens = 0
        tokens += row.num_tokens
    return list(pairwise([*starts, len(rows)]))
