"""What training did to the likelihood of the data it saw: every completion token under the policy against the same token
under the reference.

A collapse shows here first: likelihood that falls on preferred completions too, or a few tokens that fell by tens of nats.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bnf.data.groups import DEV, read_groups
from bnf.data.packing import Row, pack
from bnf.progress import Progress
from bnf.reference.cache import cache_reference, read_reference
from bnf.training.losses import RowReference

SHIFTS_FILE = "shifts.json"

_QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
# Nats; outer bins are open.
_EDGES = (-10.0, -5.0, -3.0, -2.0, -1.0, -0.5, -0.2, -0.1, 0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0)
_NUM_LARGEST = 20
_CONTEXT_TOKENS = 8


def analyze(
    policy_dir: Path,
    groups_dir: Path,
    reference_dir: Path,
    output_dir: Path,
    *,
    max_tokens_per_row: int,
    bf16: bool,
    progress: Progress,
    max_groups_per_row: int | None = None,
    share_prompts: bool = True,
) -> dict[str, Any]:
    """Scores all groups under the policy, resuming what is there, and compares with the cached reference; returns what
    shifts.json holds.

    Per label: mean log-probability per token and summed, over completions, under both models; quantiles and a histogram of
    the per-token shifts in nats; quantiles of the log-odds shifts (how far the label's logit moved against all others); the
    policy's entropy in nats; the tokens that rose and fell most. The same of the data set's dev groups, where it has some,
    under `dev`: likelihood that moved on prompts that were not trained on.

    Raises:
        ValueError: where the reference was made for other groups or settings.
    """
    cache_dir = output_dir / "policy_logps"
    cache_reference(
        policy_dir,
        groups_dir,
        cache_dir,
        max_tokens_per_row=max_tokens_per_row,
        bf16=bf16,
        progress=progress,
        max_groups_per_row=max_groups_per_row,
        share_prompts=share_prompts,
        entropies=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(policy_dir, local_files_only=True, trust_remote_code=False)

    def compared(part: str) -> dict[str, Any]:
        groups = read_groups(groups_dir / part)
        rows = pack(groups, max_tokens_per_row, max_groups_per_row=max_groups_per_row, share_prompts=share_prompts)
        policies, references = (
            read_reference(folder / part, rows, max_tokens_per_row=max_tokens_per_row, bf16=bf16)
            for folder in (cache_dir, reference_dir)
        )
        by_label = {
            name: _compare(rows, policies, references, sign, tokenizer)
            for name, sign in (("preferred", 1), ("dispreferred", -1))
        }
        return {"groups": sum(len(row.groups) for row in rows), **by_label}

    shifts = compared("")
    if (groups_dir / DEV).is_dir():
        shifts[DEV] = compared(DEV)
    output_dir.mkdir(parents=True, exist_ok=True)
    partial = output_dir / (SHIFTS_FILE + ".partial")
    partial.write_text(json.dumps(shifts, indent=1, ensure_ascii=False) + "\n")
    os.replace(partial, output_dir / SHIFTS_FILE)
    return shifts


def _compare(
    rows: Sequence[Row],
    policies: Sequence[RowReference],
    references: Sequence[RowReference],
    sign: int,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    """All completions of one label."""
    of_tokens = [row.labels[row.completion_of_token] == sign for row in rows]
    policy = torch.cat([values.logps[own] for values, own in zip(policies, of_tokens, strict=True)])
    if not len(policy):
        return {"completions": 0, "tokens": 0}
    reference = torch.cat([values.logps[own] for values, own in zip(references, of_tokens, strict=True)])
    odds_shift = torch.cat(
        [(ours.log_odds - theirs.log_odds)[own] for ours, theirs, own in zip(policies, references, of_tokens, strict=True)]
    )
    entropies = [values.entropies[own] for values, own in zip(policies, of_tokens, strict=True) if values.entropies is not None]
    models = {"reference": references, "policy": policies}
    shift = policy - reference
    bins = torch.bucketize(shift, torch.tensor(_EDGES))
    return {
        "completions": sum(int((row.labels == sign).sum()) for row in rows),
        "tokens": len(policy),
        "logps_per_token": {name: _mean_logp(rows, values, sign, per_token=True) for name, values in models.items()},
        "logps_sum": {name: _mean_logp(rows, values, sign, per_token=False) for name, values in models.items()},
        "shift_quantiles": _quantiles(shift),
        "log_odds_shift_quantiles": _quantiles(odds_shift),
        "share_of_tokens_down": float((shift < 0).double().mean()),
        "shift_histogram": {"edges": list(_EDGES), "counts": bins.bincount(minlength=len(_EDGES) + 1).tolist()},
        "policy_entropy": float(torch.cat(entropies).double().mean()),
        "largest_rises": _largest(rows, policies, references, of_tokens, shift, tokenizer, descending=True),
        "largest_falls": _largest(rows, policies, references, of_tokens, shift, tokenizer, descending=False),
    }


def _mean_logp(rows: Sequence[Row], values: Sequence[RowReference], sign: int, *, per_token: bool) -> float:
    """Mean over completions of their log-probability, per token or summed."""
    means = []
    for row, value in zip(rows, values, strict=True):
        sums = torch.zeros(len(row.lengths), dtype=torch.float64).index_add(0, row.completion_of_token, value.logps.double())
        means.append((sums / row.lengths if per_token else sums)[row.labels == sign])
    return float(torch.cat(means).mean())


def _quantiles(values: Tensor) -> dict[str, float]:
    ordered = values.double().sort().values
    places = [round(quantile * (len(ordered) - 1)) for quantile in _QUANTILES]
    return {f"{quantile:g}": float(ordered[place]) for quantile, place in zip(_QUANTILES, places, strict=True)}


def _largest(
    rows: Sequence[Row],
    policies: Sequence[RowReference],
    references: Sequence[RowReference],
    of_tokens: Sequence[Tensor],
    shift: Tensor,
    tokenizer: PreTrainedTokenizerBase,
    *,
    descending: bool,
) -> list[dict[str, Any]]:
    """The tokens that moved most, with what stands before them."""
    row_of = torch.cat([torch.full((int(own.sum()),), number) for number, own in enumerate(of_tokens)])
    place_of = torch.cat([own.nonzero()[:, 0] for own in of_tokens])
    order = shift.argsort(descending=descending, stable=True)[:_NUM_LARGEST].tolist()
    largest = []
    for index in order:
        number, place = int(row_of[index]), int(place_of[index])
        row = rows[number]
        completion = int(row.completion_of_token[place])
        position = place - int(row.lengths[:completion].sum())
        group_number = int(row.group_of_completion[completion])
        group = row.groups[group_number]
        within_group = completion - int((row.group_of_completion < group_number).sum())
        before = (*group.prompt_ids, *group.completions[within_group].token_ids[:position])[-_CONTEXT_TOKENS:]
        largest.append(
            {
                "group": group.id,
                "completion": within_group,
                "position": position,
                "context": tokenizer.decode(list(before)),
                "token": tokenizer.decode([int(row.targets[place])]),
                "reference_logp": float(references[number].logps[place]),
                "policy_logp": float(policies[number].logps[place]),
            }
        )
    return largest
