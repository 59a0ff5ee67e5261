"""Evaluations on the way: the policy's own samples of dev prompts, and the figures that decide: whether it has collapsed, which is best."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from bnf.data.groups import PromptGroup
from bnf.model.families import needs_eager
from bnf.model.logps import autocast, compute_device
from bnf.model.sharding import is_sharded
from bnf.objectives import BaseObjective, RowLogps
from bnf.parallel.group import gather, num_processes, process_number
from bnf.training.adapters import transformers_model
from bnf.training.choosing import ACCURACY, NUM_PAIRS
from bnf.training.collapse import NUM_SAMPLES, SHIFT, UNTERMINATED
from bnf.training.means import Means

# progress(samples done, of how many, tokens so far, at most how many more); the first call comes before the first token
SampleProgress = Callable[[int, int, int, int], None]


@dataclass(frozen=True)
class Sample:
    """A completion that the policy gave to a prompt; `is_terminated` where it ended with an end token."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    is_terminated: bool


def prompts_to_sample(groups: Sequence[PromptGroup], count: int) -> list[tuple[int, ...]]:
    """The first `count` prompts; where there are fewer, they are repeated from the start."""
    return [tuple(groups[index % len(groups)].prompt_ids) for index in range(count)]


def stop_tokens(model: PreTrainedModel) -> list[int]:
    """The tokens that end a completion: from the model's generation config, or else its config.

    Raises:
        ValueError: neither names one.
    """
    for config in (model.generation_config, model.config):
        found = getattr(config, "eos_token_id", None)
        if found is not None:
            return [found] if isinstance(found, int) else list(found)
    raise ValueError("eos_token_id must be in the model's generation_config.json or config.json, got none; add it there")


def sample(
    model: PreTrainedModel,
    prompts: Sequence[tuple[int, ...]],
    *,
    max_new_tokens: int,
    max_tokens: int,
    seed: int,
    bf16: bool,
    progress: SampleProgress = lambda *_: None,
) -> list[Sample]:
    """A completion of each prompt at temperature 1. The model's state and the random generators stay as they were.

    Prompts of similar length are continued together, as many as `max_tokens` of cached keys and values allow. What is drawn for a
    prompt depends on the seed and its place alone, not on the prompts beside it. The processes of a training share the batches, and
    each returns all samples.
    """
    inner = transformers_model(model)
    stops = stop_tokens(inner)
    settings = GenerationConfig(max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=stops, pad_token_id=stops[0])
    device = compute_device(inner)
    # The same numbers for each of a model's evaluations, and none from those that training draws.
    draws = torch.rand(len(prompts), max_new_tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    samples: dict[int, Sample] = {}
    batches = _own_batches(list(_batches(prompts, max_new_tokens, max_tokens)), equally_many=is_sharded(inner))
    num_own = sum(map(len, batches))
    num_tokens, most_left = 0, num_own * max_new_tokens
    progress(0, num_own, 0, most_left)
    with _generating(inner), torch.no_grad(), autocast(inner, bf16=bf16):
        for batch in batches:
            own = [prompts[place] for place in batch]
            longest = max(map(len, own))
            ids = torch.tensor([[stops[0]] * (longest - len(prompt)) + list(prompt) for prompt in own], device=device)
            mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in own], device=device)

            def on_token(step: int, num: int = len(own), tokens: int = num_tokens, left: int = most_left) -> None:
                progress(len(samples), num_own, tokens + step * num, left - step * num)

            drawing = _Drawing(draws[batch].to(device), longest, on_token)
            output = inner.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=mask,
                generation_config=settings,
                logits_processor=LogitsProcessorList([drawing]),
                # Each token of a sharded model needs all processes, until the longest sample of all has ended.
                synced_gpus=is_sharded(inner) and num_processes() > 1,
            )
            for place, row in zip(batch, output[:, longest:].tolist(), strict=True):
                end = next((index for index, token in enumerate(row) if token in stops), None)
                tokens = row if end is None else row[: end + 1]
                samples[place] = Sample(prompts[place], tuple(tokens), end is not None)
            num_tokens += (output.shape[1] - longest) * len(own)
            most_left -= max_new_tokens * len(own)
            progress(len(samples), num_own, num_tokens, most_left)
    everyones = {place: found for part in gather(samples) for place, found in part.items()}
    return [everyones[place] for place in range(len(prompts))]


def _own_batches(batches: list[list[int]], *, equally_many: bool) -> list[list[int]]:
    """This process's share of the batches; with `equally_many` some are computed again, so that each process has as many."""
    own = batches[process_number() :: num_processes()]
    at_least = -(-len(batches) // num_processes()) if equally_many else 0
    return own + batches[:1] * (at_least - len(own))


def _batches(prompts: Sequence[tuple[int, ...]], max_new_tokens: int, max_tokens: int) -> Iterator[list[int]]:
    """Places of prompts that are continued together, the longest prompts first; at least one prompt in each batch."""
    order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    while order:
        size = max(1, max_tokens // (len(prompts[order[0]]) + max_new_tokens))
        yield order[:size]
        order = order[size:]


class _Drawing(LogitsProcessor):
    """Draws a token of each distribution: the one in whose share the row's random number falls. All others get −∞.

    `draws` (B, N) in [0, 1), one for each row and new token.
    """

    def __init__(self, draws: torch.Tensor, num_prompt_tokens: int, on_token: Callable[[int], None]) -> None:
        self.draws, self.num_prompt_tokens, self.on_token = draws, num_prompt_tokens, on_token

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # (B, T), (B, V)
        step = input_ids.shape[1] - self.num_prompt_tokens
        shares = scores.softmax(-1).cumsum(-1, dtype=torch.float64)
        # Times the last sum: rounding may leave it below 1.
        drawn = torch.searchsorted(shares, self.draws[:, step, None] * shares[:, -1:], right=True)
        self.on_token(step + 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn.clamp_max_(scores.shape[1] - 1), 0.0)


class DevFigures:
    """What the rules of `bnf.training.collapse` and `keep_best` look at in an evaluation, under its names in the log."""

    def __init__(self, objective: BaseObjective) -> None:
        self._objective = objective
        self._means = Means()
        # Of each row its completions' rewards, its labels, and the margins of its pairs.
        self._rewards: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def add_row(self, row: RowLogps) -> None:
        """Adds a row of dev groups."""
        if row.reference_per_token_logps is not None:
            self._means.add(SHIFT, row.shifts / row.lengths, row.labels == 1)
        rewards = self._objective.rewards(row)
        self._rewards.append((rewards, row.labels, row.margins(rewards) if len(row.pairs) else rewards[:0]))

    def logged(self, samples: Sequence[Sample]) -> dict[str, float]:
        """The figures of all rows that were added, and of the policy's samples where there are any."""
        logged = {**self._means.pop(), **self._accuracy()}
        if not samples:
            return logged
        unterminated = sum(not each.is_terminated for each in samples) / len(samples)
        return logged | {NUM_SAMPLES: len(samples), UNTERMINATED: unterminated}

    def _accuracy(self) -> dict[str, float]:
        """The share of preferred above dispreferred rewards: of pairs, or where there are none of all completions."""
        rewards, labels, margins = (torch.cat(parts) for parts in zip(*self._rewards, strict=True))
        if len(margins):
            return {ACCURACY: float((margins > 0).double().mean()), NUM_PAIRS: len(margins)}
        chosen, rejected = rewards[labels > 0], rewards[labels < 0]
        return {ACCURACY: area_under_curve(chosen, rejected)} if len(chosen) and len(rejected) else {}


def area_under_curve(chosen: torch.Tensor, rejected: torch.Tensor) -> float:
    """The share of (chosen, rejected) combinations in which the chosen one has the higher reward; a tie counts half.

    (n,), (m,); sorting takes (n + m)·log m steps, where the combinations would be n·m.
    """
    ordered = rejected.sort().values
    below, not_above = (torch.searchsorted(ordered, chosen, right=right) for right in (False, True))
    return float((below + not_above).double().mean() / (2 * len(ordered)))


@contextmanager
def _generating(model: PreTrainedModel) -> Iterator[None]:
    """Gives the model attention over padded batches and an empty generation config: its own may warp the distribution."""
    attention, own = model.config._attn_implementation, model.generation_config
    model.set_attn_implementation("eager" if needs_eager(model.config) else "sdpa")
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.set_attn_implementation(attention)
        model.generation_config = own
