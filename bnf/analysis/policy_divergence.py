"""How far a policy is from the reference on completions that the policy itself sampled: entropy and KL, from both models' passes.

KL(policy ‖ reference) is estimated token by token as in `bnf.training.dev`, and is that of the distribution the completions came from where
they were sampled at temperature 1 and with all of the vocabulary; at another temperature it is the divergence where the policy goes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bnf.data.groups import PromptGroup
from bnf.data.packing import pack
from bnf.model.allocator import keep_freed_memory
from bnf.model.loading import load_model
from bnf.model.logps import row_logps
from bnf.training.dev import kl


def divergence(
    groups: Sequence[PromptGroup],
    policy_dir: Path,
    reference_dir: Path,
    *,
    max_tokens_per_row: int,
    bf16: bool,
    share_prompts: bool = True,
    progress: Callable[[int, int, str], None],
) -> dict[str, float]:
    """`entropy` per token of the policy, `kl_per_token`, and `kl` per completion, in nats. Only one model is in memory at a time.

    Raises:
        ValueError: where a group is longer than a row, or a model is not supported.
    """
    rows = pack(groups, max_tokens_per_row, share_prompts=share_prompts)
    num_passes = 1 if policy_dir == reference_dir else 2

    def values(model_dir: Path, first: int, *, entropies: bool) -> tuple[torch.Tensor, torch.Tensor]:
        keep_freed_memory()
        model = load_model(model_dir).eval()
        logps, entropy = [], []
        for place, row in enumerate(rows):
            with torch.no_grad():
                found = row_logps(model, row, bf16=bf16, entropies=entropies)
            logps.append(found.logps.double().cpu())
            entropy.append(found.entropies.double().cpu() if entropies else torch.zeros(0))
            progress(first + place + 1, num_passes * len(rows), "rows")
        return torch.cat(logps), torch.cat(entropy)

    own, entropy = values(policy_dir, 0, entropies=True)
    num_completions = sum(len(group.completions) for group in groups)
    total = 0.0
    if num_passes == 2:
        theirs, _ = values(reference_dir, len(rows), entropies=False)
        total = kl(own, theirs)
    return {
        "entropy": float(entropy.mean()),
        "kl": total / num_completions,
        "kl_per_token": total / len(own),
    }
