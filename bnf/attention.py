"""Attention over packed rows: each completion attends to its group's prompt and to itself, each prompt to itself, nothing
else to anything.

Registered with transformers under its own name. No mask over the whole row is ever made: transformers builds none for a name
it does not know, and here attention runs group by group. A short group takes one call with a mask of its own; a long one
takes a causal call for the prompt and one per completion.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import PretrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from bnf.packing import Span

ATTENTION = "bnf_segments"

# Families whose layers were compared with padded computation; others are refused by name.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

# Rotary embeddings that depend on nothing but a token's own position.
_ROPE_TYPES = ("default", "linear", "llama3", "yarn")

# Up to this many tokens a group is one call: what is wasted on masked positions is less than what more calls cost.
_ONE_CALL_TOKENS = 512

# Up to this many keys the CPU kernel's backward is several times faster in float32 than in bfloat16 (84 keys: 0.5 against 2.7 ms).
_FLOAT32_KEYS = 128


class SegmentPlan:
    """The spans of a row, the sizes of what is attended to in one call, and the masks, made once for all layers."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self.spans = tuple(spans)
        self.longest_path = max(span.prompt_length + max(span.completion_lengths) for span in self.spans)
        self.sizes: list[int] = []
        for span in self.spans:
            one_call = span.num_tokens <= _ONE_CALL_TOKENS
            self.sizes.extend([span.num_tokens] if one_call else [span.prompt_length, *span.completion_lengths])
        self._masks: dict[tuple[Any, ...], Tensor] = {}

    def group_mask(self, span: Span, like: Tensor) -> Tensor:
        """(T_g, T_g) additive mask of one group."""
        key = (span.prompt_length, span.completion_lengths, like.dtype, like.device)
        if key not in self._masks:
            size = span.num_tokens
            part = torch.zeros(size, dtype=torch.long)
            for number, (start, length) in enumerate(span.completion_starts(), 1):
                part[start - span.start : start - span.start + length] = number
            visible = torch.ones(size, size, dtype=torch.bool).tril() & (
                (part == 0)[None, :] | (part[:, None] == part[None, :])
            )
            self._masks[key] = _additive(visible, like)
        return self._masks[key]

    def completion_mask(self, prompt_length: int, length: int, like: Tensor) -> Tensor:
        """(n, P+n) additive mask of one completion's queries over its prompt and itself."""
        key = (prompt_length, length, like.dtype, like.device)
        if key not in self._masks:
            visible = torch.ones(length, prompt_length + length, dtype=torch.bool).tril(diagonal=prompt_length)
            self._masks[key] = _additive(visible, like)
        return self._masks[key]


def check_model(config: PretrainedConfig) -> None:
    """Refuses by name what the packed path was not made for.

    Raises:
        ValueError: for a model family, or a kind of rotary embedding, that is not supported.
    """
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"model_name_or_path must be of the family {', '.join(FAMILIES)}, got {config.model_type!r}; "
            "a family is added in bnf/attention.py with the test that compares it with padded computation"
        )
    rope_type = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope_type not in _ROPE_TYPES:
        raise ValueError(
            f"rope_parameters.rope_type must be one of {', '.join(_ROPE_TYPES)}, got {rope_type!r}; "
            "its angles depend on the longest sequence of a batch, so that a row's groups would not be independent"
        )
    if getattr(config, "attention_dropout", 0.0):
        raise ValueError(
            f"attention_dropout must be 0, got {config.attention_dropout}; with it the policy never equals the reference: "
            "set it to 0 in the model's config.json"
        )


def segment_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: SegmentPlan | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface over a packed row; `segments` comes through the model's forward.

    query (1, H, T, D), key and value (1, H_kv, T, D) → (1, T, H, D).
    """
    if segments is None:
        raise ValueError(f"segments must be given with attn_implementation={ATTENTION!r}, got None; call bnf.logps.row_logps")
    if softcap is not None or s_aux is not None or dropout:
        raise ValueError("attention soft-capping, sinks and dropout must be off on packed rows; use a model without them")
    if sliding_window is not None and segments.longest_path > sliding_window:
        raise ValueError(
            f"sliding_window must be at least the longest prompt with its completion ({segments.longest_path} tokens), "
            f"got {sliding_window}; leave out groups longer than that"
        )
    assert attention_mask is None and query.shape[0] == 1

    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    # Split once: the gradient of a slice would be as large as the row, for every segment.
    sizes = segments.sizes
    parts = zip(query.split(sizes, dim=2), key.split(sizes, dim=2), value.split(sizes, dim=2), strict=True)
    outputs: list[Tensor] = []
    for span in segments.spans:
        own_query, own_key, own_value = next(parts)
        if span.num_tokens <= _ONE_CALL_TOKENS:
            outputs.append(_attend(own_query, own_key, own_value, scaling, segments.group_mask(span, query)))
            continue
        prompt_key, prompt_value = own_key, own_value
        outputs.append(_attend(own_query, prompt_key, prompt_value, scaling, None))
        for length in span.completion_lengths:
            own_query, own_key, own_value = next(parts)
            mask = segments.completion_mask(span.prompt_length, length, query)
            path_key = torch.cat([prompt_key, own_key], dim=2)
            path_value = torch.cat([prompt_value, own_value], dim=2)
            outputs.append(_attend(own_query, path_key, path_value, scaling, mask))
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _attend(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, mask: Tensor | None) -> Tensor:
    """One call of the kernel, in autocast's dtype where that is entered, but for few keys on a CPU."""
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    few = dtype == torch.bfloat16 and device == "cpu" and key.shape[2] <= _FLOAT32_KEYS
    inner = torch.float32 if few else dtype
    with torch.autocast(device, enabled=False):
        output = scaled_dot_product_attention(
            query.to(inner),
            key.to(inner),
            value.to(inner),
            attn_mask=None if mask is None else mask.to(inner),
            is_causal=mask is None,
            scale=scaling,
        )
    return output.to(dtype)


def _additive(visible: Tensor, like: Tensor) -> Tensor:
    mask = torch.zeros(visible.shape, dtype=like.dtype).masked_fill(~visible, float("-inf"))
    return mask.to(like.device)


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, segment_attention)
