"""A logger that is asked for after the training is not passed over in silence."""

import json

import pytest

from tasks.keys import Ingredients, code_digests
from tasks.nodes import Node, forecast
from tasks.store import Store

SETTINGS = {"objective": "bnf"}


@pytest.mark.parametrize(
    ("asked", "logged", "said"),
    [
        ("none", [], None),
        (["none"], [], None),
        ("tensorboard", ["tensorboard"], None),
        ("tensorboard", [], "nothing is logged anew to tensorboard; --refresh train trains again and logs"),
        (["wandb", "tensorboard"], ["tensorboard"], "nothing is logged anew to wandb;"),
        ("wandb", None, "nothing is logged anew to wandb;"),  # trained before summaries said it
    ],
)
def test_a_plan_says_that_nothing_is_logged_anew(tmp_path, asked, logged, said):
    store = Store(tmp_path / "artifacts")
    node = Node("train", SETTINGS, unkeyed={"report_to": asked})
    key = forecast([node], store, {})["train"].key
    made_of = Ingredients("train", SETTINGS, {}, code_digests(["tasks.stages.train"]))
    assert made_of.key() == key
    work = store.work_folder("train", key)
    (work / "train_summary.json").write_text(json.dumps({} if logged is None else {"report_to": logged}))
    store.commit(made_of, work, content=("*",), fingerprint=None, about={})
    entry = forecast([node], store, {})["train"]
    assert entry.cached
    assert entry.problem is None if said is None else said in entry.problem
