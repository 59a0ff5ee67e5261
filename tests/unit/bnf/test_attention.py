import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from bnf.data.groups import Completion, PromptGroup
from bnf.data.packing import Row, pack
from bnf.model import segments
from bnf.model.attention import ATTENTION
from bnf.model.families import FAMILIES, is_mixture
from bnf.model.loading import load_model
from bnf.model.logps import row_logps
from tests.unit.bnf.helpers import VOCABULARY, padded_logps, random_groups
from tests.unit.bnf.models import LONGROPE, MODELS, YARN, configuration, make

LAYOUTS = {"a block a group": 512, "a block a piece": 0}


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def one_block_tokens(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(segments, "_ONE_BLOCK_TOKENS", request.param)
    monkeypatch.setattr(segments, "_SHARED_BLOCK_TOKENS", 9)
    monkeypatch.setattr("bnf.model.attention._BLOCK_QUERIES", 3)
    monkeypatch.setattr(segments, "_TILE_QUERIES", 3)
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
    assert {configuration(name).model_type for name in MODELS} == set(FAMILIES)


@pytest.mark.parametrize(
    "num_completions", [1, 2, 3, *(pytest.param(number, marks=pytest.mark.nightly) for number in range(4, 8)), 8]
)
@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral", "gpt_oss"])
def test_any_number_of_completions(name: str, num_completions: int, one_block_tokens: int) -> None:
    generator = torch.Generator().manual_seed(num_completions)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCABULARY, (count,), generator=generator).tolist())

    completions = tuple(Completion(tokens(1 + 3 * index % 8), 1 if index % 2 else -1) for index in range(num_completions))
    # The shortest prompt there is, and one longer than the window.
    groups = [PromptGroup("short", tokens(1), completions), PromptGroup("long", tokens(11), completions)]
    assert_equal_to_padded(name, groups, Row(tuple(groups), (0, 1)), torch.float32)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "mistral_window",
            "gemma2",
            "gemma3_text",
            "phi3_window",
            "olmo3",
            "smollm3_window",
            "ministral",
            "cohere2",
            "exaone4",
            "mixtral_window",
            "qwen3_moe_window",
            "gpt_oss",
        ),
        "starcoder2",
    ],
)
def test_windows_bite(name: str) -> None:
    """The comparisons above would notice a window that is left out: without it the values are others."""
    groups = random_groups(6, most=5)
    (row,) = pack(groups, 1000)
    windowed, wide = make(name), make(name)
    for module in wide.modules():
        if getattr(module, "sliding_window", None) is not None:
            module.sliding_window = 1000
    for config in {id(module.config): module.config for module in wide.modules() if hasattr(module, "config")}.values():
        config.sliding_window = 1000
    difference = (row_logps(windowed, row, bf16=False).logps - row_logps(wide, row, bf16=False).logps).abs()
    assert (difference > 1e-3).double().mean() > 0.3


# What each model is compared with below, so that no comparison passes because its setting does nothing there.
WITHOUT: dict[str, dict[str, Any]] = {
    "phi3": {"partial_rotary_factor": 1.0},
    "phi3_longrope": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "olmo": {"clip_qkv": None},
    "olmo3": {"rope_scaling": None},
    "smollm3": {"no_rope_layers": [1, 1]},
    "granite": {"attention_multiplier": 8**-0.5},
    "glm": {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 1.0}},
    "glm4": {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 1.0}},
    "ministral3": {"rope_parameters": {**YARN, "llama_4_scaling_beta": 0.0}},
    "cohere": {"logit_scale": 1.0},
    "cohere_normed": {"logit_scale": 1.0},
    "cohere2": {"logit_scale": 1.0},
}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *WITHOUT.items(),
        *(("granite", {setting: 1.0}) for setting in ("embedding_multiplier", "residual_multiplier", "logits_scaling")),
    ],
)
def test_settings_bite(name: str, changes: dict[str, Any]) -> None:
    (row,) = pack(random_groups(6, most=5), 1000)
    own, other = (row_logps(model, row, bf16=False).logps for model in (make(name), make(name, **changes)))
    assert ((own - other).abs() > 1e-3).double().mean() > 0.3


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "llama",
        "mistral_window",
        "gemma2",
        "gemma3_text",
        "phi3_longrope",
        "olmo3",
        "smollm3",
        "granite",
        "ministral3",
        "cohere2",
    ],
)
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


@pytest.mark.parametrize(
    "name", ["llama", "gemma2", "phi3_window", "olmo3", "glm4", "ministral3", "cohere2", "qwen3_moe", "gpt_oss"]
)
def test_plain_packing_equals_shared_prompts(name: str, one_block_tokens: int) -> None:
    groups = random_groups(5, most=5)
    model = make(name)
    (row,) = pack(groups, 1000)
    plain = replace(row, share_prompts=False)
    assert plain.num_tokens > row.num_tokens and torch.equal(plain.targets, row.targets)
    shared_logps, plain_logps = (row_logps(model, each, bf16=False).logps for each in (row, plain))
    torch.testing.assert_close(plain_logps, shared_logps, rtol=1e-5, atol=2e-5)
    assert_equal_to_padded(name, list(row.groups), plain)


@pytest.mark.parametrize(
    "name",
    ["llama", "gemma2", "phi3", "olmo2", "smollm3", "granite", "glm4", "cohere", "apertus", "arcee", "qwen2_moe", "gpt_oss"],
)
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    row = Row(tuple(random_groups(3)), (0, 1, 2))
    grads = []
    for checkpointing in (False, True):
        model = make(name, torch.float32).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        row_logps(model, row, bf16=True).logps.sum().backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*grads, strict=True))


@pytest.mark.parametrize("name", ["llama", "mistral_window", "gemma2", "gemma3_text"])
def test_bfloat16_is_no_worse_than_padded_bfloat16(name: str, one_block_tokens: int) -> None:
    """Against float64 weights of the same values: packed under autocast, and transformers' eager attention under autocast."""
    groups = random_groups(6, most=5)
    row = Row(tuple(groups), tuple(range(6)))
    model = make(name, torch.float32)
    exact = row_logps(copy.deepcopy(model).double(), row, bf16=False).logps
    with torch.autocast("cpu", dtype=torch.bfloat16):
        padded = padded_logps(make(name, torch.float32, attention="eager"), groups).double()
    packed = row_logps(model, row, bf16=True).logps.double()
    assert (packed - exact).norm() <= 1.25 * (padded - exact).norm()


@pytest.mark.parametrize("name", MODELS)
def test_in_float32_and_bfloat16_values_and_gradients_are_no_worse_than_padded_ones(name: str) -> None:
    """Against float64: the norm of the error in all log-probabilities, and in the gradients of all parameters together."""
    groups = random_groups(8, most=5)
    row = Row(tuple(groups), tuple(range(8)))
    factors = torch.linspace(-1, 1, row.num_completion_tokens, dtype=torch.float64)
    packed, padded = make(name, torch.float32), make(name, torch.float32, attention="eager")

    def outcome(model: PreTrainedModel, logps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        found = torch.autograd.grad((factors.to(logps.dtype) * logps).sum(), parameters, allow_unused=True)
        return logps.detach().double(), torch.cat([each.flatten() for each in found if each is not None]).double()

    exact = copy.deepcopy(packed).double()
    expected = outcome(exact, row_logps(exact, row, bf16=False).logps)
    for bf16 in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            logps = padded_logps(padded, groups)
        theirs = outcome(padded, logps)
        ours = outcome(packed, row_logps(packed, row, bf16=bf16).logps)
        # Between two experts that are nearly tied bfloat16 may choose the other one, which says nothing of the rest.
        size = torch.Tensor.median if bf16 and is_mixture(packed.config) else torch.Tensor.norm
        # A gradient is noisier than a log-probability. Where both are exact to rounding, rounding decides.
        for own, peer, truth, most in zip(ours, theirs, expected, (1.25, 2.0), strict=True):
            off, peers_off, scale = (size(values.abs()) for values in (own - truth, peer - truth, truth))
            assert off <= most * peers_off + torch.finfo(torch.float32).eps * scale


def test_with_longrope_a_longer_sequence_in_the_batch_changes_all_others() -> None:
    """Why rows stop at the length where the long factors begin."""
    model = make("phi3_longrope", attention="eager")
    ids = torch.arange(5, 5 + 33)[None]
    short = model(input_ids=ids[:, :32]).logits
    assert not torch.allclose(model(input_ids=ids).logits[:, :32], short)


@pytest.mark.parametrize("name", ["phi3_longrope", "gemma3_longrope"])
def test_with_longrope_rows_stop_where_the_long_factors_begin(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}, "full_attention": LONGROPE}
    gemma3 = (MODELS["gemma3_text"][0], {**MODELS["gemma3_text"][1], "rope_parameters": kinds, "max_position_embeddings": 128})
    monkeypatch.setitem(MODELS, "gemma3_longrope", gemma3)
    fits = PromptGroup("fits", tuple(range(3, 23)), (Completion(tuple(range(30, 42)), 1), Completion((50, 51, 52), -1)))
    assert_equal_to_padded(name, [fits], Row((fits,), (0,)))
    longer = replace(fits, id="longer", prompt_ids=tuple(range(3, 24)))
    model = make(name)
    before = row_logps(model, Row((fits,), (0,)), bf16=False).logps
    with pytest.raises(
        ValueError,
        match=r"^prompt and completion must be of at most 32 tokens .* with longrope, got 33: .* prepare.max_length to 32",
    ):
        row_logps(model, Row((fits, longer), (0, 1)), bf16=False)
    # A sample of an evaluation may be longer. The rows after it have the short factors again.
    model.set_attn_implementation("sdpa")
    model(input_ids=torch.arange(5, 45)[None])
    model.set_attn_implementation(ATTENTION)
    assert torch.equal(row_logps(model, Row((fits,), (0,)), bf16=False).logps, before)


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
    torch.testing.assert_close(packed, alone)
    for leak in ({"use_cache": True}, {"use_cache": False, "attention_mask": torch.ones_like(ids)}):
        leaking = model(input_ids=ids, position_ids=positions, **leak).logits[:, 3:]
        assert not torch.allclose(leaking, alone), leak
