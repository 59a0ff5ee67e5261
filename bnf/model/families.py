"""Which models can be computed on packed rows. All others are refused by name.

A model is supported where its attention is no more than scores of rotated queries and keys under a causal mask or a sliding
window, soft-capped or not, with sinks or without, where nothing else carries from token to token, and where its head is a matrix,
scaled and soft-capped or not. All else is transformers' own code, whatever it does to a token: norms before or after, fused or ungated
MLPs, experts, which part of a head is rotated and in which layers, clipping, multipliers. The families listed are those whose values and
gradients the tests compare with padded computation by transformers itself.
"""

from collections.abc import Callable, Mapping
from typing import cast

from transformers import PretrainedConfig

from bnf.model.experts import check_router

# Mixtures of experts (`bnf.model.experts`).
_MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss")

FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gemma3"),
    *("phi3", "olmo", "olmo2", "olmo3", "smollm3", "granite", "glm", "glm4", "ministral", "ministral3", "cohere", "cohere2"),
    *("apertus", "arcee", "ernie4_5", "exaone4", "helium", "seed_oss", "starcoder2"),
    *_MIXTURES,
)

# Families with the same window in all layers; in those of the second set `layer_types` says which layers have it. transformers' Qwen2-MoE
# knows windows, and doesn't tell its attention of them.
_ONE_WINDOW = frozenset({"mistral", "phi3", "ministral3", "starcoder2", "mixtral", "qwen3_moe"})
_WINDOWED = _ONE_WINDOW | {
    *("qwen2", "qwen3", "gemma2", "gemma3_text", "gemma3"),
    *("olmo3", "smollm3", "ministral", "cohere2", "exaone4", "gpt_oss"),
}

# Rotary embeddings that depend on nothing but a token's own position; longrope up to `longest_sequence`.
_ROPE_TYPES = ("default", "linear", "llama3", "yarn", "longrope")

_LAYER_TYPES = ("full_attention", "sliding_attention")

# Settings of a configuration that change the computation, and the families that are computed with them here. Set for any other family,
# transformers ignores them, and other programs may not.
_COMPUTED_BY: dict[str, frozenset[str]] = {
    "sliding_window": _WINDOWED,
    "attn_logit_softcapping": frozenset({"gemma2"}),
    "final_logit_softcapping": frozenset({"gemma2", "gemma3_text"}),
    "use_bidirectional_attention": frozenset(),
    "attention_chunk_size": frozenset(),
    "attention_multiplier": frozenset({"granite"}),
    "embedding_multiplier": frozenset({"granite"}),
    "residual_multiplier": frozenset({"granite"}),
    "logit_scale": frozenset({"cohere", "cohere2"}),
    "logits_scaling": frozenset({"granite"}),
    "no_rope_layers": frozenset({"smollm3"}),
    "clip_qkv": frozenset({"olmo", "olmoe"}),
    "use_qk_norm": frozenset({"cohere"}),
    "num_experts": frozenset(_MIXTURES),
    "num_local_experts": frozenset(_MIXTURES),
}

# The same of settings within `rope_parameters`, each with the value that changes nothing.
_ROPE_COMPUTED_BY: dict[str, tuple[float, frozenset[str]]] = {
    "partial_rotary_factor": (1.0, frozenset({"phi3", "glm", "glm4"})),
    "llama_4_scaling_beta": (0.0, frozenset({"ministral3"})),
}

_DROPOUTS = ("attention_dropout", "residual_dropout", "embedding_dropout", "resid_pdrop", "embd_pdrop")

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
    (
        lambda config: config.model_type in ("nemotron", "stablelm"),
        "its layers in transformers don't tell attention which tokens of a row belong together",
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
    _check_layer_types(text, family)
    for parameters in _rope_parameters(text):
        rope_type = parameters.get("rope_type", "default")
        if rope_type not in _ROPE_TYPES:
            raise ValueError(
                f"rope_parameters.rope_type must be one of {', '.join(_ROPE_TYPES)}, got {rope_type!r}; "
                "its angles depend on the longest sequence of a batch, so that a row's groups would not be independent"
            )
        for name, (neutral, families) in _ROPE_COMPUTED_BY.items():
            value = parameters.get(name)
            if value not in (None, neutral) and family not in families:
                raise ValueError(
                    f"rope_parameters.{name} in config.json must not be set for a model of the family {family}, got {value!r}: it "
                    "would not be computed; remove it where it has no meaning, or use another model"
                )
    for name in _DROPOUTS:
        if value := getattr(text, name, None):
            raise ValueError(
                f"{name} must be 0, got {value}; with it the policy never equals the reference: set it to 0 in the model's config.json"
            )
    check_router(text)
    if getattr(text, "is_causal", None) is False:
        raise ValueError(
            "is_causal in config.json must be true, got False: a token would see those after it; use another model"
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


def head_scale(config: PretrainedConfig) -> float | None:
    """What a model's logits are multiplied by; None for one that leaves them as they are."""
    text = config.get_text_config()
    divisor: float | None = getattr(text, "logits_scaling", None)
    scale: float | None = getattr(text, "logit_scale", None) if divisor is None else 1 / divisor
    return None if scale == 1 else scale


def longest_sequence(config: PretrainedConfig) -> int | None:
    """Up to how many tokens of prompt and completion a token's angles depend on its own position alone; None where they always do.

    With longrope (arXiv 2402.13753) a sequence beyond this length turns the angles of all others in its batch into those of long ones.
    """
    limits = [
        cast(int, parameters["original_max_position_embeddings"])
        for parameters in _rope_parameters(config.get_text_config())
        if parameters.get("rope_type") == "longrope"
    ]
    return min(limits, default=None)


def check_length(config: PretrainedConfig, num_tokens: int) -> None:
    """Checks that prompts and completions of up to `num_tokens` together are exact in any row.

    Raises:
        ValueError: the model's `longest_sequence` is shorter.
    """
    longest = longest_sequence(config)
    if longest is not None and num_tokens > longest:
        raise ValueError(
            f"prompt and completion must be of at most {longest} tokens for a model of the family {config.model_type} with longrope, "
            f"got {num_tokens}: past original_max_position_embeddings its angles depend on the longest sequence of a batch; set "
            f"prepare.max_length to {longest} or less"
        )


def _check_layer_types(config: PretrainedConfig, family: str) -> None:
    kinds = _layer_types(config)
    layer_types = _LAYER_TYPES if family in _WINDOWED else _LAYER_TYPES[:1]
    for kind in kinds:
        if kind not in layer_types:
            raise ValueError(
                f"layer_types in config.json must be of {', '.join(layer_types)}, got {kind!r}; use a model without such layers"
            )
    window = getattr(config, "sliding_window", None)
    has_window = window and getattr(config, "use_sliding_window", True)
    if "sliding_attention" in kinds and not has_window:
        raise ValueError(
            f"sliding_window in config.json must be set, and use_sliding_window be true, where layer_types has sliding_attention, got "
            f"{window!r}; write full_attention for these layers, or set the window"
        )
    if has_window and "full_attention" in kinds and family in _ONE_WINDOW:
        raise ValueError(
            f"layer_types in config.json must not have full_attention for a model of the family {family} with a sliding_window, got "
            f"{kinds}: the window would be computed in all layers; remove layer_types where it has no meaning, or use another model"
        )


def _layer_types(config: PretrainedConfig) -> list[str]:
    return list(getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or [])


def _any_set(config: PretrainedConfig, *names: str) -> bool:
    return any(getattr(config, name, None) for name in names)


def _rope_parameters(config: PretrainedConfig) -> list[Mapping[str, object]]:
    """The rotary embedding's parameters, or those of each kind of layer."""
    parameters: Mapping[str, object] = getattr(config, "rope_parameters", None) or {}
    by_kind: list[Mapping[str, object]] = [part for part in parameters.values() if isinstance(part, dict)]
    return by_kind or [parameters]
