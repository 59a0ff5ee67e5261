"""The loss of BNF by itself, for a training loop of one's own.

The pipeline's training computes the same from packed rows, a chunked head and cached reference values (`bnf/training`).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from bnf.objectives.bnf import feedback_weights

_NO_LABEL = -100


def bnf_loss(logits: Tensor, reference_logits: Tensor, labels: Tensor, signs: Tensor, mask: Tensor) -> Tensor:
    """The loss of a batch in a loop of one's own: the mean over completions of `−s·mean_t(w_t·log p_t)`. Scalar, in nats, float32.

    Its gradient is that of the published loss (eq. 7 and 8); the published value is `dtd_cross_entropy`'s. As in transformers, `labels`
    are the token ids themselves: `logits[:, t]` predict `labels[:, t + 1]`, and nobody shifts them before.

    Args:
        logits: of the policy, (B, T, V), of any float type; computed on in float32.
        reference_logits: of the reference on the same tokens, (B, T, V); no gradient flows into them.
        labels: token ids, (B, T); −100 where there is none, as in transformers.
        signs: +1 for a preferred completion, −1 for a dispreferred one, (B,).
        mask: 1 at the tokens of the completion, 0 at the prompt and the padding, (B, T).

    Raises:
        ValueError: shapes don't fit, the batch is empty, a sign is neither +1 nor −1, the mask neither 1 nor 0, a label no token, a
            completion has no token, or one has a first token that no logits predict.
    """
    _check_batch(logits, reference_logits, labels, signs, mask)
    counted = mask[:, 1:].bool() & (labels[:, 1:] != _NO_LABEL)
    _check_values(labels, signs, mask, counted, logits.shape[-1])
    # Only what counts is computed on: elsewhere a logit may be infinite or NaN, and 0 times that is NaN, in the gradient too.
    tokens = labels[:, 1:][counted].long()[:, None]
    logps, log_odds = _label_values(logits[:, :-1][counted], tokens)
    _, reference_log_odds = _label_values(reference_logits[:, :-1].detach()[counted], tokens)
    weighted = feedback_weights(log_odds, reference_log_odds) * logps
    terms = weighted.new_zeros(counted.shape).masked_scatter(counted, weighted)
    return -(signs * terms.sum(-1) / counted.sum(-1)).mean()


def _label_values(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(N, V), (N, 1) → the tokens' log p and log-odds, each (N,) in float32."""
    logits = logits.float()
    # Over all other tokens, so it is exact where p is nearly 1 too.
    rest = logits.scatter(-1, tokens, float("-inf")).logsumexp(-1)
    log_odds = logits.gather(-1, tokens).squeeze(-1) - rest
    return logsigmoid(log_odds), log_odds


def _check_batch(logits: Tensor, reference_logits: Tensor, labels: Tensor, signs: Tensor, mask: Tensor) -> None:
    """Raises ValueError where the shapes of `bnf_loss`'s arguments don't fit."""
    if logits.dim() != 3 or not len(logits):
        raise ValueError(
            f"logits must have the shape (batch, tokens, vocabulary) with a completion at least, got {tuple(logits.shape)}; pass the "
            "model's logits as they are"
        )
    batch = tuple(logits.shape[:2])
    rules = {
        "reference_logits": (tuple(reference_logits.shape), tuple(logits.shape)),
        "labels": (tuple(labels.shape), batch),
        "signs": (tuple(signs.shape), batch[:1]),
        "mask": (tuple(mask.shape), batch),
    }
    for name, (shape, expected) in rules.items():
        if shape != expected:
            raise ValueError(
                f"{name} must have the shape {expected} beside logits of {tuple(logits.shape)}, got {shape}; "
                "labels and mask are not shifted"
            )


def _check_values(labels: Tensor, signs: Tensor, mask: Tensor, counted: Tensor, vocabulary: int) -> None:
    """Raises ValueError where the values of `bnf_loss`'s arguments don't fit. Where they do, the device is waited for once."""
    is_binary = ((mask == 0) | (mask == 1)).all()
    is_token = (((labels[:, 1:] >= 0) & (labels[:, 1:] < vocabulary)) | ~counted).all()
    fits = ((signs == 1) | (signs == -1)).all() & counted.any(-1).all() & ~mask[:, 0].bool().any()
    if bool(is_binary & is_token & fits):
        return
    if not bool(is_binary):
        raise ValueError(
            f"mask must be 1 at the tokens of the completion and 0 elsewhere, got {sorted(set(mask.flatten().tolist()))[:8]}; "
            "no token counts in part"
        )
    if not bool(is_token):
        found = labels[:, 1:][counted]
        raise ValueError(
            f"labels must be tokens from 0 to {vocabulary - 1}, or {_NO_LABEL}, where mask is 1, got {found.min()} to {found.max()}; "
            "tokenize with the model's own tokenizer"
        )
    raise ValueError(
        "signs must be 1 or -1, and mask must hold a token of each completion and never the first of a sequence, which no logits "
        f"predict, got signs {signs.tolist()}, {counted.sum(-1).tolist()} tokens and first tokens {mask[:, 0].tolist()}; "
        "leave completions without a token out, and begin each sequence with its prompt"
    )
