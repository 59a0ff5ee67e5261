"""The didactic problem of arXiv 2404.14367 (section 4): a policy over 100 tokens, rewards that are highest at one of them.

The objectives' own files are trained on rows of one-token completions, whose log-probabilities are those of a softmax over 100 free
logits. On-policy every step has samples of the policy as it is; off-policy all of them are the reference's, as many. Whether a seed is
computed alone or beside others changes nothing: each has its own logits and its own random numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from bnf.objectives import RowLogps, load_objective
from bnf.training.losses import Totals, total_loss

NUM_TOKENS = 100
# The reference's tokens lie around this one, so far apart.
_MODE, _SPREAD = 25.0, 12.0
# A reward falls to 1/e of the best one over so many tokens.
_WIDTH = 15.0
# The best token: one that the reference gives often, or one that it hardly gives.
PEAKS: Mapping[str, int] = {"likely": 35, "rare": 50}
NUM_PROMPTS, NUM_SAMPLES = 4, 8
_LEARNING_RATE = 0.05


@dataclass(frozen=True)
class Method:
    """An objective with its options, and the weights of preferred and dispreferred completions."""

    objective: str
    options: Mapping[str, object] = field(default_factory=dict)
    weights: tuple[float, float] = (1.0, 1.0)


# Maximum likelihood on samples that rewards choose or weigh: no sample's probability is pushed down.
LIKELIHOOD: Mapping[str, Method] = {
    "preferred FT": Method("sft"),
    "best of 8": Method("best_of_n", {"n": 8, "m": 1}),
    "RWR": Method("rwr", {"temperature": 0.1, "baseline": "prompt_mean"}),
    "BNF without negatives": Method("bnf", weights=(1.0, 0.0)),
    "REINFORCE without negatives": Method("reinforce", {"negative_gradient": False}),
}
NEGATIVE: Mapping[str, Method] = {
    "BNF": Method("bnf"),
    "TOPR": Method("topr"),
    "DPO": Method("dpo"),
    "IPO": Method("ipo"),
    "REINFORCE": Method("reinforce"),
    "PPO": Method("ppo"),
    "GRPO": Method("grpo"),
}
METHODS: Mapping[str, Method] = {**LIKELIHOOD, **NEGATIVE}


@dataclass(frozen=True)
class Curves:
    """What became of the policies before and after each step: (steps + 1, seeds) each.

    Attributes:
        reward: the policy's mean reward, the best token's being 1.
        mass: the probability of the best token and the two on either side of it.
        kl: from the policy to the reference, in nats; `reverse_kl` from the reference to the policy.
    """

    reward: Tensor
    mass: Tensor
    kl: Tensor
    reverse_kl: Tensor


Sampler = Literal["off-policy", "on-policy"]
SAMPLERS: tuple[Sampler, ...] = ("off-policy", "on-policy")


def simulate(method: Method, peak: int, sampler: Sampler, seeds: Sequence[int], num_steps: int) -> Curves:
    """Trains a policy for each seed, all from the reference."""
    objective = load_objective(method.objective, method.options)
    reference = reference_logps().expand(len(seeds), -1)
    rewards = rewards_of(peak)
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=_LEARNING_RATE)
    size = num_steps, NUM_PROMPTS * NUM_SAMPLES
    draws = torch.stack(
        [torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds], dim=1
    )
    states = [logits.detach().log_softmax(-1)]
    for step in range(num_steps):
        old = states[-1] if sampler == "on-policy" else reference
        shares = old.exp().cumsum(-1)
        tokens = torch.searchsorted(shares, draws[step] * shares[:, -1:], right=True).clamp(max=NUM_TOKENS - 1)
        row = _row(logits.log_softmax(-1), old, reference, tokens, rewards)
        # Each seed's loss is divided by its own numbers.
        totals = Totals(size[1], NUM_PROMPTS)
        optimizer.zero_grad()
        total_loss(objective.losses(row), row, totals, method.weights).backward()
        optimizer.step()
        states.append(logits.detach().log_softmax(-1))
    logps = torch.stack(states)  # (steps + 1, seeds, tokens)
    return Curves(
        reward=logps.exp() @ rewards,
        mass=logps.exp()[:, :, peak - 2 : peak + 3].sum(-1),
        kl=(logps.exp() * (logps - reference)).sum(-1),
        reverse_kl=(reference.exp() * (reference - logps)).sum(-1),
    )


def reference_logps() -> Tensor:
    """The reference's log-probabilities: a bell around its likeliest token. (tokens,)"""
    places = torch.arange(NUM_TOKENS, dtype=torch.float64)
    return (-((places - _MODE) ** 2) / (2 * _SPREAD**2)).log_softmax(-1)


def rewards_of(peak: int) -> Tensor:
    """1 for the best token, less with every token away from it. (tokens,)"""
    places = torch.arange(NUM_TOKENS, dtype=torch.float64)
    return (-(places - peak).abs() / _WIDTH).exp()


def _row(logps: Tensor, old: Tensor, reference: Tensor, tokens: Tensor, rewards: Tensor) -> RowLogps:
    """The row of all seeds' samples `tokens` (seeds, samples). A prompt's better half is preferred and the other dispreferred; what is as
    good as both halves has the label 0, and no loss. Its best and worst sample are a pair.
    """
    num_seeds, num_samples = tokens.shape
    scores = rewards[tokens].reshape(-1, NUM_SAMPLES)
    ordered, half = scores.sort(1).values, NUM_SAMPLES // 2
    preferred, dispreferred = scores >= ordered[:, half, None], scores <= ordered[:, half - 1, None]
    first = torch.arange(len(scores)) * NUM_SAMPLES
    own, of_old, of_reference = (values.gather(1, tokens).flatten() for values in (logps, old, reference))
    number = num_seeds * num_samples
    ones = torch.ones(number, dtype=torch.float64)
    return RowLogps(
        per_token_logps=own,
        per_token_log_odds=_log_odds(own.detach()),
        reference_per_token_logps=of_reference,
        reference_per_token_log_odds=_log_odds(of_reference),
        completion_of_token=torch.arange(number),
        lengths=ones,
        normalizers=ones,
        labels=(preferred.double() - dispreferred.double()).flatten(),
        scores=scores.flatten(),
        group_of_completion=torch.arange(len(scores)).repeat_interleave(NUM_SAMPLES),
        pairs=torch.stack([first + scores.argmax(1), first + scores.argmin(1)], dim=1),
        old_per_token_logps=of_old,
    )


def _log_odds(logps: Tensor) -> Tensor:
    return logps - torch.log(-torch.expm1(logps))
