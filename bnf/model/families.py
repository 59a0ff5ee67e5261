"""Which models can be computed on packed rows. All others are refused by name.

A model is supported where its attention is no more than scores of rotated queries and keys under a causal mask or a sliding
window, soft-capped or not, with sinks or without, where nothing else carries from token to token, and where its head is a matrix,
soft-capped or not.
The families listed are those whose values and gradients the tests compare with padded computation by transformers itself.
"""

from collections.abc import Callable, Mapping

from transformers import PretrainedConfig

from bnf.model.experts import check_router

# Mixtures of experts (`bnf.model.experts`).
_MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss")

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gemma3", *_MIXTURES)

# transformers' Qwen2-MoE knows windows, and doesn't tell its attention of them.
_WINDOWED = frozenset({"mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gemma3", "mixtral", "qwen3_moe", "gpt_oss"})

# Rotary embeddings that depend on nothing but a token's own position.
_ROPE_TYPES = ("default", "linear", "llama3", "yarn")

_LAYER_TYPES = ("full_attention", "sliding_attention")

# Settings of a configuration that change the computation, and the families that are computed with them here. Set for any other family,
# transformers ignores them, and other programs may not.
_COMPUTED_BY: dict[str, frozenset[str]] = {
    "sliding_window": _WINDOWED,
    "attn_logit_softcapping": frozenset({"gemma2"}),
    "final_logit_softcapping": frozenset({"gemma2", "gemma3_text"}),
    "use_bidirectional_attention": frozenset(),
    "attention_chunk_size": frozenset(),
    "attention_multiplier": frozenset(),
    "embedding_multiplier": frozenset(),
    "residual_multiplier": frozenset(),
    "logit_scale": frozenset(),
    "logits_scaling": frozenset(),
    "no_rope_layers": frozenset(),
    "num_experts": frozenset(_MIXTURES),
    "num_local_experts": frozenset(_MIXTURES),
}

# Why a family that is not listed can't simply be added, as its configuration shows it. The message gives the first that holds.
_OBSTACLES: tuple[tuple[Callable[[PretrainedConfig], bool], str], ...] = (
    (
        lambda config: bool(config.is_encoder_decoder),
        "it is an encoder-decoder, whose completions do not follow their prompt in one sequence",
    ),
    (
        lambda config: (
            _any_set(
                config, "ssm_state_size", "state_size", "mamba_d_state", "linear_num_key_heads", "conv_L_cache", "lru_width"
            )
            or any("linear" in kind or "mamba" in kind or "conv" in kind for kind in _layer_types(config))
        ),
        "its layers carry a state from token to token, so that completions cannot share a prompt in one row",
    ),
    (
        lambda config: config.model_type == "phimoe",
        "its tokens are routed to experts, of which its router draws some at random in training",
    ),
    (
        lambda config: _any_set(config, "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
        "its tokens are routed to experts in a way that was compared with nothing here",
    ),
    (
        lambda config: config.model_type in ("bloom", "mpt") or _any_set(config, "alibi"),
        "its ALiBi biases follow places in the row instead of positions",
    ),
    (
        lambda config: (
            _any_set(config, "n_positions", "word_embed_proj_dim")
            or getattr(config, "position_embedding_type", None) == "absolute"
        ),
        "its absolute position embeddings were compared with nothing here",
    ),
)


def check_model(config: PretrainedConfig) -> None:
    """Checks that a model can be computed on packed rows.

    Raises:
        ValueError: its family, or a part of it, is not supported.
    """
    family = config.model_type
    text = config.get_text_config()
    if family not in FAMILIES:
        obstacle = next((f"{why}; " for holds, why in _OBSTACLES if holds(text)), "")
        raise ValueError(
            f"model_name_or_path must be of the family {', '.join(FAMILIES)}, got {family!r}; {obstacle}use a model of these "
            "families, or add one in bnf/model/families.py with the test that compares it with padded computation"
        )
    for name, families in _COMPUTED_BY.items():
        value = getattr(text, name, None)
        if value and family not in families:
            raise ValueError(
                f"{name} in config.json must not be set for a model of the family {family}, got {value!r}: it would not be "
                "computed; remove it where it has no meaning, or use another model"
            )
    layer_types = _LAYER_TYPES if family in _WINDOWED else _LAYER_TYPES[:1]
    for kind in _layer_types(text):
        if kind not in layer_types:
            raise ValueError(
                f"layer_types in config.json must be of {', '.join(layer_types)}, got {kind!r}; use a model without such layers"
            )
    for rope_type in _rope_types(getattr(text, "rope_parameters", None) or {}):
        if rope_type not in _ROPE_TYPES:
            raise ValueError(
                f"rope_parameters.rope_type must be one of {', '.join(_ROPE_TYPES)}, got {rope_type!r}; "
                "its angles depend on the longest sequence of a batch, so that a row's groups would not be independent"
            )
    check_router(text)
    if getattr(text, "attention_dropout", 0.0):
        raise ValueError(
            f"attention_dropout must be 0, got {text.attention_dropout}; with it the policy never equals the reference: "
            "set it to 0 in the model's config.json"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(
            "quantization_config in config.json must not be set, got quantized weights, which have no gradient; "
            "use the model's original weights, or a copy with dequantized ones"
        )


def head_softcap(config: PretrainedConfig) -> float | None:
    """`c` of a model whose logits are `c·tanh(z/c)`; None for one without a soft cap."""
    softcap: float | None = getattr(config.get_text_config(), "final_logit_softcapping", None)
    return softcap


def is_mixture(config: PretrainedConfig) -> bool:
    """Whether a supported model is a mixture of experts."""
    return config.model_type in _MIXTURES


def needs_eager(config: PretrainedConfig) -> bool:
    """Whether padded batches need transformers' eager attention: its others know no soft-capped scores, or no sinks."""
    text = config.get_text_config()
    return bool(getattr(text, "attn_logit_softcapping", None)) or text.model_type == "gpt_oss"


def _layer_types(config: PretrainedConfig) -> list[str]:
    return list(getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or [])


def _any_set(config: PretrainedConfig, *names: str) -> bool:
    return any(getattr(config, name, None) for name in names)


def _rope_types(parameters: Mapping[str, object]) -> list[str]:
    """The rotary embedding's type, or that of each kind of layer."""
    by_kind: list[Mapping[str, object]] = [part for part in parameters.values() if isinstance(part, dict)]
    return [str(part.get("rope_type", "default")) for part in by_kind or [parameters]]
