"""Which completions a prompt is mismatched with, and how far the policy moved on them."""

from dataclasses import replace

import pytest
import torch

from bnf.data.groups import Completion, PromptGroup
from bnf.data.packing import Row, pack
from bnf.model.attention import ATTENTION
from bnf.reference.kl_pairs import kl_pair_rows, mean_logratio
from bnf.reference.values import KlPairReference, RowReference
from tests.unit.bnf.helpers import padded_logps, random_groups
from tests.unit.bnf.test_attention import make


def group(name: str, prompt: tuple[int, ...], *completions: tuple[int, ...]) -> PromptGroup:
    return PromptGroup(name, prompt, tuple(Completion(ids, 1) for ids in completions))


def layout(row: Row) -> list[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    return [(each.prompt_ids, [completion.token_ids for completion in each.completions]) for each in row.groups]


def test_each_prompt_takes_the_completions_of_the_group_before_it() -> None:
    """As in TRL, whose mismatched completions are a batch's own, shifted by one."""
    a, b, c = group("a", (1,), (10,)), group("b", (2, 2), (20,), (21, 21)), group("c", (3,), (30, 30))
    (row,) = kl_pair_rows([Row((a, b, c), (4, 0, 2))])
    assert layout(row) == [((1,), [(30, 30)]), ((2, 2), [(10,)]), ((3,), [(20,), (21, 21)])]
    assert row.indices == (4, 0, 2)


def test_a_row_and_its_mismatched_row_hold_the_same_completions() -> None:
    groups = random_groups(40)
    rows = [row for row in pack(groups, 100) if len(row.groups) > 1]
    assert len(rows) > 5
    for row, other in zip(rows, kl_pair_rows(rows), strict=True):
        assert [each.prompt_ids for each in other.groups] == [each.prompt_ids for each in row.groups]
        assert other.num_tokens == row.num_tokens
        assert sorted(other.targets.tolist()) == sorted(row.targets.tolist())
        assert all(mine.completions != theirs.completions for mine, theirs in zip(row.groups, other.groups, strict=True))


def test_a_prompt_alone_in_its_row_takes_those_of_the_row_before() -> None:
    a, b, c = group("a", (1,), (10,)), group("b", (2,), (20,)), group("c", (3,), (30,))
    rows = kl_pair_rows([Row((a,), (0,)), Row((b,), (1,)), Row((c,), (2,))])
    assert [layout(row) for row in rows] == [[((1,), [(30,)])], [((2,), [(10,)])], [((3,), [(20,)])]]


def test_the_same_prompt_is_passed_over() -> None:
    a, b, same = group("a", (1,), (10,)), group("b", (2,), (20,)), group("a again", (1,), (11,))
    rows = kl_pair_rows([Row((b, a, same), (0, 1, 2)), Row((same, a), (2, 1))])
    assert layout(rows[0]) == [((2,), [(11,)]), ((1,), [(20,)]), ((1,), [(20,)])]
    assert layout(rows[1]) == [((1,), [(20,)]), ((1,), [(20,)])]
    with pytest.raises(ValueError, match="at least 2 different prompts to mismatch their completions, got 1; add prompts"):
        kl_pair_rows([Row((a, same), (0, 1))])


def test_no_path_grows_longer_than_the_datas_longest() -> None:
    short, long = group("short", (1,), (5, 6, 7, 8)), group("long", (2, 2, 2), (9, 9))
    (row,) = kl_pair_rows([Row((short, long), (0, 1))])
    assert layout(row) == [((1,), [(9, 9)]), ((2, 2, 2), [(5, 6)])]


def test_mean_logratio_is_that_of_a_padded_batch() -> None:
    """Σ over completions of summed log-ratios, over their number; over several rows, with dropout off and no gradient left."""
    model = make("llama")
    model.set_attn_implementation(ATTENTION)
    rows = kl_pair_rows(pack(random_groups(7), 60))
    logps = [torch.linspace(-3, -1, row.num_completion_tokens, dtype=torch.float64) for row in rows]
    references = [RowReference(own, own, kl_pairs=KlPairReference(row, own)) for row, own in zip(rows, logps, strict=True)]
    model.train()
    z = mean_logratio(model, references, bf16=False)
    assert model.training and not z.requires_grad and len(rows) == 2

    plain = make("llama")
    plain.set_attn_implementation("eager")
    groups = [each for row in rows for each in row.groups]
    ratio = padded_logps(plain, groups).detach().sum() - torch.cat(logps).sum()
    assert float(z) == pytest.approx(float(ratio) / sum(len(each.completions) for each in groups), rel=1e-5)


def test_they_depend_on_the_rows_alone() -> None:
    groups = random_groups(30)
    relabelled = [replace(each, completions=tuple(replace(c, label=-c.label) for c in each.completions)) for each in groups]
    first, second = (kl_pair_rows(pack(each, 80)) for each in (groups, relabelled))
    assert [layout(row) for row in first] == [layout(row) for row in second]
