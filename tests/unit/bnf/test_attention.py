import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from bnf import attention
from bnf.attention import ATTENTION, check_model
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
FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "llama_tied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE)),
}


def make(family: str, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    torch.manual_seed(0)
    return FAMILIES[family]().to(dtype)


@pytest.mark.parametrize("one_call_tokens", [512, 0], ids=["one call a group", "a call a segment"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_padded_in_value_and_gradient(family: str, one_call_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_ONE_CALL_TOKENS", one_call_tokens)
    groups = random_groups(6, most=5)
    packed, padded = make(family), make(family)
    packed.set_attn_implementation(ATTENTION)
    padded.set_attn_implementation("eager")
    (row,) = pack(groups, 1000)
    ordered = [groups[index] for index in row.indices]
    factors = torch.linspace(-1, 1, row.num_completion_tokens, dtype=torch.float64)

    logps = row_logps(packed, row, bf16=False).logps
    expected = padded_logps(padded, ordered)
    # transformers normalises and rotates in float32 whatever the model's dtype.
    torch.testing.assert_close(logps, expected, rtol=0, atol=1e-5)
    (factors * logps).sum().backward()
    (factors * expected).sum().backward()
    for (name, ours), theirs in zip(packed.named_parameters(), padded.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("one_call_tokens", [512, 0])
def test_nothing_leaks_between_completions_or_groups(
    tiny_model_dir: Path, one_call_tokens: int, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_ONE_CALL_TOKENS", one_call_tokens)
    model = load_model(tiny_model_dir)
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
    model = make("llama")
    model.set_attn_implementation("sdpa")
    ids, positions = torch.tensor([[5, 6, 7, 5, 6, 9]]), torch.tensor([[0, 1, 2, 0, 1, 2]])
    alone = model(input_ids=ids[:, 3:]).logits
    packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, 3:]
    leaking = model(input_ids=ids, position_ids=positions, use_cache=True).logits[:, 3:]
    torch.testing.assert_close(packed, alone)
    assert not torch.allclose(leaking, alone)


def test_window_shorter_than_a_path_is_refused() -> None:
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=6))
    model.set_attn_implementation(ATTENTION)
    fits = PromptGroup("fits", (1, 2, 3), (Completion((4, 5, 6), 1), Completion((7,), -1)))
    too_long = PromptGroup("too long", (1, 2, 3), (Completion((4, 5, 6, 7), 1),))
    expected = copy.deepcopy(model)
    expected.set_attn_implementation("eager")
    torch.testing.assert_close(row_logps(model, Row((fits,), (0,)), bf16=False).logps, padded_logps(expected, [fits]))
    with pytest.raises(ValueError, match=r"sliding_window must be at least .* \(7 tokens\), got 6"):
        row_logps(model, Row((too_long,), (0,)), bf16=False)


def test_models_that_are_not_supported_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="must be of the family llama, mistral, qwen2, qwen3, got 'gpt2'"):
        check_model(GPT2Config())
    with pytest.raises(ValueError, match=r"rope_type must be one of .* got 'dynamic'"):
        check_model(LlamaConfig(**SHAPE, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}))
    with pytest.raises(ValueError, match=r"attention_dropout must be 0, got 0\.1"):
        check_model(LlamaConfig(**SHAPE, attention_dropout=0.1))
