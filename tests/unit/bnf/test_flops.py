"""Floating-point operations counted by hand, and against torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig

from bnf.data.packing import Span, pack
from bnf.model.logps import row_logps
from tests.performance.flops import Flops, forward_flops, layer_weights, layer_windows, step_flops, visible_pairs
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.models import configuration, make

# One head of 2, an MLP of 3 and a vocabulary of 5 over a width of 2, two layers.
SMALL = LlamaConfig(
    hidden_size=2,
    intermediate_size=3,
    num_attention_heads=1,
    num_key_value_heads=1,
    head_dim=2,
    num_hidden_layers=2,
    vocab_size=5,
)
SPAN = Span(0, 2, (1, 3))


def test_by_hand() -> None:
    # q, k, v, o of 2 × 2 and three of 2 × 3.
    assert layer_weights(SMALL) == 4 * 4 + 3 * 6
    # The prompt sees 1 and 2 keys, the first completion 3, the second 3, 4 and 5.
    assert visible_pairs(SPAN) == 1 + 2 + 3 + 3 + 4 + 5
    forward = forward_flops(SMALL, [SPAN])
    assert forward == Flops(layers=2 * 6 * 2 * 34, attention=2 * 4 * 2 * 18, head=2 * 4 * 2 * 5)
    assert step_flops(SMALL, [SPAN]) == Flops(3 * forward.layers, 3 * forward.attention, 3 * forward.head)
    frozen = step_flops(SMALL, [SPAN], frozen_weights=True)
    assert frozen == Flops(2 * forward.layers, 3 * forward.attention, 2 * forward.head)
    assert forward_flops(SMALL, [SPAN], prompts=True).head == 2 * 5 * 2 * 5
    assert forward.total == forward.layers + forward.attention + forward.head


@pytest.mark.parametrize("window", [None, 1, 2, 3, 4, 9])
def test_pairs_are_those_that_the_rule_makes_visible(window: int | None) -> None:
    most = window or 99
    by_hand = sum(min(p + 1, most) for p in range(2)) + sum(min(p + 1, most) for n in (1, 3) for p in range(2, 2 + n))
    assert visible_pairs(SPAN, window) == by_hand


def test_windows_and_experts() -> None:
    assert layer_windows(configuration("gemma2")) == [5, None] and layer_windows(configuration("llama")) == [None, None]
    assert layer_windows(configuration("mistral_window")) == [4, 4]
    experts = LlamaConfig(**SMALL.to_dict() | {"num_experts": 7, "num_experts_per_tok": 2, "moe_intermediate_size": 4})
    assert layer_weights(experts) == 4 * 4 + 2 * 7 + 2 * (3 * 2 * 4)


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "gemma"])
def test_projections_and_head_are_those_that_torch_counts(name: str) -> None:
    """torch's counter sees the matrix products of a forward pass; attention's are in its kernels, whose masked scores it counts."""
    [row] = pack(random_groups(4), 1000)
    model = make(name, torch.float32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        row_logps(model, row, bf16=False)
    counted = counter.get_flop_counts()["Global"]
    forward = forward_flops(model.config, row.spans)
    assert counted[torch.ops.aten.mm] == forward.layers + forward.head
