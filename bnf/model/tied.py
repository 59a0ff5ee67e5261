"""One gradient for embeddings that are also the head.

Autograd would form two of the size of the vocabulary and add them up: that of the head, in which every token has a part, and that of the
embeddings, which is zero except for the row's tokens. Here the second is sparse and is added to the first. The sum is the same to the bit.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.func import functional_call
from transformers import PreTrainedModel


def is_trained_tied(model: PreTrainedModel) -> bool:
    """Whether a gradient is wanted of one weight that serves as embeddings and head."""
    weight = model.get_output_embeddings().weight
    return torch.is_grad_enabled() and weight.requires_grad and model.get_input_embeddings().weight is weight


def embed_tied(model: PreTrainedModel, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """The embeddings (1, T, D) of `input_ids` (1, T), and the weight (V, D) for the head, by which its gradient meets theirs."""
    embeddings = model.get_input_embeddings()
    of_embeddings, of_head = _Joined.apply(embeddings.weight)
    # The module's own forward: some families scale what they look up.
    embeddings.sparse = True  # type: ignore[assignment]
    try:
        embedded: Tensor = functional_call(embeddings, {"weight": of_embeddings}, (input_ids,))
    finally:
        embeddings.sparse = False  # type: ignore[assignment]
    return embedded, of_head


class _Context(Protocol):
    def set_materialize_grads(self, value: bool) -> None: ...


class _Joined(torch.autograd.Function):
    """A weight twice; of its gradients the first is sparse."""

    @staticmethod
    def forward(ctx: _Context, weight: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        return weight.view_as(weight), weight.view_as(weight)

    @staticmethod
    def backward(ctx: _Context, of_embeddings: Tensor | None, of_head: Tensor | None) -> Tensor | None:
        if of_embeddings is None:
            return of_head
        if of_head is None:
            return of_embeddings.to_dense()
        tokens, places = of_embeddings._indices()[0].unique(return_inverse=True)
        # The kernel that a dense gradient has, over the row's own vocabulary.
        of_tokens = torch.ops.aten.embedding_dense_backward(of_embeddings._values(), places, len(tokens), -1, False)
        # In place: the head formed it for this sum.
        return of_head.index_add_(0, tokens, of_tokens)
