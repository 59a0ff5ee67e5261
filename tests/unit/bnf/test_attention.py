import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from bnf import segments
from bnf.attention import ATTENTION
from bnf.families import FAMILIES, check_model
from bnf.groups import Completion, PromptGroup
from bnf.logps import row_logps
from bnf.models import load_model
from bnf.packing import Row, pack
from tests.unit.bnf.helpers import VOCABULARY, padded_logps, random_groups

SHAPE = {
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
WINDOWED = {**SHAPE, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
# Caps low enough to bend these models' scores and logits.
CAPPED = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
GEMMA = {**WINDOWED, "query_pre_attn_scalar": 5}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
MODELS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "llama_tied": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama_biased": lambda: LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=None),
    "mistral_window": lambda: MistralConfig(**SHAPE, sliding_window=4),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen2_window": lambda: Qwen2Config(**WINDOWED, use_sliding_window=True),
    "qwen3": lambda: Qwen3Config(**SHAPE),
    "gemma": lambda: GemmaConfig(**SHAPE),
    "gemma2": lambda: Gemma2Config(**GEMMA, **CAPPED),
    "gemma3_text": lambda: Gemma3TextConfig(**GEMMA),
    "gemma3_text_capped": lambda: Gemma3TextConfig(**GEMMA, final_logit_softcapping=3.0),
    "gemma3": lambda: Gemma3Config(text_config=GEMMA, vision_config=VISION, image_token_index=3),
}
LAYOUTS = {"a block a group": 512, "a block a piece": 0}


def make(name: str, dtype: torch.dtype = torch.float64, *, attention: str = ATTENTION) -> PreTrainedModel:
    """A random model; its norms' and biases' weights are random too, so that nothing is hidden by a 0 or a 1."""
    config = MODELS[name]()
    check_model(config)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
    return model.eval()


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def one_block_tokens(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(segments, "_ONE_BLOCK_TOKENS", request.param)
    monkeypatch.setattr(segments, "_SHARED_BLOCK_TOKENS", 9)
    monkeypatch.setattr("bnf.attention._BLOCK_QUERIES", 3)
    return int(request.param)


def assert_equal_to_padded(name: str, groups: list[PromptGroup], row: Row, dtype: torch.dtype = torch.float64) -> None:
    """Values and gradients of all parameters, packed against transformers' eager attention on the padded batch."""
    packed, padded = make(name, dtype), make(name, dtype, attention="eager")
    factors = torch.linspace(-1, 1, row.num_completion_tokens, dtype=dtype)
    logps = row_logps(packed, row, bf16=False).logps
    expected = padded_logps(padded, groups)
    # transformers normalises, rotates and takes the softmax in float32 whatever the model's dtype.
    torch.testing.assert_close(logps, expected, rtol=1e-5, atol=2e-5)
    (factors * logps).sum().backward()
    (factors * expected).sum().backward()
    for (parameter, ours), theirs in zip(packed.named_parameters(), padded.parameters(), strict=True):
        if theirs.grad is None:
            assert ours.grad is None, parameter
            continue
        scale = float(theirs.grad.abs().max())
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=2e-5 * max(scale, 1), msg=parameter)


@pytest.mark.parametrize("name", MODELS)
def test_packed_equals_padded_in_value_and_gradient(name: str, one_block_tokens: int) -> None:
    groups = random_groups(6, most=5)
    (row,) = pack(groups, 1000)
    assert_equal_to_padded(name, [groups[index] for index in row.indices], row)


def test_every_family_is_compared_with_padded_computation() -> None:
    assert {make().model_type for make in MODELS.values()} == set(FAMILIES)


@pytest.mark.parametrize("num_completions", range(1, 9))
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_any_number_of_completions(name: str, num_completions: int, one_block_tokens: int) -> None:
    generator = torch.Generator().manual_seed(num_completions)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCABULARY, (count,), generator=generator).tolist())

    completions = tuple(Completion(tokens(1 + 3 * index % 8), 1 if index % 2 else -1) for index in range(num_completions))
    # The shortest prompt there is, and one longer than the window.
    groups = [PromptGroup("short", tokens(1), completions), PromptGroup("long", tokens(11), completions)]
    assert_equal_to_padded(name, groups, Row(tuple(groups), (0, 1)), torch.float32)


@pytest.mark.parametrize("name", ["mistral_window", "gemma2", "gemma3_text"])
def test_windows_bite(name: str) -> None:
    """The comparisons above would notice a window that is left out: without it the values are others."""
    groups = random_groups(6, most=5)
    (row,) = pack(groups, 1000)
    windowed, wide = make(name), make(name)
    for module in wide.modules():
        if getattr(module, "sliding_window", None) is not None:
            module.sliding_window = None
    for config in {id(module.config): module.config for module in wide.modules() if hasattr(module, "config")}.values():
        config.sliding_window = None
    difference = (row_logps(windowed, row, bf16=False).logps - row_logps(wide, row, bf16=False).logps).abs()
    assert (difference > 1e-3).double().mean() > 0.3


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", ["llama", "mistral_window", "gemma2", "gemma3_text"])
def test_nothing_leaks_between_completions_or_groups(name: str, bf16: bool, one_block_tokens: int) -> None:
    model = make(name, torch.float32)
    groups = tuple(random_groups(4, prompt=(5, 9), completion=(3, 7)))
    row = Row(groups, tuple(range(4)))
    changed_ids = tuple((token + 7) % VOCABULARY for token in groups[1].completions[0].token_ids)
    completions = (replace(groups[1].completions[0], token_ids=changed_ids), *groups[1].completions[1:])
    changed = Row((groups[0], replace(groups[1], completions=completions), *groups[2:]), row.indices)

    before, after = (row_logps(model, each, bf16=bf16) for each in (row, changed))
    touched = row.completion_of_token == len(groups[0].completions)
    assert torch.equal(before.logps[~touched], after.logps[~touched])
    assert torch.equal(before.log_odds[~touched], after.log_odds[~touched])
    assert not torch.isclose(before.logps[touched], after.logps[touched]).any()


def test_gradient_of_one_completion_reaches_no_other(tiny_model_dir: Path) -> None:
    model = load_model(tiny_model_dir)
    group = PromptGroup("g", (5, 6, 7), (Completion((10, 11, 12), 1), Completion((20, 21), -1), Completion((30, 31), 1)))
    row = Row((group,), (0,))
    embedded = []
    model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: embedded.append(output) or output.retain_grad()
    )
    row_logps(model, row, bf16=False).logps[row.completion_of_token == 1].sum().backward()
    reached = embedded[0].grad[0].abs().sum(dim=1) > 0
    # The prompt, and the second completion's tokens but for its last, which predicts nothing.
    assert reached.tolist() == [True] * 3 + [False] * 3 + [True, False] + [False] * 2


def test_without_segments_the_kernel_refuses(tiny_model_dir: Path) -> None:
    model = load_model(tiny_model_dir)
    with pytest.raises(ValueError, match="segments must be given"):
        model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False)


def test_transformers_own_packing_leaks_with_a_cache() -> None:
    """Why rows have a kernel of their own: positions that restart are seen as packing under two conditions only."""
    model = make("llama", attention="sdpa")
    ids, positions = torch.tensor([[5, 6, 7, 5, 6, 9]]), torch.tensor([[0, 1, 2, 0, 1, 2]])
    alone = model(input_ids=ids[:, 3:]).logits
    packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, 3:]
    leaking = model(input_ids=ids, position_ids=positions, use_cache=True).logits[:, 3:]
    torch.testing.assert_close(packed, alone)
    assert not torch.allclose(leaking, alone)


def test_models_that_are_not_supported_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="must be of the family llama, mistral, qwen2, qwen3, got 'gpt2'"):
        check_model(GPT2Config())
    with pytest.raises(ValueError, match=r"rope_type must be one of .* got 'dynamic'"):
        check_model(LlamaConfig(**SHAPE, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}))
    with pytest.raises(ValueError, match=r"attention_dropout must be 0, got 0\.1"):
        check_model(LlamaConfig(**SHAPE, attention_dropout=0.1))
