"""Label tokens' log-probabilities of a packed row, with logits only where completions are predicted, a chunk at a time.

The head's logits exist for `CHUNK` positions at once and are computed again in the backward pass, so that memory does not
grow with the row times the vocabulary. From the logits on everything is float32. Log-odds come straight from the head, `z_y −
logsumexp of the others`, and the log-probability from them, `−softplus(−log odds)`: both are exact to rounding for p → 0 and
p → 1.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel

from bnf.attention import SegmentPlan
from bnf.packing import Row

# Positions whose logits exist at once; the same for policy and reference.
CHUNK = 512


@dataclass(frozen=True)
class TokenLogps:
    """Of each completion token: `logps` (N,) with gradient, `log_odds` (N,) without, and the entropy of the other tokens (N,)
    where asked for. Where asked for, `prompt_logps` (M,) of the prompts' tokens after the first, with gradient.
    """

    logps: Tensor
    log_odds: Tensor
    rest_entropies: Tensor | None = None
    prompt_logps: Tensor | None = None

    @property
    def entropies(self) -> Tensor:
        """The policy's entropy at each position, from its label's part and the rest's. (N,)"""
        assert self.rest_entropies is not None
        logps, log_rest = self.logps.detach(), logsigmoid(-self.log_odds)
        return -logps.exp() * logps + log_rest.exp() * (self.rest_entropies - log_rest)


def row_logps(model: PreTrainedModel, row: Row, *, bf16: bool, entropies: bool = False, prompts: bool = False) -> TokenLogps:
    """Log-probability and log-odds of every completion token of a row, on the model's device; with `prompts`, the prompts'
    log-probabilities too.

    `bf16` computes under autocast, over weights of whatever type: policy and reference have to be given alike.
    """
    device = model.device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        hidden = model.get_decoder()(
            input_ids=row.input_ids.to(device),
            position_ids=row.position_ids.to(device),
            segments=SegmentPlan(row.spans),
            use_cache=False,
        ).last_hidden_state[0]  # (T, D)
    weight = model.get_output_embeddings().weight  # (V, D)

    def head(places: Tensor, targets: Tensor, entropies: bool) -> TokenLogps:
        states = hidden[places.to(device)]
        return head_logps(states.bfloat16() if bf16 else states, weight, targets.to(device), entropies=entropies)

    values = head(row.predicting, row.targets, entropies)
    if prompts:
        # By themselves, so that the completions' chunks stay those of the reference pass.
        of_prompts = head(row.predicting_prompts, row.prompt_targets, False)
        values = replace(values, prompt_logps=of_prompts.logps)
    return values


def head_logps(hidden: Tensor, weight: Tensor, targets: Tensor, *, entropies: bool = False, chunk: int = CHUNK) -> TokenLogps:
    """The head alone: `hidden` (N, D), `weight` (V, D), `targets` (N,); computed in the dtype of `hidden`, as autocast would.

    The weight's gradient is summed over chunks in the weight's own dtype.
    """
    logps, log_odds, rest_entropies = _ChunkedHead.apply(hidden, weight, targets, entropies, chunk)
    return TokenLogps(logps, log_odds, rest_entropies if entropies else None)


class _ChunkedHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, entropies: bool, chunk: int) -> tuple[Tensor, ...]:
        weight_dtype = weight.dtype
        weight = weight.to(hidden.dtype)
        log_odds_parts, entropy_parts = [], []
        for states, labels in zip(hidden.split(chunk), targets.split(chunk), strict=True):
            logits = _logits(states, weight)
            label_logits = logits.gather(1, labels[:, None])
            logits.scatter_(1, labels[:, None], float("-inf"))
            log_rest = logits.logsumexp(dim=1, keepdim=True)
            log_odds_parts.append((label_logits - log_rest)[:, 0])
            if entropies:
                shares = (logits - log_rest).exp_()
                logits.scatter_(1, labels[:, None], 0.0)
                entropy_parts.append(log_rest[:, 0] - (shares * logits).sum(dim=1))
        log_odds = torch.cat(log_odds_parts)
        rest_entropies = torch.cat(entropy_parts) if entropies else log_odds.new_empty(0)
        ctx.save_for_backward(hidden, weight, targets, log_odds)
        ctx.chunk, ctx.weight_dtype = chunk, weight_dtype
        ctx.mark_non_differentiable(log_odds, rest_entropies)
        return logsigmoid(log_odds), log_odds, rest_entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, log_odds = ctx.saved_tensors
        chunk = ctx.chunk
        hidden_grads = []
        weight_grad: Tensor | None = None
        parts = (hidden.split(chunk), targets.split(chunk), log_odds.split(chunk), grads[0].split(chunk))
        for states, labels, odds, grad in zip(*parts, strict=True):
            logits = _logits(states, weight)
            label_logits = logits.gather(1, labels[:, None])
            # log of the normalizer, z_y − log p; then −p_v·grad for every token, and (1 − p_y)·grad for the label.
            logits -= label_logits - logsigmoid(odds)[:, None]
            logits.exp_().mul_(-grad[:, None])
            logits.scatter_(1, labels[:, None], ((-odds).sigmoid() * grad)[:, None])
            logits_grad = logits.to(weight.dtype)
            hidden_grads.append(logits_grad @ weight)
            if ctx.needs_input_grad[1]:
                part = (logits_grad.T @ states).to(ctx.weight_dtype)
                weight_grad = part if weight_grad is None else weight_grad.add_(part)
        return torch.cat(hidden_grads), weight_grad, None, None, None


def _logits(states: Tensor, weight: Tensor) -> Tensor:
    """(n, V), float32 or better"""
    logits = states @ weight.T
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
