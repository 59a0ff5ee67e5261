"""Tiny random models of every family that packed rows are made for."""

import copy
from typing import Any

import torch
from transformers import (
    ApertusConfig,
    ArceeConfig,
    AutoModelForCausalLM,
    Cohere2Config,
    CohereConfig,
    Ernie4_5Config,
    Exaone4Config,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4Config,
    GlmConfig,
    GptOssConfig,
    GraniteConfig,
    HeliumConfig,
    LlamaConfig,
    Ministral3Config,
    MinistralConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
    OlmoeConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    SeedOssConfig,
    SmolLM3Config,
    Starcoder2Config,
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
YARN_OF_GPT_OSS: dict[str, Any] = {
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
# Within the vocabulary, for families whose own lie beyond it.
TOKENS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
# For families whose heads must make up the hidden size.
EVEN: dict[str, Any] = {**TOKENS, "hidden_size": 32}
# Bends the angles within the first positions already.
YARN: dict[str, Any] = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 4}
# Short up to 32 tokens, which no path of `random_groups` reaches.
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.3, 1.7, 2.0],
    "long_factor": [1.0, 4.0, 9.0, 16.0],
    "original_max_position_embeddings": 32,
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
        {**WINDOW, "num_local_experts": 6, "num_experts_per_tok": 2, "swiglu_limit": 0.5, "rope_parameters": YARN_OF_GPT_OSS},
    ),
    "phi3": (Phi3Config, {**EVEN, "partial_rotary_factor": 0.5}),
    "phi3_window": (Phi3Config, {**EVEN, "sliding_window": 4}),
    "phi3_longrope": (
        Phi3Config,
        {**EVEN, "rope_parameters": LONGROPE, "original_max_position_embeddings": 32, "max_position_embeddings": 128},
    ),
    "olmo": (OlmoConfig, {**TOKENS, "clip_qkv": 0.7}),
    "olmo2": (Olmo2Config, TOKENS),
    "olmo3": (Olmo3Config, {**TOKENS, **WINDOW, "rope_scaling": YARN, "max_position_embeddings": 16}),
    "smollm3": (SmolLM3Config, {**TOKENS, "no_rope_layers": [1, 0]}),
    "smollm3_window": (SmolLM3Config, {**TOKENS, **WINDOW, "no_rope_layers": [0, 1], "use_sliding_window": True}),
    "granite": (
        GraniteConfig,
        {"attention_multiplier": 0.5, "embedding_multiplier": 3.0, "residual_multiplier": 0.4, "logits_scaling": 3.0},
    ),
    "glm": (GlmConfig, TOKENS),
    "glm4": (Glm4Config, TOKENS),
    "ministral": (MinistralConfig, WINDOW),
    # A query at position 4 or later is scaled up.
    "ministral3": (
        Ministral3Config,
        {**TOKENS, "rope_parameters": {**YARN, "llama_4_scaling_beta": 0.4}, "max_position_embeddings": 16},
    ),
    "cohere": (CohereConfig, {**TOKENS, "logit_scale": 0.3}),
    "cohere_normed": (CohereConfig, {**TOKENS, "logit_scale": 2.0, "use_qk_norm": True}),
    "cohere2": (Cohere2Config, {**EVEN, **WINDOW, "logit_scale": 0.3}),
    "apertus": (ApertusConfig, TOKENS),
    "arcee": (ArceeConfig, TOKENS),
    "ernie4_5": (Ernie4_5Config, {"use_bias": True}),
    "exaone4": (Exaone4Config, WINDOW),
    "helium": (HeliumConfig, EVEN),
    "seed_oss": (SeedOssConfig, {"attention_dropout": 0.0, "residual_dropout": 0.0}),
    "starcoder2": (Starcoder2Config, {**TOKENS, "sliding_window": 4}),
}


def configuration(name: str, **changes: Any) -> PretrainedConfig:
    """Of one of MODELS, with other shapes where `changes` says so."""
    kind, own = MODELS[name]
    # A configuration writes into what it is given.
    values = copy.deepcopy({**SHAPE, **own, **changes})
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
