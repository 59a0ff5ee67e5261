"""Random prompt groups, and the slow, plain computation that the packed path is compared with."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bnf.data.groups import Completion, PromptGroup
from bnf.objectives import RowLogps

VOCABULARY = 97


def random_groups(
    num_groups: int, *, seed: int = 0, prompt: tuple[int, int] = (2, 9), completion: tuple[int, int] = (1, 7), most: int = 4
) -> list[PromptGroup]:
    """Groups of 2 to `most` completions, the first preferred, with all pairs of unequal label and random scores."""
    rng = random.Random(seed)
    groups = []
    for number in range(num_groups):
        completions = tuple(
            Completion(
                tuple(rng.randrange(3, VOCABULARY) for _ in range(rng.randint(*completion))),
                1 if index == 0 else rng.choice([1, -1]) if index > 1 else -1,
                rng.random(),
                "random",
            )
            for index in range(rng.randint(2, most))
        )
        pairs = tuple(
            (chosen, rejected)
            for chosen, first in enumerate(completions)
            for rejected, second in enumerate(completions)
            if first.label > second.label
        )
        prompt_ids = tuple(rng.randrange(3, VOCABULARY) for _ in range(rng.randint(*prompt)))
        groups.append(PromptGroup(f"g{number}", prompt_ids, completions, pairs))
    return groups


def padded_logps(model: PreTrainedModel, groups: Sequence[PromptGroup]) -> Tensor:
    """Label log-probabilities (N,) from one right-padded batch of prompt + completion, full logits, in the model's dtype."""
    return padded_values(model, groups)[0]


def padded_values(model: PreTrainedModel, groups: Sequence[PromptGroup]) -> tuple[Tensor, Tensor]:
    """The same, and the model's entropies there. (N,), (N,)"""
    sequences = [(group.prompt_ids, completion.token_ids) for group in groups for completion in group.completions]
    longest = max(len(prompt) + len(completion) for prompt, completion in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long, device=model.device)
    for index, (prompt, completion) in enumerate(sequences):
        size = len(prompt) + len(completion)
        ids[index, :size] = torch.tensor([*prompt, *completion], device=model.device)
    # No mask over the padding: it lies to the right, where causal attention never looks, and in float64 transformers' mask for
    # a query that sees nothing is NaN.
    full = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    labels, entropies = full.gather(2, ids[:, 1:, None])[:, :, 0], -(full.exp() * full).sum(-1)
    places = [
        (index, slice(len(prompt) - 1, len(prompt) + len(completion) - 1))
        for index, (prompt, completion) in enumerate(sequences)
    ]
    logps, of_policy = (torch.cat([values[place] for place in places]) for values in (labels, entropies))
    return logps, of_policy


def padded_prompt_logps(model: PreTrainedModel, groups: Sequence[PromptGroup]) -> Tensor:
    """The same of the prompts' tokens after the first, one prompt at a time. (M,)"""
    parts = []
    for group in groups:
        ids = torch.tensor([group.prompt_ids])
        parts.append(model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0])
    return torch.cat(parts)


def row_of(
    per_token: Sequence[Sequence[float]],
    labels: Sequence[int],
    *,
    reference: Sequence[Sequence[float]] | None = None,
    old: Sequence[Sequence[float]] | None = None,
    pairs: Sequence[tuple[int, int]] = (),
    scores: Sequence[float] | None = None,
    groups: Sequence[int] | None = None,
    prompts: Sequence[Sequence[float]] | None = None,
    kl_pair_logratio: float | None = None,
) -> RowLogps:
    """A row in float64 from the log-probabilities of each completion's tokens, and of each prompt's after its first;
    `per_token_logps` and `prompt_logps` are leaves with gradient. Without `old` the training starts from the reference.
    """

    def flat(values: Sequence[Sequence[float]]) -> Tensor:
        return torch.tensor([value for completion in values for value in completion], dtype=torch.float64)

    def odds(logps: Tensor) -> Tensor:
        return logps - torch.log(-torch.expm1(logps))

    logps = flat(per_token).requires_grad_()
    lengths = torch.tensor([len(completion) for completion in per_token])
    reference_logps = None if reference is None else flat(reference)
    return RowLogps(
        per_token_logps=logps,
        per_token_log_odds=odds(logps.detach()),
        reference_per_token_logps=reference_logps,
        reference_per_token_log_odds=None if reference_logps is None else odds(reference_logps),
        completion_of_token=torch.repeat_interleave(torch.arange(len(lengths)), lengths),
        lengths=lengths.double(),
        normalizers=lengths.double(),
        labels=torch.tensor(labels, dtype=torch.float64),
        scores=torch.tensor(scores if scores is not None else [float("nan")] * len(labels), dtype=torch.float64),
        group_of_completion=torch.tensor(groups if groups is not None else [0] * len(labels)),
        pairs=torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
        prompt_logps=None if prompts is None else torch.tensor([sum(each) for each in prompts]).double().requires_grad_(),
        prompt_lengths=None if prompts is None else torch.tensor([len(each) for each in prompts]).double(),
        kl_pair_logratio=None if kl_pair_logratio is None else torch.tensor(kl_pair_logratio).double(),
        old_per_token_logps=reference_logps if old is None else flat(old),
    )
