from pathlib import Path

import pytest

from bnf.parallel import SeededOrder
from tests.unit.bnf.training import run


@pytest.mark.parametrize("num_processes", [1, 2, 3, 4])
def test_every_step_holds_the_same_rows_however_many_processes_share_it(num_processes: int) -> None:
    alone = SeededOrder(17, seed=3, rows_per_step=5, num_processes=1)
    shared = SeededOrder(17, seed=3, rows_per_step=5, num_processes=num_processes)
    for epoch in (0, 1):
        alone.set_epoch(epoch)
        shared.set_epoch(epoch)
        order, slots = list(alone), list(shared)
        assert sorted(order) == list(range(17)) and len(slots) == len(shared)
        start = 0
        for first in range(0, 17, 5):
            step = order[first : first + 5]
            filled = -(-len(step) // num_processes) * num_processes
            assert slots[start : start + filled] == step + [17] * (filled - len(step))
            start += filled
        assert start == len(slots)


def test_more_processes_than_rows_of_a_step_are_refused(workplace: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"nproc_per_node must be at most the \d rows of a step, got 64; lower max_tokens_per_row"
    ):
        run(workplace, tmp_path, nproc_per_node=64)
