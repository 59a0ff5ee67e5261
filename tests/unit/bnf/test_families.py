from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import (
    ApertusConfig,
    ArceeConfig,
    BartConfig,
    BloomConfig,
    Cohere2Config,
    CohereConfig,
    DeepseekV3Config,
    Ernie4_5Config,
    Exaone4Config,
    FalconConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    Glm4Config,
    GlmConfig,
    GPT2Config,
    GptOssConfig,
    GraniteConfig,
    GraniteMoeConfig,
    HeliumConfig,
    HunYuanDenseV1Config,
    JambaConfig,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Ministral3Config,
    MinistralConfig,
    MistralConfig,
    MixtralConfig,
    NemotronConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
    OlmoeConfig,
    OPTConfig,
    Phi3Config,
    PhimoeConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3_5TextConfig,
    Qwen3MoeConfig,
    Qwen3NextConfig,
    SeedOssConfig,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
    SwitchTransformersConfig,
    T5Config,
)

from bnf.model.families import FAMILIES, check_length, check_model, head_scale, head_softcap, longest_sequence
from bnf.model.loading import load_model

STATE, EXPERTS, POSITIONS = "carry a state from token to token", "routed to experts", "absolute position embeddings"


@pytest.mark.parametrize(
    ("config", "obstacle"),
    [
        (GPT2Config(), POSITIONS),
        (OPTConfig(), POSITIONS),
        (BloomConfig(), "ALiBi"),
        (FalconConfig(alibi=True), "ALiBi"),
        (T5Config(), "encoder-decoder"),
        (BartConfig(), "encoder-decoder"),
        (SwitchTransformersConfig(), "encoder-decoder"),
        (PhimoeConfig(), f"{EXPERTS}, of which its router draws some at random in training"),
        (DeepseekV3Config(), EXPERTS),
        (GraniteMoeConfig(), EXPERTS),
        (Llama4TextConfig(), EXPERTS),
        (JambaConfig(), STATE),
        (Qwen3NextConfig(), STATE),
        (Qwen3_5TextConfig(), STATE),
        (NemotronConfig(), "don't tell attention"),
        (StableLmConfig(), "don't tell attention"),
        (HunYuanDenseV1Config(), "use a model of these families"),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_other_families_are_refused_by_name(config: PretrainedConfig, obstacle: str) -> None:
    with pytest.raises(
        ValueError, match=f"^model_name_or_path must be of the family .* got '{config.model_type}'; .*{obstacle}"
    ):
        check_model(config)


SCALED = {"rope_theta": 1e4, "factor": 2.0}
PARTS: dict[str, tuple[Callable[[], PretrainedConfig], str]] = {
    "dynamic rope": (
        lambda: LlamaConfig(rope_parameters={"rope_type": "dynamic", **SCALED}),
        r"rope_type must be one of .* got 'dynamic'; its angles depend on the longest sequence",
    ),
    "dynamic rope in one kind of layer": (
        lambda: Gemma3TextConfig(
            rope_parameters={
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                "full_attention": {"rope_type": "dynamic", **SCALED},
            }
        ),
        r"rope_type must be one of .* got 'dynamic'",
    ),
    "dropout": (lambda: LlamaConfig(attention_dropout=0.1), r"attention_dropout must be 0, got 0\.1; .* config\.json"),
    "dropout inside": (lambda: Gemma3Config(text_config={"attention_dropout": 0.1}), r"attention_dropout must be 0, got 0\.1"),
    "a window that Llama does not have": (
        lambda: LlamaConfig(sliding_window=512),
        "sliding_window in config.json must not be set for a model of the family llama, got 512: it would not be computed; remove",
    ),
    "scores capped where transformers does not": (
        lambda: Gemma3TextConfig(attn_logit_softcapping=50.0),
        r"attn_logit_softcapping .* family gemma3_text, got 50\.0",
    ),
    "logits capped where transformers does not": (
        lambda: Gemma3Config(text_config={"final_logit_softcapping": 30.0}),
        r"final_logit_softcapping .* family gemma3, got 30\.0",
    ),
    "both directions": (lambda: Gemma3TextConfig(use_bidirectional_attention=True), "use_bidirectional_attention .* got True"),
    "scaled logits": (lambda: Qwen2Config(logit_scale=0.5), r"logit_scale .* family qwen2, got 0\.5"),
    "chunked attention": (
        lambda: Qwen2Config(num_hidden_layers=2, layer_types=["full_attention", "chunked_attention"]),
        "layer_types in config.json must be of full_attention, sliding_attention, got 'chunked_attention'",
    ),
    "a window that transformers' Qwen2-MoE doesn't pass to its attention": (
        lambda: Qwen2MoeConfig(use_sliding_window=True),
        r"sliding_window .* family qwen2_moe, got 4096: it would not be computed",
    ),
    "layers with such a window": (
        lambda: Qwen2MoeConfig(num_hidden_layers=2, layer_types=["full_attention", "sliding_attention"]),
        "layer_types in config.json must be of full_attention, got 'sliding_attention'",
    ),
    "a router's noise": (
        lambda: MixtralConfig(router_jitter_noise=0.01),
        r"router_jitter_noise must be 0\.0, got 0\.01; its noise would keep the policy from equalling the reference: set it to 0\.0",
    ),
    "a router's auxiliary loss": (
        lambda: Qwen3MoeConfig(output_router_logits=True),
        r"output_router_logits must be False, got True; .* auxiliary loss .* is not added: set it to False in the model's config",
    ),
    "experts that Llama does not have": (lambda: LlamaConfig(num_local_experts=8), "num_local_experts .* family llama, got 8"),
    "quantized experts": (
        lambda: GptOssConfig(quantization_config={"quant_method": "mxfp4"}),
        "quantization_config in config.json must not be set, .* or a copy with dequantized ones",
    ),
    "multipliers of Granite": (
        lambda: LlamaConfig(embedding_multiplier=12.0),
        r"embedding_multiplier .* family llama, got 12\.0",
    ),
    "clipping": (lambda: Olmo2Config(clip_qkv=8.0), r"clip_qkv .* family olmo2, got 8\.0"),
    "norms of queries and keys": (lambda: Cohere2Config(use_qk_norm=True), "use_qk_norm .* family cohere2, got True"),
    "layers without positions": (lambda: LlamaConfig(no_rope_layers=[1, 0]), "no_rope_layers .* family llama"),
    "a part of a head rotated": (
        lambda: LlamaConfig(partial_rotary_factor=0.5),
        r"rope_parameters\.partial_rotary_factor in config\.json must not be set for a model of the family llama, got 0\.5",
    ),
    "queries scaled by position": (
        lambda: MistralConfig(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "llama_4_scaling_beta": 0.1}),
        r"rope_parameters\.llama_4_scaling_beta .* family mistral, got 0\.1",
    ),
    "dropout of Phi-3": (lambda: Phi3Config(resid_pdrop=0.1), r"resid_pdrop must be 0, got 0\.1"),
    "dropout of its embeddings": (lambda: Phi3Config(embd_pdrop=0.1), r"embd_pdrop must be 0, got 0\.1"),
    "dropout as Seed-OSS is published": (lambda: SeedOssConfig(), r"attention_dropout must be 0, got 0\.1"),
    "dropout of the residual stream": (lambda: SeedOssConfig(attention_dropout=0.0), r"residual_dropout must be 0, got 0\.1"),
    "dropout of StarCoder2's embeddings": (
        lambda: Starcoder2Config(embedding_dropout=0.1),
        r"embedding_dropout must be 0, got 0\.1",
    ),
    "not causal": (lambda: LlamaConfig(is_causal=False), "is_causal in config.json must be true, got False"),
    "a window that is switched off": (
        lambda: SmolLM3Config(num_hidden_layers=2, layer_types=["sliding_attention"] * 2, sliding_window=512),
        "sliding_window in config.json must be set, and use_sliding_window be true, where layer_types has sliding_attention, got 512",
    ),
    "a window without a length": (
        lambda: Olmo3Config(num_hidden_layers=1, layer_types=["sliding_attention"], sliding_window=None),
        "sliding_window in config.json must be set, .* got None",
    ),
    "global layers of a family that has none beside a window": (
        lambda: MistralConfig(num_hidden_layers=2, sliding_window=512, layer_types=["sliding_attention", "full_attention"]),
        "layer_types in config.json must not have full_attention for a model of the family mistral with a sliding_window, got",
    ),
    "quantized": (
        lambda: LlamaConfig(quantization_config={"quant_method": "gptq", "bits": 4}),
        "quantization_config in config.json must not be set, got quantized weights",
    ),
}


@pytest.mark.parametrize("part", PARTS)
def test_parts_that_would_not_be_computed_are_refused(part: str) -> None:
    make, message = PARTS[part]
    with pytest.raises(ValueError, match=message):
        check_model(make())


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}


def test_families_as_they_are_published_pass() -> None:
    """The configurations' defaults are those of published models; so are these."""
    configs = [
        LlamaConfig(rope_parameters=LLAMA3, tie_word_embeddings=True),
        MistralConfig(),
        MistralConfig(sliding_window=None),
        Qwen2Config(),
        Qwen2Config(use_sliding_window=True, max_window_layers=2),
        Gemma2Config(),
        Gemma3TextConfig(),
        Gemma3Config(),
        # Their auxiliary losses have a factor, and nothing asks for them.
        MixtralConfig(router_aux_loss_coef=0.02),
        Qwen2MoeConfig(),
        Qwen3MoeConfig(),
        OlmoeConfig(),
        GptOssConfig(),
        Phi3Config(sliding_window=2047),
        Phi3Config(rope_parameters=dict(LONGROPE), max_position_embeddings=131072, sliding_window=262144),
        # Phi-4-mini: three quarters of a head of 128 are rotated.
        Phi3Config(
            num_attention_heads=24,
            num_key_value_heads=8,
            partial_rotary_factor=0.75,
            rope_parameters=dict(LONGROPE),
            max_position_embeddings=131072,
        ),
        OlmoConfig(clip_qkv=8.0),
        Olmo2Config(),
        Olmo3Config(),
        SmolLM3Config(),
        GraniteConfig(embedding_multiplier=12.0, residual_multiplier=0.22, attention_multiplier=0.0078125, logits_scaling=16.0),
        GlmConfig(),
        Glm4Config(),
        MinistralConfig(),
        Ministral3Config(),
        CohereConfig(use_qk_norm=True),
        Cohere2Config(),
        ApertusConfig(),
        ArceeConfig(),
        Ernie4_5Config(),
        Exaone4Config(),
        HeliumConfig(),
        SeedOssConfig(attention_dropout=0.0, residual_dropout=0.0),
        Starcoder2Config(),
    ]
    for config in configs:
        check_model(config)
    assert {config.model_type for config in configs} < set(FAMILIES)


def test_the_head_s_scale() -> None:
    assert head_scale(CohereConfig(logit_scale=0.0625)) == 0.0625
    assert head_scale(GraniteConfig(logits_scaling=16.0)) == 1 / 16
    assert head_scale(GraniteConfig()) is None and head_scale(LlamaConfig()) is None and head_scale(Gemma2Config()) is None


def test_how_long_a_sequence_is_exact() -> None:
    long = Phi3Config(rope_parameters=dict(LONGROPE), max_position_embeddings=131072)
    assert (
        longest_sequence(long) == 4096 and longest_sequence(Phi3Config()) is None and longest_sequence(Gemma3Config()) is None
    )
    check_length(long, 4096)
    check_length(LlamaConfig(), 10**6)
    with pytest.raises(
        ValueError, match=r"at most 4096 tokens for a model of the family phi3 .* got 4097: .*; set prepare\.max_length to 4096"
    ):
        check_length(long, 4097)


def test_the_head_s_cap() -> None:
    assert head_softcap(Gemma2Config()) == 30.0
    assert head_softcap(Gemma3Config()) is None
    assert head_softcap(LlamaConfig()) is None


def test_a_model_folder_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="got 'gpt2'"):
        load_model(tmp_path)


def test_a_model_folder_with_a_biased_head_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    shape = {"vocab_size": 7, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(**shape))
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(LlamaForCausalLM, "get_output_embeddings", lambda self: torch.nn.Linear(8, 7))
    with pytest.raises(ValueError, match="output head must have no bias"):
        load_model(tmp_path)
