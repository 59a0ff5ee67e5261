"""Policies that have few numbers and no language model, trained by the objectives' own files on rows of their samples.

On-policy every step has samples of the policy as it is; off-policy all of them are the reference's, as many. Whether a seed is computed
alone or beside others changes nothing: each has its own numbers and its own random numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from bnf.objectives import RowLogps, load_objective, log_odds_of
from bnf.training.losses import Totals, total_loss

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


class Tokens(NamedTuple):
    """The tokens of completions of several seeds, in the order of the completions; `position` is a token's place in its completion."""

    completion: Tensor  # (N,)
    seed: Tensor  # (N,)
    position: Tensor  # (N,)
    outcome: Tensor  # (N,) the outcome of the token's completion


class Problem(Protocol):
    """A policy over a number of outcomes, each a completion, and what they are worth.

    Attributes:
        start: the reference's numbers. (numbers,)
        rewards: 1 for the best outcome. (outcomes,)
        peak: the best outcome, and those that count as near it.
        lengths: how many tokens an outcome has. (outcomes,)
    """

    start: Tensor
    rewards: Tensor
    peak: slice[int, int]
    lengths: Tensor

    def outcome_logps(self, numbers: Tensor) -> Tensor:
        """(seeds, numbers) → (seeds, outcomes)"""
        ...

    def token_logps(self, numbers: Tensor, tokens: Tokens) -> Tensor:
        """(seeds, numbers) → (N,)"""
        ...


@dataclass(frozen=True)
class Curves:
    """What became of the policies before and after each step: (steps + 1, seeds) each.

    Attributes:
        reward: the policy's mean reward.
        mass: the probability of the best outcome and of those near it.
        kl: from the policy to the reference, in nats; `reverse_kl` from the reference to the policy.
    """

    reward: Tensor
    mass: Tensor
    kl: Tensor
    reverse_kl: Tensor


Sampler = Literal["off-policy", "on-policy"]
SAMPLERS: tuple[Sampler, ...] = ("off-policy", "on-policy")


def simulate(method: Method, problem: Problem, sampler: Sampler, seeds: Sequence[int], num_steps: int) -> Curves:
    """Trains a policy for each seed, all from the reference."""
    objective = load_objective(method.objective, method.options)
    reference = problem.start.expand(len(seeds), -1)
    numbers = reference.clone().requires_grad_()
    optimizer = torch.optim.Adam([numbers], lr=_LEARNING_RATE)
    size = num_steps, NUM_PROMPTS * NUM_SAMPLES
    draws = torch.stack(
        [torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds], dim=1
    )
    of_reference = problem.outcome_logps(reference)
    states = [of_reference]
    for step in range(num_steps):
        old = numbers.detach().clone() if sampler == "on-policy" else reference
        shares = (states[-1] if sampler == "on-policy" else of_reference).exp().cumsum(-1)
        outcomes = torch.searchsorted(shares, draws[step] * shares[:, -1:], right=True).clamp(max=len(problem.rewards) - 1)
        row = _row(problem, numbers, old, reference, outcomes)
        # Each seed's loss is divided by its own numbers.
        totals = Totals(size[1], NUM_PROMPTS)
        optimizer.zero_grad()
        total_loss(objective.losses(row), row, totals, method.weights).backward()
        optimizer.step()
        states.append(problem.outcome_logps(numbers.detach()))
    logps = torch.stack(states)  # (steps + 1, seeds, outcomes)
    return Curves(
        reward=logps.exp() @ problem.rewards,
        mass=logps.exp()[:, :, problem.peak].sum(-1),
        kl=(logps.exp() * (logps - of_reference)).sum(-1),
        reverse_kl=(of_reference.exp() * (of_reference - logps)).sum(-1),
    )


def _row(problem: Problem, numbers: Tensor, old: Tensor, reference: Tensor, outcomes: Tensor) -> RowLogps:
    """The row of all seeds' samples `outcomes` (seeds, samples). A prompt's better half is preferred and the other dispreferred; what is as
    good as both halves has the label 0, and no loss. Its best and worst sample are a pair.
    """
    scores = problem.rewards[outcomes].reshape(-1, NUM_SAMPLES)
    ordered, half = scores.sort(1).values, NUM_SAMPLES // 2
    preferred, dispreferred = scores >= ordered[:, half, None], scores <= ordered[:, half - 1, None]
    first = torch.arange(len(scores)) * NUM_SAMPLES
    lengths = problem.lengths[outcomes.flatten()]
    completion = torch.arange(len(lengths)).repeat_interleave(lengths)
    ends = lengths.cumsum(0)
    tokens = Tokens(
        completion,
        completion // outcomes.shape[1],
        torch.arange(len(completion)) - (ends - lengths)[completion],
        outcomes.flatten()[completion],
    )
    own = problem.token_logps(numbers, tokens)
    with torch.no_grad():
        of_old, of_reference = problem.token_logps(old, tokens), problem.token_logps(reference, tokens)
    return RowLogps(
        per_token_logps=own,
        per_token_log_odds=log_odds_of(own.detach()),
        reference_per_token_logps=of_reference,
        reference_per_token_log_odds=log_odds_of(of_reference),
        completion_of_token=completion,
        lengths=lengths.double(),
        normalizers=lengths.double(),
        labels=(preferred.double() - dispreferred.double()).flatten(),
        scores=scores.flatten(),
        group_of_completion=torch.arange(len(scores)).repeat_interleave(NUM_SAMPLES),
        pairs=torch.stack([first + scores.argmax(1), first + scores.argmin(1)], dim=1),
        old_per_token_logps=of_old,
    )
