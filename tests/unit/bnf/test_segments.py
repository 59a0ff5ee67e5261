"""The rule of who sees whom, against a mask that is written down sequence by sequence; the blocks and FlexAttention's block mask
against the rule.
"""

import random

import pytest
import torch
from torch.nn.attention import flex_attention as torch_flex
from torch.nn.attention.flex_attention import flex_attention
from transformers.integrations import flex_attention as transformers_flex

from bnf.data.packing import Span
from bnf.model import attention, cuda_attention, segments
from bnf.model.segments import SegmentPlan
from tests.gpu.checks import by_sequence

WINDOWS = [None, 1, 3, 6, 100]


def random_spans(seed: int, *, plain: bool = False) -> list[Span]:
    rng = random.Random(seed)
    spans: list[Span] = []
    for _ in range(rng.randint(1, 4)):
        lengths = tuple(rng.randint(1, 9) for _ in range(1 if plain else rng.randint(1, 8)))
        spans.append(Span(spans[-1].stop if spans else 0, rng.randint(1, 12), lengths))
    return spans


def written_down(spans: list[Span], window: int | None) -> torch.Tensor:
    """(T, T): every prompt + completion as a sequence of its own with a causal mask, carried to the places of its tokens."""
    size = spans[-1].stop
    mask = torch.zeros(size, size, dtype=torch.bool)
    for span in spans:
        prompt = list(range(span.start, span.start + span.prompt_length))
        for start, length in span.completion_starts():
            path = [*prompt, *range(start, start + length)]
            for place, query in enumerate(path):
                first = 0 if window is None else max(0, place - window + 1)
                for key in path[first : place + 1]:
                    mask[query, key] = True
    return mask


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("seed", range(4))
def test_rule(seed: int, window: int | None) -> None:
    spans = random_spans(seed)
    plan = SegmentPlan(spans)
    places = torch.arange(plan.num_tokens)
    expected = written_down(spans, window)
    assert torch.equal(plan.visible(places[:, None], places[None, :], window), expected)
    assert torch.equal(plan.visible(places[:, None], places[None, :], plan.window(window)), expected)
    mask = plan.mask_mod(window, torch.device("cpu"))(torch.tensor(0), torch.tensor(0), places[:, None], places[None, :])
    assert torch.equal(mask, expected)


@pytest.mark.parametrize("most_queries", [None, 1, 4, 64])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("tokens", [(512, 128), (0, 6), (15, 10)])
def test_blocks_hold_each_query_once_with_all_keys_it_sees(
    tokens: tuple[int, int], window: int | None, most_queries: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "_ONE_BLOCK_TOKENS", tokens[0])
    monkeypatch.setattr(segments, "_SHARED_BLOCK_TOKENS", tokens[1])
    for seed in range(4):
        spans = random_spans(seed)
        plan = SegmentPlan(spans)
        seen = torch.zeros(plan.num_tokens, plan.num_tokens, dtype=torch.bool)
        covered: list[int] = []
        for block in plan.blocks(window, most_queries):
            piece = plan.pieces[block.piece]
            queries = [piece.start + place for place in range(*block.queries)]
            keys = [piece.start + place for place in range(*block.own_keys)]
            if block.prompt_keys is not None:
                assert piece.prompt is not None
                keys = [plan.pieces[piece.prompt].start + place for place in range(*block.prompt_keys)] + keys
            visible = block.visible
            if visible is None:
                assert queries == keys
                visible = torch.ones(len(queries), len(keys), dtype=torch.bool).tril()
            assert most_queries is None or len(queries) <= most_queries
            seen[torch.tensor(queries)[:, None], torch.tensor(keys)[None, :]] = visible
            covered.extend(queries)
        assert covered == list(range(plan.num_tokens))
        assert torch.equal(seen, written_down(spans, window))


def test_a_window_cuts_keys_off() -> None:
    """A long prompt under a short window: blocks take the window's keys along, not the prompt's."""
    plan = SegmentPlan([Span(0, 600, (40, 300))])
    widest = max(block.own_keys[1] - block.own_keys[0] for block in plan.blocks(16, 64))
    assert widest <= 64 + 16
    assert all(block.prompt_keys is None or block.prompt_keys[0] >= 600 - 15 for block in plan.blocks(16, 64))


@pytest.mark.parametrize("window", WINDOWS)
def test_block_mask_for_flex_attention(window: int | None) -> None:
    """Every block of 128 × 128 that has something to see is in the mask, and full only where all is seen."""
    spans = [Span(0, 150, (40, 7, 130)), Span(327, 1, (1,)), Span(329, 60, (90, 20))]
    plan = SegmentPlan(spans)
    mask = cuda_attention.block_mask(plan, window, torch.device("cpu"))
    assert cuda_attention.block_mask(plan, window, torch.device("cpu")) is mask
    dense = written_down(spans, window)
    padded = torch.zeros(512, 512, dtype=torch.bool)
    padded[: len(dense), : len(dense)] = dense
    some = padded.view(4, 128, 4, 128).permute(0, 2, 1, 3).flatten(2).any(-1)
    assert torch.equal(mask.to_dense()[0, 0].bool(), some)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        transformers_flex,
        "compile_friendly_flex_attention",
        lambda query, key, value, training=False, **options: flex_attention(query, key, value, **options),
    )


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 9, 70])
@pytest.mark.parametrize("heads", [(4, 2), (6, 2)])
def test_flex_attention_equals_blocks(heads: tuple[int, int], window: int | None, softcap: float | None) -> None:
    """The whole CUDA path but for its compilation: torch's own uncompiled FlexAttention, which a CPU runs forward."""
    module = torch.nn.Module()
    plan = SegmentPlan([Span(0, 150, (40, 7)), Span(197, 1, (1,)), Span(199, 60, (90, 20))])
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, count, plan.num_tokens, 16, generator=generator, dtype=torch.float64)
        for count in (heads[0], heads[1], heads[1])
    )
    flex = cuda_attention.flex(module, query, key, value, plan, 0.3, plan.window(window), softcap)
    blocks, _ = attention.segment_attention(
        module, query, key, value, None, segments=plan, scaling=0.3, sliding_window=window, softcap=softcap
    )
    torch.testing.assert_close(flex, blocks)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("window", [None, 9])
def test_flex_attention_with_sinks_equals_blocks_in_value_and_gradient(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FlexAttention has no compiled backward pass on a CPU, and refuses gradients there. Its uncompiled one computes them."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None)
    module = torch.nn.Module()
    plan = SegmentPlan([Span(0, 150, (40, 7)), Span(197, 1, (1,)), Span(199, 60, (90, 20))])
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, count, plan.num_tokens, 16, generator=generator, dtype=torch.float64) for count in (4, 2, 2)]
    inputs.append(torch.randn(4, generator=generator, dtype=torch.float64))
    given = [tensor.requires_grad_() for tensor in inputs]
    query, key, value, sinks = given
    flex = cuda_attention.flex(module, query, key, value, plan, 0.3, plan.window(window), None, sinks)
    blocks, _ = attention.segment_attention(
        module, query, key, value, None, segments=plan, scaling=0.3, sliding_window=window, s_aux=sinks
    )
    torch.testing.assert_close(flex, blocks)
    factors = torch.randn(flex.shape, generator=generator, dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(flex, given, factors), torch.autograd.grad(blocks, given, factors), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("window", [None, 5])
def test_varlen_is_given_each_group_as_a_causal_sequence(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What FlashAttention's kernel is called with, computed sequence by sequence, equals the blocks."""

    def checked(query, key, value, starts, key_starts, longest, longest_key, **options):  # type: ignore[no-untyped-def]
        assert torch.equal(starts, key_starts) and starts.dtype == torch.int32
        assert longest == longest_key == int(starts.diff().max())
        assert options["enable_gqa"] and options["window_size"][1] == 0
        return by_sequence(query, key, value, starts, key_starts, longest, longest_key, **options)

    monkeypatch.setattr(cuda_attention, "varlen_attn", checked)
    plan = SegmentPlan(random_spans(1, plain=True))
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, count, plan.num_tokens, 16, generator=generator, dtype=torch.float64) for count in (4, 2, 2)
    )
    varlen = cuda_attention.varlen(query, key, value, plan, 0.3, plan.window(window))
    blocks, _ = attention.segment_attention(
        torch.nn.Module(), query, key, value, None, segments=plan, scaling=0.3, sliding_window=window
    )
    torch.testing.assert_close(varlen, blocks)


def test_which_kernel_serves() -> None:
    shared, plain = SegmentPlan([Span(0, 4, (2, 3))]), SegmentPlan([Span(0, 4, (2,)), Span(6, 3, (1,))])
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    half, full = torch.bfloat16, torch.float32
    assert {attention.serving(cpu, dtype, plan, None) for dtype in (half, full) for plan in (shared, plain)} == {"blocks"}
    assert attention.serving(cuda, half, shared, None) == "flex"
    assert attention.serving(cuda, half, plain, None) == "varlen"
    assert attention.serving(cuda, full, plain, None) == "flex"
    assert attention.serving(cuda, half, plain, 50.0) == "flex"
    assert attention.serving(cuda, half, plain, None, sinks=torch.zeros(2)) == "flex"


def test_what_attention_does_not_compute_is_refused() -> None:
    plan = SegmentPlan([Span(0, 2, (1,))])
    query = torch.zeros(1, 2, 3, 8)
    given = (torch.nn.Linear(1, 1), query, query, query, None)
    with pytest.raises(
        ValueError, match=r"nothing but scaling, a sliding window, soft-capping and .* got position_bias from Linear"
    ):
        attention.segment_attention(*given, segments=plan, position_bias=torch.zeros(2), position_ids=None)
    with pytest.raises(ValueError, match=r"attention_dropout must be 0 on packed rows, got 0\.1"):
        attention.segment_attention(*given, segments=plan, dropout=0.1)
    with pytest.raises(ValueError, match="segments must be given"):
        attention.segment_attention(*given)
