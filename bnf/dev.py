"""The policy's own samples of dev prompts: how far it has moved from the reference where it really goes, and whether it still
ends what it says.

KL(policy ‖ reference) is the mean of `r/p − 1 − log(r/p)` over tokens that the policy itself samples at temperature 1: unbiased,
as the plain log-ratio is, but never negative and with less noise (k3 of http://joschu.net/blog/kl-approx.html). On the data's
completions it would be neither.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from bnf.adapters import transformers_model
from bnf.groups import Completion, PromptGroup
from bnf.logps import row_logps
from bnf.packing import pack

# Prompts that are continued at once.
_BATCH = 16


@dataclass(frozen=True)
class Sample:
    """What the policy said to a prompt; `is_terminated` where it ended by itself."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    is_terminated: bool


def prompts_to_sample(groups: Sequence[PromptGroup], count: int) -> list[tuple[int, ...]]:
    """The first `count` prompts, from the start again where there are fewer."""
    return [groups[index % len(groups)].prompt_ids for index in range(count)]


def stop_tokens(model: PreTrainedModel) -> list[int]:
    """The tokens that end a completion, by the model's generation config or its config.

    Raises:
        ValueError: where neither names one.
    """
    for config in (model.generation_config, model.config):
        found = getattr(config, "eos_token_id", None)
        if found is not None:
            return [found] if isinstance(found, int) else list(found)
    raise ValueError("eos_token_id must be in the model's generation_config.json or config.json, got none; add it there")


def sample(model: Any, prompts: Sequence[tuple[int, ...]], *, max_new_tokens: int, seed: int, bf16: bool) -> list[Sample]:
    """A completion of each prompt at temperature 1, without changing any state of the model or of the random generators."""
    inner = transformers_model(model)
    stops = stop_tokens(inner)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        eos_token_id=stops,
        pad_token_id=stops[0],
    )
    device = inner.device
    samples: list[Sample] = []
    # The same numbers for each of a model's evaluations, and none from those that training draws.
    cuda = [device] if device.type == "cuda" else []
    with _generating(inner), torch.random.fork_rng(cuda), torch.no_grad(), torch.autocast(device.type, torch.bfloat16, bf16):
        torch.manual_seed(seed)
        for first in range(0, len(prompts), _BATCH):
            batch = prompts[first : first + _BATCH]
            longest = max(len(prompt) for prompt in batch)
            ids = torch.tensor([[stops[0]] * (longest - len(prompt)) + list(prompt) for prompt in batch], device=device)
            mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in batch], device=device)
            output = inner.generate(input_ids=ids, attention_mask=mask, generation_config=settings)  # type: ignore[operator]
            for prompt, row in zip(batch, output[:, longest:].tolist(), strict=True):
                end = next((place for place, token in enumerate(row) if token in stops), None)
                tokens = row if end is None else row[: end + 1]
                samples.append(Sample(prompt, tuple(tokens), end is not None))
    return samples


def sample_metrics(samples: Sequence[Sample], policy: Any, reference: Any, *, bf16: bool) -> dict[str, float]:
    """KL to the reference per token and per completion, entropy per token, in nats; mean length; share without an end.

    `reference` is a model, a context manager that gives one, or None where it is the policy itself.
    """
    groups = [
        PromptGroup(f"sample {index}", each.prompt_ids, (Completion(each.token_ids, 1),)) for index, each in enumerate(samples)
    ]
    rows = pack(groups, max(group.num_tokens for group in groups))
    with torch.no_grad():
        own = [row_logps(policy, row, bf16=bf16, entropies=True) for row in rows]
        logps = torch.cat([values.logps for values in own]).double()
        entropy = float(torch.cat([values.entropies for values in own]).double().mean())
        divergence = 0.0
        if reference is not None:
            with reference as model:
                theirs = torch.cat([row_logps(model, row, bf16=bf16).logps for row in rows]).double()
            divergence = kl(logps, theirs)
    return {
        "samples/kl": divergence / len(samples),
        "samples/kl_per_token": divergence / len(logps),
        "samples/entropy": entropy,
        "samples/tokens": len(logps) / len(samples),
        "samples/unterminated": sum(not each.is_terminated for each in samples) / len(samples),
    }


def kl(own: torch.Tensor, theirs: torch.Tensor) -> float:
    """KL(policy ‖ reference), summed over the tokens that the policy sampled, from both models' log-probabilities. (N,), (N,)"""
    return float(((theirs - own).expm1() - (theirs - own)).sum())


@contextmanager
def _generating(model: PreTrainedModel) -> Iterator[None]:
    """Attention over a padded batch, and a generation config of the caller's alone: a model's own may warp its distribution."""
    attention, own = model.config._attn_implementation, model.generation_config
    # The kernels of sdpa know no soft-capping.
    model.set_attn_implementation("eager" if getattr(model.config, "attn_logit_softcapping", None) else "sdpa")
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.set_attn_implementation(attention)
        model.generation_config = own
