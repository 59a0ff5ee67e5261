"""The log-probabilities of a packed row's completion tokens. Logits are computed only where completions are predicted.

Logits exist for a few positions at once, as many as a constant budget of logits holds. In the backward pass all but the last chunk's are
computed again. So memory grows neither with the row nor with the vocabulary. From the logits on everything is float32. Log-odds come
straight from the head, `z_y − logsumexp of the others`, and the log-probability from them, `−softplus(−log odds)`: both are exact to
rounding for p → 0 and p → 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Protocol

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel

from bnf.data.packing import Row, Span
from bnf.model.families import check_length, head_scale, head_softcap
from bnf.model.lean import replaying
from bnf.model.segments import SegmentPlan
from bnf.model.tied import embed_tied, is_trained_tied

# Logits that exist at once, in the dtype of the hidden states; the same for policy and reference. On an accelerator there are more: a
# chunk of few positions would take longer to read the weights than to multiply them.
_LOGITS = 2**25
_LOGITS_ON_ACCELERATOR = 2**27

# One part in so many of a chunk's logits exists in float32 at once.
_WIDE_SHARE = 64

# Rows × columns of the weight's gradient that are formed before they are added up.
_WEIGHT_PART = 2**21

# Hidden states that are summed at once: on a CPU, a sum in another dtype copies them first.
_SUMMED = 1024


@dataclass(frozen=True)
class TokenLogps:
    """The values of each completion token: `logps` (N,) with gradient and `log_odds` (N,) without; where asked for, `entropies` (N,) of the
    policy, with gradient, and `rest_entropies` (N,) of the other tokens, `prompt_logps` (M,) of the prompts' tokens after the first, with
    gradient, and `hidden_sums` (C, D): of each completion the sum of the hidden states that predict its tokens, in float32 or better.
    """

    logps: Tensor
    log_odds: Tensor
    rest_entropies: Tensor | None = None
    prompt_logps: Tensor | None = None
    hidden_sums: Tensor | None = None
    entropies: Tensor | None = None


def row_logps(
    model: PreTrainedModel,
    row: Row,
    *,
    bf16: bool,
    entropies: bool = False,
    prompts: bool = False,
    hidden_sums: bool = False,
    temperature: float = 1.0,
) -> TokenLogps:
    """Log-probability and log-odds of every completion token of a row, on the model's device; with `entropies`, its entropy there;
    with `prompts`, the prompts' log-probabilities too; with `hidden_sums`, the sums of the hidden states that the head reads for each
    completion.

    `bf16` computes under autocast, whatever the weights' dtype. Policy and reference need the same setting. Of a sharded model all
    processes must call it. Logits are divided by `temperature`, a reference's alone: at another than 1 there is no gradient.

    Raises:
        ValueError: a sequence of the row is longer than the model's `longest_sequence`.
    """
    if isinstance(model, FSDPModule):
        # Only the model's own forward gathers its weights.
        values: TokenLogps = model(
            row=row, bf16=bf16, entropies=entropies, prompts=prompts, hidden_sums=hidden_sums, temperature=temperature
        )
        return values
    return _computed(
        model, row, bf16=bf16, entropies=entropies, prompts=prompts, hidden_sums=hidden_sums, temperature=temperature
    )


def accept_rows(model: PreTrainedModel) -> None:
    """Makes `model(row=…)` compute `row_logps`; all other calls of `model` stay as they are.

    A wrapper such as DistributedDataParallel adds up gradients only of what went through its own forward, and FSDP2 gathers weights only
    there.
    """
    plain = model.forward

    @wraps(plain)
    def forward(*args: object, row: Row | None = None, **kwargs: object) -> object:
        return plain(*args, **kwargs) if row is None else _computed(model, row, **kwargs)  # type: ignore[arg-type]

    model.forward = forward


def _computed(
    model: PreTrainedModel,
    row: Row,
    *,
    bf16: bool,
    entropies: bool,
    prompts: bool,
    hidden_sums: bool = False,
    temperature: float = 1.0,
) -> TokenLogps:
    device = compute_device(model)
    plan = SegmentPlan(row.spans)
    check_length(model.config, plan.longest_path)
    input_ids, position_ids = row.input_ids.to(device), row.position_ids.to(device)
    with autocast(model, bf16=bf16), replaying():
        # FSDP2 brings a weight together only in its module's own forward.
        if is_trained_tied(model) and not isinstance(model, FSDPModule):
            embedded, weight = embed_tied(model, input_ids)
            inputs = {"inputs_embeds": embedded}
        else:
            inputs, weight = {"input_ids": input_ids}, None
        output = model.get_decoder()(**inputs, position_ids=position_ids, segments=plan, use_cache=False)
        hidden = output.last_hidden_state[0]  # (T, D)
    if weight is None:
        weight = model.get_output_embeddings().weight  # (V, D)

    def head(places: Tensor, targets: Tensor, entropies: bool) -> TokenLogps:
        states = hidden[places.to(device)]
        states = states.bfloat16() if bf16 else states
        scale, softcap = head_scale(model.config), head_softcap(model.config)
        return head_logps(
            states, weight, targets.to(device), entropies=entropies, scale=scale, softcap=softcap, temperature=temperature
        )

    values = head(row.predicting, row.targets, entropies)
    if prompts:
        # In chunks of their own, so that the completions' chunks stay those of the reference pass.
        of_prompts = head(row.predicting_prompts, row.prompt_targets, False)
        values = replace(values, prompt_logps=of_prompts.logps)
    return replace(values, hidden_sums=_hidden_sums(hidden, row.spans)) if hidden_sums else values


def _hidden_sums(hidden: Tensor, spans: Sequence[Span]) -> Tensor:
    """Of each completion the sum of the hidden states that predict its tokens, of those in the row. (C, D) from (T, D)

    Each is summed by itself: so its sum has the same order of additions whatever else the row holds, on every device.
    """
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    sums = []
    for span in spans:
        for start, length in span.completion_starts():
            # The prompt's last state predicts the first token, and nothing is predicted by the last one's.
            total = hidden[span.start + span.prompt_length - 1].to(dtype)
            for part in hidden[start : start + length - 1].split(_SUMMED):
                total = total + part.sum(dim=0, dtype=dtype)
            sums.append(total)
    return torch.stack(sums)


def compute_device(model: PreTrainedModel) -> torch.device:
    """The device that a model computes on. The shares of a sharded one may wait in the CPU's memory; its buffers don't."""
    return next((buffer.device for buffer in model.buffers()), model.device)


def autocast(model: PreTrainedModel, *, bf16: bool) -> torch.autocast:
    """The context that a model computes in. Of a sharded model no copies are kept for the next call: they would be of all its weights."""
    cached = not isinstance(model, FSDPModule)
    return torch.autocast(compute_device(model).type, dtype=torch.bfloat16, enabled=bf16, cache_enabled=cached)


def logits_budget() -> int:
    """How many logits exist at once, on the device that `bnf.model.loading` loads models to."""
    return _LOGITS_ON_ACCELERATOR if torch.cuda.is_available() else _LOGITS


def head_chunk(vocabulary: int) -> int:
    """How many positions' logits exist at once, for a vocabulary of that size."""
    chunk = logits_budget() // vocabulary
    return chunk // 32 * 32 if chunk >= 32 else max(chunk, 1)


def head_logps(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    entropies: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> TokenLogps:
    """The head alone: `hidden` (N, D), `weight` (V, D), `targets` (N,); computed in the dtype of `hidden`, as autocast would.

    With `scale` the logits are `s·z` (Cohere, Granite), and with `softcap` after that `c·tanh(z/c)` (Gemma 2, arXiv 2408.00118); last
    they are divided by `temperature`, which has no gradient unless it is 1.
    The weight's gradient is summed over chunks in float32 or better, and rounded once to the weight's own dtype.
    """
    chunk = head_chunk(len(weight)) if chunk is None else chunk
    differentiable = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    assert temperature == 1 or not differentiable
    logps, log_odds, own_entropies, rest_entropies = _ChunkedHead.apply(
        hidden, weight, targets, entropies, scale, softcap, temperature, chunk, differentiable
    )
    if not entropies:
        return TokenLogps(logps, log_odds)
    return TokenLogps(logps, log_odds, rest_entropies, entropies=own_entropies)


class _HeadContext(Protocol):
    """What the head's forward pass keeps for its backward pass, and what autograd gives of it."""

    logits: Tensor | None
    scale: float | None
    softcap: float | None
    chunk: int
    weight_dtype: torch.dtype
    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...

    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...

    def set_materialize_grads(self, value: bool) -> None: ...


class _ChunkedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _HeadContext,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        entropies: bool,
        scale: float | None,
        softcap: float | None,
        temperature: float,
        chunk: int,
        differentiable: bool,
    ) -> tuple[Tensor, ...]:
        weight_dtype = weight.dtype
        weight = weight.to(hidden.dtype)
        # One for all chunks: the kernel clears every page of a new one.
        buffer = hidden.new_empty(min(chunk, len(hidden)), len(weight))
        wide = _num_wide(len(weight))
        log_odds_parts, log_norm_parts, entropy_parts = [], [], []
        for states, labels in zip(hidden.split(chunk), targets.split(chunk), strict=True):
            chunk_logits = torch.mm(states, weight.T, out=buffer[: len(states)])
            for part, places in zip(chunk_logits.split(wide), labels[:, None].split(wide), strict=True):
                logits = _widened(part, scale, softcap)
                logits = logits if temperature == 1 else logits.div_(temperature)
                label_logits = logits.gather(1, places)
                logits.scatter_(1, places, float("-inf"))
                log_rest = logits.logsumexp(dim=1, keepdim=True)
                log_odds_parts.append((label_logits - log_rest)[:, 0])
                log_norm_parts.append(torch.logaddexp(label_logits, log_rest)[:, 0])
                if entropies:
                    shares = (logits - log_rest).exp_()
                    logits.scatter_(1, places, 0.0)
                    entropy_parts.append(log_rest[:, 0] - (shares * logits).sum(dim=1))
        # The last chunk's stay: the backward pass begins there.
        ctx.logits = buffer if differentiable else None
        log_odds = torch.cat(log_odds_parts)
        logps = logsigmoid(log_odds)
        rest_entropies = torch.cat(entropy_parts) if entropies else log_odds.new_empty(0)
        own_entropies = entropies_of(logps, log_odds, rest_entropies) if entropies else log_odds.new_empty(0)
        ctx.save_for_backward(hidden, weight, targets, log_odds, torch.cat(log_norm_parts), own_entropies)
        ctx.scale, ctx.softcap, ctx.chunk, ctx.weight_dtype = scale, softcap, chunk, weight_dtype
        ctx.mark_non_differentiable(log_odds, rest_entropies)
        # A loss that doesn't read the entropies has no gradient of them to compute.
        ctx.set_materialize_grads(False)
        return logps, log_odds, own_entropies, rest_entropies

    @staticmethod
    def backward(ctx: _HeadContext, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, log_odds, log_norm, entropies = ctx.saved_tensors
        of_logps, _, of_entropies, _ = grads
        of_logps = torch.zeros_like(log_odds) if of_logps is None else of_logps
        read = [] if of_entropies is None else [entropies, of_entropies]
        scale, softcap, chunk, wide = ctx.scale, ctx.softcap, ctx.chunk, _num_wide(len(weight))
        hidden_grads = []
        weight_grad: Tensor | None = None
        chunks = [tensor.split(chunk) for tensor in (hidden, targets, log_odds, log_norm, of_logps, *read)]
        sum_dtype = torch.promote_types(ctx.weight_dtype, torch.float32) if len(hidden) > chunk else ctx.weight_dtype
        # Used up below: a second backward pass forms them again.
        kept, ctx.logits = ctx.logits, None
        buffer = hidden.new_empty(min(chunk, len(hidden)), len(weight)) if kept is None else kept
        for number, (states, *of_chunk) in enumerate(reversed(list(zip(*chunks, strict=True)))):
            logits = buffer[: len(states)]
            if number or kept is None:
                torch.mm(states, weight.T, out=logits)
            parts = zip(*(tensor.split(wide) for tensor in (logits, *of_chunk)), strict=True)
            for part, labels, odds, norm, grad, *entropy in parts:
                part.copy_(_logits_grad(part, labels, odds, norm, grad, entropy, scale=scale, softcap=softcap))
            hidden_grads.append(logits @ weight)
            if ctx.needs_input_grad[1]:
                # A frozen head, as under LoRA, has none.
                weight_grad = torch.empty_like(weight, dtype=sum_dtype) if weight_grad is None else weight_grad
                _add_outer(weight_grad, logits, states, first=number == 0)
        weight_grad = None if weight_grad is None else weight_grad.to(ctx.weight_dtype)
        return torch.cat(hidden_grads[::-1]), weight_grad, None, None, None, None, None, None, None


def entropies_of(logps: Tensor, log_odds: Tensor, rest_entropies: Tensor) -> Tensor:
    """The policy's entropy at each position, from the parts of the completion token and of the others. (N,)"""
    log_rest = logsigmoid(-log_odds)
    return -logps.exp() * logps + log_rest.exp() * (rest_entropies - log_rest)


def _num_wide(vocabulary: int) -> int:
    """How many positions' logits exist in float32 at once."""
    return max(1, logits_budget() // _WIDE_SHARE // vocabulary)


def _widened(logits: Tensor, scale: float | None, softcap: float | None) -> Tensor:
    """A copy in float32 or better, scaled and with the soft cap."""
    half = logits.dtype in (torch.bfloat16, torch.float16)
    wide = logits.to(torch.float32 if half else logits.dtype, copy=True)
    wide = wide if scale is None else wide.mul_(scale)
    return wide if softcap is None else wide.div_(softcap).tanh_().mul_(softcap)


def _logits_grad(
    part: Tensor,
    labels: Tensor,
    log_odds: Tensor,
    log_norm: Tensor,
    grad: Tensor,
    entropy: Sequence[Tensor] = (),
    *,
    scale: float | None,
    softcap: float | None,
) -> Tensor:
    """The gradient by the logits `part` (n, V): −p_v·grad for every token, (1 − p_y)·grad for the label; then through cap and scale.

    `entropy` are the entropies H and the loss's gradient by them, g, where the loss reads them: −g·p_v·(log p_v + H) is added.
    """
    logits = _widened(part, scale, softcap)
    # The slope of the cap, 1 − tanh²(z/c).
    slope = None if softcap is None else (logits / softcap).square_().neg_().add_(1)
    logits.sub_(log_norm[:, None])
    of_label = (-log_odds).sigmoid() * grad
    if entropy:
        own, by_entropy = entropy
        shares = logits.exp()
        logits.add_(own[:, None]).mul_(by_entropy[:, None]).add_(grad[:, None]).mul_(shares).neg_()
        of_label -= by_entropy * log_odds.sigmoid() * (logsigmoid(log_odds) + own)
    else:
        logits.exp_().mul_(-grad[:, None])
    logits.scatter_(1, labels[:, None], of_label[:, None])
    logits = logits if slope is None else logits.mul_(slope)
    return logits if scale is None else logits.mul_(scale)


def _add_outer(weight_grad: Tensor, logits_grad: Tensor, states: Tensor, *, first: bool) -> None:
    """Adds a chunk's part to the weight's gradient (V, D); the first chunk's replaces it. Of another dtype, it is added in parts."""
    if weight_grad.dtype == states.dtype:
        # With beta 0 what was there is not read.
        weight_grad.addmm_(logits_grad.T, states, beta=0 if first else 1)
        return
    step = max(1, _WEIGHT_PART // states.shape[1])
    for rows, columns in zip(weight_grad.split(step), logits_grad.split(step, dim=1), strict=True):
        part = columns.T @ states
        if first:
            rows.copy_(part)
        else:
            rows.add_(part.to(rows.dtype))
