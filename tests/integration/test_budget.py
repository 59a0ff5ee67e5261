"""`max_tokens_per_row: auto` by real trials on a CPU."""

import json

import pytest

from bnf import train
from bnf.data.groups import write_groups
from bnf.data.row_order import tokens_in_row
from bnf.host import available_memory
from bnf.model.shapes import read_shape
from bnf.training import budget
from bnf.training.config import TrainConfig
from bnf.training.memory import estimate
from bnf.training.row_memory import RowSizes
from tests.performance.memory import COMPLETIONS, GROUP, MIDDLE, PROMPT, write_data, write_model
from tests.unit.bnf.helpers import random_groups

pytestmark = pytest.mark.integration


def ignore(*_):
    pass


@pytest.mark.parametrize(
    "settings", [{"objective": "kto"}, {"objective": "sft", "nproc_per_node": 2, "sharding": "full"}], ids=str
)
def test_training_by_itself_finds_the_rows_and_keeps_them(tiny_model_dir, tmp_path, settings, monkeypatch):
    write_groups(tmp_path / "groups", random_groups(12))
    config = TrainConfig.from_dict(
        {"max_tokens_per_row": "auto", "global_batch_size": 4, "bf16": False, "max_steps": 2, **settings}
    )
    summary = train.run(config, tiny_model_dir, tmp_path / "groups", None, tmp_path / "output")
    assert summary.steps == 2
    kept = json.loads((tmp_path / "output" / "budget" / "trials.json").read_text())
    groups = sorted(random_groups(12), key=lambda group: -tokens_in_row(group, True))
    bounds = budget.row_bounds(config, groups, tokens_in_row(groups[0], True))
    # All rows fit: the longest that the data can make took one trial.
    assert kept["found"] == bounds.most and kept["fits"] == {str(bounds.most): True}
    assert not (tmp_path / "output" / "budget" / "trial").exists()
    monkeypatch.setattr(budget, "_fits", lambda *_: pytest.fail("the rows were found already"))
    again = train.run(config, tiny_model_dir, tmp_path / "groups", None, tmp_path / "output")
    assert again == summary


# Few weights, and layers that keep much of each token.
WIDE = {**MIDDLE, "vocab_size": 2048, "hidden_size": 128, "intermediate_size": 6144, "num_hidden_layers": 4, "head_dim": 16}


# Trials that fit and that don't are below and above; `tests/unit/bnf/test_budget.py` has the search between them.
@pytest.mark.nightly
def test_the_largest_row_keeps_within_the_memory(tmp_path, monkeypatch):
    model = write_model(tmp_path / "model", WIDE)
    groups = write_data(tmp_path / "groups", 12, WIDE["vocab_size"])
    config = TrainConfig.from_dict({"objective": "sft", "max_tokens_per_row": "auto", "global_batch_size": 12})
    shape = read_shape(model / "config.json")
    short, long = (
        estimate(shape, config, RowSizes(number * GROUP, PROMPT, COMPLETIONS), "cpu").device.total for number in (2, 12)
    )
    # Room for more than two groups in a row and for fewer than all twelve.
    monkeypatch.setattr(budget, "available_memory", lambda: (short + long) / 2 / 0.9)
    found = budget.find_budget(config, model, groups, tmp_path / "work", ignore)
    assert GROUP <= found < 12 * GROUP and found % 256 == 0
    outcomes = json.loads((tmp_path / "work" / "trials.json").read_text())["fits"]
    assert any(outcomes.values()) and not all(outcomes.values())
    assert found < min(int(tokens) for tokens, fits in outcomes.items() if not fits)


def test_a_group_that_does_not_fit_alone_is_named_with_what_helps(tmp_path, monkeypatch):
    model = write_model(tmp_path / "model", MIDDLE)
    groups = write_data(tmp_path / "groups", 2, MIDDLE["vocab_size"])
    config = TrainConfig.from_dict({"objective": "sft", "max_tokens_per_row": "auto", "global_batch_size": 2})
    assert available_memory() is not None
    monkeypatch.setattr(budget, "available_memory", lambda: 1_000_000_000)
    with pytest.raises(
        ValueError, match=rf"the longest group, 'g0', has {GROUP} tokens and doesn't fit into 0.8 GiB .*; (set|take) "
    ):
        budget.find_budget(config, model, groups, tmp_path / "work", ignore)


def test_a_trial_that_fails_otherwise_is_no_question_of_memory(tiny_model_dir, tmp_path):
    write_groups(tmp_path / "groups", random_groups(4))
    config = TrainConfig.from_dict({"max_tokens_per_row": "auto", "global_batch_size": 2, "optim": "no_such_optimizer"})
    with pytest.raises(RuntimeError, match="a trial for max_tokens_per_row=auto must end, got exit code 1"):
        budget.find_budget(config, tiny_model_dir, tmp_path / "groups", tmp_path / "work", ignore)
