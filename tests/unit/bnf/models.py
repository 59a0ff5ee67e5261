"""Tiny random models of every family that packed rows are made for."""

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OlmoeConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from bnf.model.attention import ATTENTION
from bnf.model.experts import EXPERTS
from bnf.model.families import check_model
from bnf.model.lean import keep_less
from tests.unit.bnf.helpers import VOCABULARY

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
}
# A window that most paths of `random_groups` outgrow, in layers that alternate with global ones.
WINDOW: dict[str, Any] = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
GEMMA: dict[str, Any] = {**WINDOW, "query_pre_attn_scalar": 5}
# Low enough to bend these models' scores and logits.
CAPS: dict[str, Any] = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
# Few tokens choose each expert, and some experts none.
ROUTED: dict[str, Any] = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "truncate": False,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
MODELS: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "llama_tied": (LlamaConfig, {"tie_word_embeddings": True}),
    "llama_biased": (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "mistral": (MistralConfig, {"sliding_window": None}),
    "mistral_window": (MistralConfig, {"sliding_window": 4}),
    "qwen2": (Qwen2Config, {}),
    "qwen2_window": (Qwen2Config, {**WINDOW, "use_sliding_window": True}),
    "qwen3": (Qwen3Config, {}),
    "gemma": (GemmaConfig, {}),
    "gemma2": (Gemma2Config, {**GEMMA, **CAPS}),
    "gemma3_text": (Gemma3TextConfig, GEMMA),
    "gemma3_text_capped": (Gemma3TextConfig, {**GEMMA, "final_logit_softcapping": 3.0}),
    "gemma3": (Gemma3Config, GEMMA),
    "mixtral": (MixtralConfig, {"num_local_experts": 4}),
    "mixtral_window": (MixtralConfig, {"num_local_experts": 4, "sliding_window": 4}),
    # A layer of experts, one that all tokens share among them, before a layer without.
    "qwen2_moe": (
        Qwen2MoeConfig,
        {**ROUTED, "shared_expert_intermediate_size": 24, "mlp_only_layers": [1]},
    ),
    "qwen3_moe": (Qwen3MoeConfig, {**ROUTED, "norm_topk_prob": True}),
    "qwen3_moe_window": (Qwen3MoeConfig, {**ROUTED, "sliding_window": 4, "use_sliding_window": True}),
    "olmoe": (OlmoeConfig, {"head_dim": 6, "eos_token_id": 2, "num_experts": 8, "num_experts_per_tok": 3, "clip_qkv": 1.5}),
    "gpt_oss": (
        GptOssConfig,
        {**WINDOW, "num_local_experts": 6, "num_experts_per_tok": 2, "swiglu_limit": 0.5, "rope_parameters": YARN},
    ),
}


def configuration(name: str, **changes: Any) -> PretrainedConfig:
    """Of one of MODELS, with other shapes where `changes` says so."""
    kind, own = MODELS[name]
    values = {**SHAPE, **own, **changes}
    return kind(text_config=values, vision_config=VISION) if kind is Gemma3Config else kind(**values)


def make(name: str, dtype: torch.dtype = torch.float64, *, attention: str = ATTENTION, **changes: Any) -> PreTrainedModel:
    """A random model; its norms' and biases' weights are random too, so that nothing is hidden by a 0 or a 1."""
    config = configuration(name, **changes)
    check_model(config)
    torch.manual_seed(0)
    # transformers' loop over experts is the plainest of its implementations.
    experts = EXPERTS if attention == ATTENTION else "eager"
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, experts_implementation=experts, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    for parameter_name, parameter in model.named_parameters():
        if parameter.ndim == 1 or parameter_name.endswith("_bias"):
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
    if attention == ATTENTION:
        keep_less(model)  # as `load_model` does
    return model.eval()
