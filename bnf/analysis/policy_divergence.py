"""How far a policy is from the reference on completions that the policy itself sampled: entropy and KL, from a pass of each model.

The estimate of KL(policy ‖ reference) is `bnf.reference.divergence`'s. It is that of the distribution which the completions came from if
they were sampled at temperature 1 from the whole vocabulary. At another temperature it is the divergence on the texts that the policy
then writes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bnf.data.groups import PromptGroup
from bnf.data.packing import pack
from bnf.model.allocator import keep_freed_memory
from bnf.model.kernels import implementation
from bnf.model.loading import Weights, load_model
from bnf.model.logps import row_logps
from bnf.progress import Progress
from bnf.reference.divergence import sampled_kl


@dataclass(frozen=True)
class PolicyDivergence:
    """In nats: the policy's entropy per token, and its KL to the reference per completion and per token."""

    entropy: float
    kl: float
    kl_per_token: float

    def to_json(self) -> dict[str, float]:
        """The fields as divergence.json holds them."""
        return asdict(self)


def policy_divergence(
    groups: Sequence[PromptGroup],
    policy_dir: Path,
    reference_dir: Path,
    *,
    max_tokens_per_row: int,
    bf16: bool,
    attention: str = "auto",
    share_prompts: bool = True,
    weights: Weights = "fp32",
    progress: Progress,
) -> PolicyDivergence:
    """The divergence of one model from another (both model folders) on these completions. One model is in memory at a time.

    Raises:
        ValueError: a group is longer than a row, or a model is not supported.
    """
    rows = pack(groups, max_tokens_per_row, share_prompts=share_prompts)
    num_passes = 1 if policy_dir == reference_dir else 2

    def values(model_dir: Path, first: int, *, entropies: bool) -> tuple[torch.Tensor, torch.Tensor]:
        keep_freed_memory()
        attends = implementation(model_dir, attention, bf16=bf16)
        model = load_model(model_dir, weights=weights, attention=attends).eval()
        logps, entropy = [], []
        for place, row in enumerate(rows):
            with torch.no_grad():
                found = row_logps(model, row, bf16=bf16, entropies=entropies)
            logps.append(found.logps.double().cpu())
            entropy.append(torch.zeros(0) if found.entropies is None else found.entropies.double().cpu())
            progress(first + place + 1, num_passes * len(rows), "rows")
        return torch.cat(logps), torch.cat(entropy)

    own, entropy = values(policy_dir, 0, entropies=True)
    num_completions = sum(len(group.completions) for group in groups)
    total = 0.0
    if num_passes == 2:
        theirs, _ = values(reference_dir, len(rows), entropies=False)
        total = sampled_kl(own, theirs)
    return PolicyDivergence(float(entropy.mean()), total / num_completions, total / len(own))
