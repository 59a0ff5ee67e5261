import random

import pytest

from bnf.data.groups import ChosenGroups, Completion, PromptGroup
from bnf.data.packing import Row, pack, rows_digest
from bnf.data.row_order import order_digest, row_order
from tests.unit.bnf.helpers import random_groups


def test_layout_of_a_row() -> None:
    first = PromptGroup("a", (10, 11, 12), (Completion((20, 21), 1, 0.5), Completion((30,), -1)), ((0, 1),))
    second = PromptGroup("b", (40,), (Completion((50, 51, 52), -1), Completion((60,), 1)), ((1, 0),))
    row = Row((first, second), (0, 1))
    assert row.input_ids.tolist() == [[10, 11, 12, 20, 21, 30, 40, 50, 51, 52, 60]]
    assert row.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 2, 3, 1]]
    # The prompt's last token predicts the first token of every completion.
    assert row.predicting.tolist() == [2, 3, 2, 6, 7, 8, 6]
    assert row.targets.tolist() == [20, 21, 30, 50, 51, 52, 60]
    assert row.completion_of_token.tolist() == [0, 0, 1, 2, 2, 2, 3]
    assert row.group_of_completion.tolist() == [0, 0, 1, 1]
    assert row.labels.tolist() == [1, -1, -1, 1]
    assert row.scores.isnan().tolist() == [False, True, True, True]
    assert row.pairs.tolist() == [[0, 1], [3, 2]]
    assert row.lengths.tolist() == [2, 1, 3, 1]
    assert row.shortest_of_pair.tolist() == [1, 1, 1, 1]
    assert row.num_tokens == 11 and row.num_completion_tokens == 7


def test_every_group_is_packed_once_within_the_budget() -> None:
    groups = random_groups(200)
    rows = pack(groups, 64)
    assert sorted(index for row in rows for index in row.indices) == list(range(200))
    assert all(row.num_tokens <= 64 and row.groups == tuple(groups[i] for i in row.indices) for row in rows)
    fill = sum(row.num_tokens for row in rows) / (64 * len(rows))
    assert fill > 0.9


def test_rows_depend_on_token_ids_and_budget_alone() -> None:
    groups = random_groups(50)
    random.seed(1)
    first = [row.indices for row in pack(groups, 100)]
    random.seed(2)
    relabelled = [
        PromptGroup("n" + group.id, group.prompt_ids, tuple(Completion(c.token_ids, -c.label) for c in group.completions))
        for group in groups
    ]
    assert [row.indices for row in pack(relabelled, 100)] == first
    assert [row.indices for row in pack(random_groups(50, seed=9), 100)] != first


@pytest.mark.parametrize("max_groups_per_row", [None, 1, 3])
@pytest.mark.parametrize("share_prompts", [True, False])
def test_the_order_without_torch_is_that_of_the_rows(max_groups_per_row: int | None, share_prompts: bool) -> None:
    groups = random_groups(200)
    # The larger rows hold several groups, the smaller ones fall out of those that are filled at the same time.
    for max_tokens in (60, 300):
        settings = {"max_groups_per_row": max_groups_per_row, "share_prompts": share_prompts}
        rows, order = pack(groups, max_tokens, **settings), row_order(groups, max_tokens, **settings)
        assert order == [row.indices for row in rows]
        assert order_digest((row, ChosenGroups(groups, row)) for row in order) == rows_digest(rows)


def test_a_group_longer_than_a_row_is_named() -> None:
    groups = [PromptGroup("short", (1,), (Completion((2,), 1),)), PromptGroup("long", (1,) * 9, (Completion((2, 3), 1),))]
    with pytest.raises(
        ValueError, match="must hold every group, got 10 while the longest group, 'long', has 11 tokens; raise it to 11"
    ):
        pack(groups, 10)


def test_layout_of_a_plain_row() -> None:
    """Every completion after a copy of its prompt; what is predicted, and by what order, stays."""
    group = PromptGroup("a", (10, 11, 12), (Completion((20, 21), 1, 0.5), Completion((30,), -1)), ((0, 1),))
    row = Row((group, PromptGroup("b", (40,), (Completion((50,), 1),))), (0, 1), share_prompts=False)
    assert row.input_ids.tolist() == [[10, 11, 12, 20, 21, 10, 11, 12, 30, 40, 50]]
    assert row.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1]]
    assert row.predicting.tolist() == [2, 3, 7, 9]
    assert row.targets.tolist() == [20, 21, 30, 50]
    assert row.completion_of_token.tolist() == [0, 0, 1, 2]
    assert row.group_of_completion.tolist() == [0, 0, 1]
    assert row.pairs.tolist() == [[0, 1]]
    # Prompts once a group, whatever the number of their copies.
    assert row.predicting_prompts.tolist() == [0, 1] and row.prompt_targets.tolist() == [11, 12]
    assert row.prompt_lengths.tolist() == [2, 0]


def test_plain_rows_keep_the_budget_and_groups_whole() -> None:
    groups = random_groups(100)
    rows = pack(groups, 96, share_prompts=False)
    assert sorted(index for row in rows for index in row.indices) == list(range(100))
    assert all(row.num_tokens <= 96 and not row.share_prompts for row in rows)
    with pytest.raises(ValueError, match="the longest group, 'g', has 12 tokens; raise it to 12"):
        pack([PromptGroup("g", (1,) * 4, (Completion((2, 3), 1), Completion((4, 5), -1)))], 11, share_prompts=False)
