import pytest

from bnf.training.config import TrainConfig
from bnf.training.parallel import SeededSteps
from tests.unit.bnf.training import BASE


@pytest.mark.parametrize("num_processes", [1, 2, 3, 4])
def test_every_step_holds_the_same_rows_however_many_processes_share_it(num_processes: int) -> None:
    sizes = [1 + row % 3 for row in range(17)]
    alone = SeededSteps(sizes, seed=3, num_steps=7)
    sharing = [
        SeededSteps(sizes, seed=3, num_steps=7, process=process, num_processes=num_processes)
        for process in range(num_processes)
    ]
    orders = []
    for epoch in (0, 1):
        alone.set_epoch(epoch)
        for each in sharing:
            each.set_epoch(epoch)
        steps = list(alone)
        assert len(steps) == len(alone) == 7 and sorted(row for step in steps for row in step) == list(range(17))
        orders.append([row for step in steps for row in step])
        for step, *shares in zip(steps, *sharing, strict=True):
            # 17 stands for nothing: where a step has fewer rows than there are processes.
            rows = [row for share in shares for row in share]
            assert sorted(row for row in rows if row != 17) == sorted(step) and all(shares)
            assert rows.count(17) == max(0, num_processes - len(step))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert orders[0] != orders[1]


def test_more_processes_than_groups_of_a_step_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"nproc_per_node must be at most global_batch_size \(6\), .*got 64; lower it, or raise global_batch"
    ):
        TrainConfig(**BASE, nproc_per_node=64)
