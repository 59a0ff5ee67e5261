"""Tiles against the blocks of torch's own kernel, in value, gradient and error; every query in one tile, with all keys that it sees."""

import pytest
import torch
from torch import Tensor

from bnf.model import attention, cpu_attention, segments
from bnf.model.segments import SegmentPlan
from tests.unit.bnf.test_segments import WINDOWS, random_spans, written_down


@pytest.fixture(params=[(512, 128), (0, 6), (15, 10)], ids=str)
def small_tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_ONE_BLOCK_TOKENS", request.param[0])
    monkeypatch.setattr(segments, "_SHARED_BLOCK_TOKENS", request.param[1])
    monkeypatch.setattr(segments, "_TILE_QUERIES", 4)


def inputs(num_tokens: int, dtype: torch.dtype) -> list[Tensor]:
    """Queries of four heads, keys and values of two, and a gradient by the output."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 4, num_tokens, 8), (1, 2, num_tokens, 8), (1, 2, num_tokens, 8), (1, num_tokens, 4, 8)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("window", WINDOWS)
def test_tiles_hold_each_query_once_with_all_keys_it_sees(window: int | None) -> None:
    for seed in range(4):
        spans = random_spans(seed)
        plan = SegmentPlan(spans)
        seen = torch.zeros(plan.num_tokens, plan.num_tokens, dtype=torch.bool)
        covered: list[int] = []
        for piece in plan.tiles(window):
            places = [*range(*(piece.prompt or (0, 0))), *range(*piece.own)]
            for tile in piece.tiles:
                queries = list(range(*piece.own))[slice(*tile.queries)]
                keys = torch.tensor(places[slice(*tile.keys)])
                visible = torch.ones(len(queries), len(keys), dtype=torch.bool)
                visible[:, len(keys) - tile.mask.shape[1] :] = tile.mask == 0
                assert visible.any(dim=0)[[0, -1]].all() and len(queries) <= 4
                seen[torch.tensor(queries)[:, None], keys] = visible
                covered += queries
        assert covered == list(range(plan.num_tokens))
        assert torch.equal(seen, written_down(spans, window))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("window", WINDOWS)
def test_values_and_gradients_are_those_of_blocks(window: int | None) -> None:
    for seed in range(4):
        plan = SegmentPlan(random_spans(seed))
        *given, by_output = inputs(plan.num_tokens, torch.float64)
        leaves = [part.requires_grad_() for part in given]
        ours = cpu_attention.tiled(*leaves, plan, torch.float64, 0.4, window)
        theirs = attention._blocks_attention(*leaves, plan, torch.float64, 0.4, window, None, None)
        torch.testing.assert_close(ours, theirs)
        gradients = [torch.autograd.grad(output, leaves, by_output) for output in (ours, theirs)]
        torch.testing.assert_close(*gradients)


def test_in_bfloat16_the_error_is_not_above_that_of_torchs_kernel() -> None:
    plan = SegmentPlan([segments.Span(0, 150, (40, 90)), segments.Span(280, 40, (300, 200))])
    *given, by_output = inputs(plan.num_tokens, torch.bfloat16)
    exact = [part.double().requires_grad_() for part in given]
    expected = attention._blocks_attention(*exact, plan, torch.float64, None, None, None, None)
    truth = [expected, *torch.autograd.grad(expected, exact, by_output.double())]
    errors = []
    for function, last in ((cpu_attention.tiled, ()), (attention._blocks_attention, (None, None))):
        leaves = [part.clone().requires_grad_() for part in given]
        output = function(*leaves, plan, torch.bfloat16, None, None, *last)
        assert output.dtype == torch.bfloat16
        found = [output, *torch.autograd.grad(output, leaves, by_output)]
        pairs = [(one.detach().double(), other.detach()) for one, other in zip(found, truth, strict=True)]
        errors.append([float((one - other).norm() / other.norm()) for one, other in pairs])
    assert all(ours < 1.2 * theirs for ours, theirs in zip(*errors, strict=True)), errors
