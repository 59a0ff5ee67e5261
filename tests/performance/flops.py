"""Floating-point operations of a training on packed rows: what its matrix products need, and no more.

A multiplication and an addition count as two. Every token of a row goes once through the layers' projections, every label position
once through the head, and attention multiplies the queries and keys that see each other. Not counted: what is computed again in the
backward pass, masked scores, norms, gates and rotations, and adapters, whose products are small beside those of what they adapt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PretrainedConfig

from bnf.data.packing import Span

# Backward over forward pass: a gradient by the inputs and one by the weights, each as costly as the product itself.
_BY_INPUTS = 1
_BY_WEIGHTS = 1
# Attention's two products have two inputs each.
_ATTENTION_BACKWARD = 2


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a pass over a row, by part."""

    layers: int
    attention: int
    head: int

    @property
    def total(self) -> int:
        """Of all parts."""
        return self.layers + self.attention + self.head


def forward_flops(config: PretrainedConfig, spans: Sequence[Span], *, prompts: bool = False) -> Flops:
    """A forward pass over a row with these spans (`Row.spans`), as the reference's; with `prompts` the head predicts their tokens too."""
    text = config.get_text_config()
    num_tokens = sum(span.num_tokens for span in spans)
    num_labels = sum(sum(span.completion_lengths) + (span.prompt_length - 1 if prompts else 0) for span in spans)
    # A score and a weighted value for each query and key of a head.
    of_pair = 2 * 2 * text.num_attention_heads * head_dim(text)
    return Flops(
        layers=2 * num_tokens * text.num_hidden_layers * layer_weights(text),
        attention=of_pair * sum(sum(visible_pairs(span, window) for span in spans) for window in layer_windows(text)),
        head=2 * num_labels * text.hidden_size * text.vocab_size,
    )


def step_flops(
    config: PretrainedConfig, spans: Sequence[Span], *, prompts: bool = False, frozen_weights: bool = False
) -> Flops:
    """Forward and backward pass over a row; with `frozen_weights`, as under LoRA, no gradients by the weights."""
    forward = forward_flops(config, spans, prompts=prompts)
    passes = 1 + _BY_INPUTS + (0 if frozen_weights else _BY_WEIGHTS)
    return Flops(passes * forward.layers, (1 + _ATTENTION_BACKWARD) * forward.attention, passes * forward.head)


def layer_weights(text: PretrainedConfig) -> int:
    """Weights of a layer's projections that a token is multiplied with: attention's four, and the gated MLP's three; with experts the
    router's, and those of the experts that a token is sent to.
    """
    width, size = text.hidden_size, head_dim(text)
    num_heads = text.num_attention_heads
    num_key_heads = getattr(text, "num_key_value_heads", None) or num_heads
    attention = width * size * (2 * num_heads + 2 * num_key_heads)
    num_experts = getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None)
    if not num_experts:
        return attention + 3 * width * text.intermediate_size
    expert_width = getattr(text, "moe_intermediate_size", None) or text.intermediate_size
    return attention + width * num_experts + 3 * width * expert_width * text.num_experts_per_tok


def head_dim(text: PretrainedConfig) -> int:
    """Size of a head's queries and keys."""
    size: int = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return size


def layer_windows(text: PretrainedConfig) -> list[int | None]:
    """Each layer's sliding window; None for a layer that sees everything."""
    window: int | None = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        return [window] * text.num_hidden_layers
    return [window if kind == "sliding_attention" else None for kind in kinds]


def visible_pairs(span: Span, window: int | None = None) -> int:
    """Queries and keys of a span that see each other: its prompt's among themselves, each completion's with the prompt and itself."""
    prompt = span.prompt_length
    return _causal(0, prompt, window) + sum(_causal(prompt, prompt + length, window) for length in span.completion_lengths)


def _causal(first: int, stop: int, window: int | None) -> int:
    """Keys that the positions from `first` to `stop` see: each as many as its position and one more, at most `window`."""
    bend = stop if window is None else min(max(window, first), stop)
    growing = (bend * (bend + 1) - first * (first + 1)) // 2
    return growing + (0 if window is None else (stop - bend) * window)
