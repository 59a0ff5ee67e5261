"""The search for the largest row: what it finds, how many trials it takes, and what a trial is made of."""

import json
from dataclasses import replace

import pytest

from bnf.data.packing import pack
from bnf.data.row_order import tokens_in_row
from bnf.training import budget
from bnf.training.budget import Bounds, row_bounds, search, worst_groups
from bnf.training.config import TrainConfig
from bnf.training.trial import is_out_of_memory
from tests.unit.bnf.helpers import random_groups


def longest_first(groups):
    return sorted(groups, key=lambda group: -tokens_in_row(group, True))


@pytest.mark.parametrize("guess", [512, 3000, 20000])
@pytest.mark.parametrize("room", [512, 700, 1024, 5000, 9999, 19999, 20224, 10**6])
def test_the_search_finds_the_largest_row_within_its_margin(guess, room):
    tried = []

    def trial(tokens):
        tried.append(tokens)
        return tokens <= room

    found = search(Bounds(512, 20224, guess), trial)
    assert found is not None and found % 256 == 0 and found <= room
    if room >= 20224:
        assert found == 20224, "no row is longer"
    else:
        # What fitted is within a sixteenth, or a step, of what didn't; a twentieth is left, and a step is rounded off.
        assert found >= max(512, (room - max(256, room / 16)) * 0.95 - 512)
    assert len(tried) == len(set(tried)) <= 22
    assert all(512 <= tokens <= 20224 for tokens in tried)


def test_a_good_guess_takes_few_trials():
    tried = []

    def trial(tokens):
        tried.append(tokens)
        return tokens <= 10000

    assert search(Bounds(512, 30208, 9728), trial) == 9216 and len(tried) <= 5


def test_where_not_even_the_longest_group_fits_nothing_is_found():
    assert search(Bounds(512, 4096, 4096), lambda tokens: False) is None
    assert search(Bounds(512, 512, 512), lambda tokens: False) is None


def test_the_bounds_hold_the_longest_group_and_no_more_than_a_row_can():
    groups = longest_first(random_groups(50, prompt=(20, 40), completion=(10, 90)))
    config = TrainConfig(global_batch_size=8)
    bounds = row_bounds(config, groups, tokens_in_row(groups[0], True))
    assert tokens_in_row(groups[0], True) <= bounds.least < tokens_in_row(groups[0], True) + 256
    longest_row = sum(tokens_in_row(group, True) for group in groups[:8])
    assert longest_row <= bounds.most < longest_row + 256


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("tokens", [400, 1200, 100_000])
def test_a_trial_has_two_full_rows_in_each_process(tokens, processes):
    groups = longest_first(random_groups(200, prompt=(20, 40), completion=(10, 60)))
    config = TrainConfig(global_batch_size=128, nproc_per_node=processes)
    chosen = worst_groups(config, groups, tokens)
    assert len({group.id for group in chosen}) == len(chosen)
    own = replace(config, global_batch_size=len(chosen), max_tokens_per_row=tokens)
    rows = pack(chosen, tokens, max_groups_per_row=own.max_groups_per_row)
    assert 2 * processes <= len(rows) <= 3 * processes
    full = min(tokens, sum(tokens_in_row(group, True) for group in groups[:32]))
    assert max(row.num_tokens for row in rows) >= 0.9 * full and max(len(row.groups) for row in rows) <= 32


def test_few_groups_come_again_in_a_trial():
    groups = longest_first(random_groups(3))
    chosen = worst_groups(TrainConfig(global_batch_size=4), groups, 10_000)
    # Both rows of the one process hold all of them.
    assert len(chosen) == 6 and {group.prompt_ids for group in chosen} == {group.prompt_ids for group in groups}


def test_a_trial_has_two_prompts_where_a_row_has_one():
    groups = longest_first(random_groups(5))
    chosen = worst_groups(TrainConfig(global_batch_size=1), groups, 10_000)
    assert [group.prompt_ids for group in chosen] == [group.prompt_ids for group in groups[:2]]


def test_what_was_found_is_taken_again_and_of_other_settings_it_is_not(tmp_path):
    file = tmp_path / "trials.json"
    known = budget._Known(file, {"lora_r": 0}, {"groups": 3})
    known.outcomes, known.found = {512: True, 1024: False}, 512
    known.write()
    again = budget._Known(file, {"lora_r": 0}, {"groups": 3})
    assert (again.outcomes, again.found) == ({512: True, 1024: False}, 512)
    for other in (({"lora_r": 8}, {"groups": 3}), ({"lora_r": 0}, {"groups": 4})):
        fresh = budget._Known(file, *other)
        assert (fresh.outcomes, fresh.found) == ({}, None)


@pytest.mark.parametrize("content", [b"", b"\0" * 64])
def test_trials_that_a_power_cut_left_are_made_again(tmp_path, content):
    (tmp_path / "trials.json").write_bytes(content)
    known = budget._Known(tmp_path / "trials.json", {"lora_r": 0}, {"groups": 3})
    assert (known.outcomes, known.found) == ({}, None)


def test_auto_is_a_setting_and_no_number():
    config = TrainConfig.from_dict({"max_tokens_per_row": "auto"})
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="must be a number before rows are packed, got 'auto'"):
        _ = config.row_tokens
    assert TrainConfig.from_dict({"max_tokens_per_row": 512.0}).row_tokens == 512
    for wrong in ("automatic", 0, True, 1.5, None):
        with pytest.raises(ValueError, match=r"max_tokens_per_row must be a whole number of at least 1, or auto, got"):
            TrainConfig.from_dict({"max_tokens_per_row": wrong})


@pytest.mark.parametrize(
    ("said", "means_memory"),
    [
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", True),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("RuntimeError: [enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory", True),
        ("RuntimeError: process 1 was ended by SIGKILL: it may have needed more memory than there was", True),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`", False),
        ("OutOfResources: out of resource: shared memory, Required: 262144, Hardware limit: 232448", False),
    ],
)
def test_what_is_said_when_memory_ends_is_known(said, means_memory):
    """On a full device cuBLAS fails before torch's allocator does."""
    assert is_out_of_memory(said) == means_memory
