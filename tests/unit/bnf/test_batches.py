"""Every batch size works at every row budget that holds the longest group, and the mean batch is what was asked for."""

import random
from pathlib import Path

import pytest

from bnf.data.groups import Completion, PromptGroup, write_groups
from bnf.data.longest import longest_group
from bnf.data.packing import Row, pack, step_bounds
from bnf.data.row_order import tokens_in_row
from bnf.training.config import TrainConfig
from bnf.training.own_reference import cache_for
from bnf.training.parallel import SeededSteps
from bnf.training.preparation import Folders
from bnf.training.trainer import train
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.training import BASE, ignore, metrics

BATCHES = (1, 2, 3, 4, 5, 7, 31, 32, 33, 48, 100, 127, 128, 129)


def groups_of(lengths: list[int]) -> list[PromptGroup]:
    """Pairs of so many tokens each, and at least 3."""
    return [
        PromptGroup(
            f"g{number}", (1 + number % 90,), (Completion((2,), 1), Completion((3,) * max(length - 2, 1), -1)), ((0, 1),)
        )
        for number, length in enumerate(lengths)
    ]


def rows_and_steps(groups: list[PromptGroup], config: TrainConfig, epoch: int = 0) -> tuple[list[Row], list[list[int]]]:
    rows = pack(groups, config.max_tokens_per_row, max_groups_per_row=config.max_groups_per_row)
    sizes = [len(row.groups) for row in rows]
    steps = SeededSteps(sizes, 0, num_steps=config.steps_per_epoch(len(groups)))
    steps.set_epoch(epoch)
    return rows, list(steps)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "batch", [pytest.param(batch, marks=[pytest.mark.nightly] if batch in (100, 127, 129) else []) for batch in BATCHES]
)
def test_the_mean_batch_is_what_was_asked_for_at_every_row_budget(batch: int, seed: int) -> None:
    rng = random.Random(f"{batch} {seed}")
    # Alike, spread, or mostly short with a few long ones.
    kinds = (lambda: 20, lambda: rng.randint(3, 200), lambda: 760 if rng.random() < 0.03 else rng.randint(3, 30))
    for num_groups in (rng.randint(10 * batch, 12 * batch), 11 * batch + batch // 2, rng.randint(1, 10 * batch)):
        groups = groups_of([kinds[seed % 3]() for _ in range(num_groups)])
        longest = max(group.num_tokens for group in groups)
        for budget in (longest, longest + rng.randint(1, 50), 3 * longest, 10_000_000):
            processes = rng.choice([count for count in (1, 2, 3, 8) if count <= batch])
            config = TrainConfig(max_tokens_per_row=budget, global_batch_size=batch, nproc_per_node=processes)
            rows, steps = rows_and_steps(groups, config, epoch=seed)
            assert max(row.num_tokens for row in rows) <= budget
            assert max(len(row.groups) for row in rows) <= config.max_groups_per_row <= min(batch, 32)
            assert sorted(row for step in steps for row in step) == list(range(len(rows)))
            mean = num_groups / len(steps)
            if num_groups >= 10 * batch:
                assert abs(mean - batch) <= 0.05 * batch + 1e-9
            # A whole number of steps comes no nearer.
            assert all(
                abs(num_groups / batch - len(steps)) <= abs(num_groups / batch - other) for other in range(1, len(steps) + 2)
            )
            # Each step is off by no more than the rows at its two ends.
            for step in steps:
                assert abs(sum(len(rows[row].groups) for row in step) - mean) <= config.max_groups_per_row


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 7, 31, 32, 64, 128])
def test_rows_that_have_room_give_exactly_the_batch(batch: int) -> None:
    rows, steps = rows_and_steps(groups_of([20] * 12 * batch), TrainConfig(max_tokens_per_row=10**7, global_batch_size=batch))
    assert [sum(len(rows[row].groups) for row in step) for step in steps] == [batch] * 12


def test_processes_share_the_rows_of_a_step() -> None:
    """Where there is room in one row for all of a step, it is closed early enough for each process to have one."""
    for batch in BATCHES:
        for processes in (2, 3, 4, 8):
            if processes > batch:
                continue
            config = TrainConfig(max_tokens_per_row=10**7, global_batch_size=batch, nproc_per_node=processes)
            _, steps = rows_and_steps(groups_of([20] * 10 * batch), config)
            assert sum(len(step) for step in steps) / len(steps) >= processes
            if batch % (processes * -(-batch // (32 * processes))) == 0:
                assert all(len(step) % processes == 0 for step in steps)


def test_large_batches_share_their_rows_and_so_the_reference() -> None:
    settings = [TrainConfig(global_batch_size=batch).reference_settings() for batch in (32, 64, 96, 128, 256, 1024)]
    assert all(each == settings[0] for each in settings) and settings[0]["max_groups_per_row"] == 32
    assert TrainConfig(nproc_per_node=4).reference_settings() == settings[0]
    assert TrainConfig(learning_rate=1e-4, seed=3, objective="dpo").reference_settings() == settings[0]


def test_steps_of_rows_of_unequal_sizes() -> None:
    # 2, 5 and 6 of 9 groups: thirds are 3, 6, 9.
    assert step_bounds([2, 3, 1, 3], 3) == [1, 3, 4]
    assert step_bounds([9, 1, 1], 3) == [1, 2, 3]
    assert step_bounds([1, 1, 9], 3) == [1, 2, 3]
    assert step_bounds([4], 1) == [1]
    assert [TrainConfig(global_batch_size=4).steps_per_epoch(number) for number in (1, 4, 5, 41, 42, 43, 400)] == [
        1,
        1,
        1,
        10,
        10,
        11,
        100,
    ]


def test_many_short_groups_beside_a_long_one_train_with_a_small_batch(workplace: Path, tmp_path: Path) -> None:
    short = random_groups(40, prompt=(4, 8), completion=(2, 6), most=2)
    long = PromptGroup("long", (5,) * 500, (Completion((6,) * 130, 1), Completion((7,) * 130, -1)), ((0, 1),))
    write_groups(tmp_path / "groups", [*short, long])
    assert longest_group(tmp_path / "groups", True) == ("long", 760)
    assert longest_group(tmp_path / "groups", False) == ("long", tokens_in_row(long, False))
    for budget in (760, 4096):
        config = TrainConfig(**(BASE | {"max_tokens_per_row": budget, "global_batch_size": 4}))
        reference, output = tmp_path / f"reference_{budget}", tmp_path / f"out_{budget}"
        folders = Folders(workplace / "model", tmp_path / "groups", reference, output)
        cache_for(config, folders.model_dir, folders.groups_dir, reference, ignore)
        summary = train(config, folders, step0_check=True, progress=ignore)
        assert summary.steps == 10 and summary.groups_per_step == 4.1
        assert metrics(output)[0]["weights/chosen"] == 1
