"""Forecasts: what a plan says of each node, from manifests alone."""

import pytest

from tasks import nodes
from tasks.nodes import Node, ancestors, forecast, ingredients
from tasks.store import Store


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(nodes, "code_digests", lambda entries: {entry: "code" for entry in entries})
    return Store(tmp_path / "artifacts")


def chain(**settings):
    """prepare → train → score, with settings by stage."""
    return [
        Node("prepare", settings.get("prepare", {"seed": 0})),
        Node("train", settings.get("train", {"lr": 1}), {"data": "prepare"}),
        Node("score", settings.get("score", {"limit": 5}), {"policy_of": "train"}),
    ]


def make(store, dag, outputs):
    """Run the DAG without work: each node's output is the given text."""
    done = {}
    for node in dag:
        made_of = ingredients(node, {role: done[name] for role, name in node.inputs.items()}, store)
        work = store.work_folder(node.stage, made_of.key())
        (work / "out").write_text(outputs[node.stage])
        done[node.id] = store.commit(made_of, work, content=("out",), fingerprint=None, about={"seconds": 0})
    return done


OUTPUTS = {"prepare": "p", "train": "t", "score": "s"}


def states(known):
    return [entry.cached for entry in known.values()]


def test_nothing_is_cached_before_the_first_run(store):
    assert states(forecast(chain(), store, {})) == [False, False, False]


def test_everything_is_cached_after_it_and_nothing_changed(store):
    last = make(store, chain(), OUTPUTS)
    known = forecast(chain(), store, last)
    assert states(known) == [True, True, True]
    assert all(entry.changed == [] for entry in known.values())


def test_a_change_names_itself_and_what_follows_depends_on_the_output(store):
    last = make(store, chain(), OUTPUTS)
    known = forecast(chain(prepare={"seed": 1}), store, last)
    assert states(known) == [False, None, None]
    assert known["prepare"].changed == [{"key": "settings.seed", "old": 0, "new": 1}]


@pytest.mark.parametrize("text", [None, '{"files": ', "{}"])
def test_a_manifest_that_cannot_be_read_makes_a_miss_and_no_error(store, text):
    last = make(store, chain(), OUTPUTS)
    manifest = last["train"].path / "manifest.json"
    if text is None:
        manifest.unlink()
    else:
        manifest.write_text(text)
    known = forecast(chain(), store, last)
    assert states(known) == [True, False, None] and "manifest.json" in known["train"].problem


def test_a_rebuild_with_the_same_bits_stops_there(store):
    last = make(store, chain(), OUTPUTS)
    make(store, chain(prepare={"seed": 1})[:1], OUTPUTS)
    assert states(forecast(chain(prepare={"seed": 1}), store, last)) == [True, True, True]


def test_a_change_downstream_leaves_the_stages_before(store):
    last = make(store, chain(), OUTPUTS)
    known = forecast(chain(score={"limit": 6}), store, last)
    assert states(known) == [True, True, False]
    assert known["score"].changed == [{"key": "settings.limit", "old": 5, "new": 6}]


def test_two_changes_in_a_row_are_both_named(store):
    last = make(store, chain(), OUTPUTS)
    known = forecast(chain(train={"lr": 2}, score={"limit": 6}), store, last)
    assert states(known) == [True, False, False]
    assert [entry.changed[0]["key"] for entry in list(known.values())[1:]] == ["settings.lr", "settings.limit"]


def test_a_deleted_artifact_is_a_miss_that_says_so(store):
    last = make(store, chain(), OUTPUTS)
    (last["train"].path / "out").unlink()
    known = forecast(chain(), store, last)
    assert states(known) == [True, False, None]
    assert "out is missing" in known["train"].problem


def test_a_pinned_artifact_counts_whatever_its_key_would_be(store):
    last = make(store, chain(), OUTPUTS)
    known = forecast(chain(train={"lr": 9}), store, last, pinned={"train": last["train"], "prepare": last["prepare"]})
    assert states(known) == [True, True, True]


@pytest.mark.parametrize("how", ["kept", "pinned"])
def test_a_plan_knows_that_a_report_has_to_name_what_other_code_made(store, how):
    dag = [*chain(), Node("report", {}, {"score": "score"})]
    old = make(store, dag, {**OUTPUTS, "report": "r"})
    dag = [dag[0], Node("train", {"lr": 1}, {"data": "prepare"}, plugins=["bnf.model.digests"]), *dag[2:]]
    taken = {"keep": ["train"]} if how == "kept" else {"pinned": {"train": old["train"], "prepare": old["prepare"]}}
    known = forecast(dag, store, old, **taken)
    assert states(known) == [True, True, True, False] and known["train"].kept == (how == "kept")
    changed = known["report"].changed
    assert changed[-1]["key"] == "settings.other_code.train" and "bnf.model.digests" in changed[-1]["new"]


def test_unkeyed_settings_change_nothing(store):
    last = make(store, chain(), OUTPUTS)
    dag = chain()
    dag[1] = Node("train", {"lr": 1}, {"data": "prepare"}, unkeyed={"save_steps": 3})
    assert states(forecast(dag, store, last)) == [True, True, True]


def test_ancestors_are_what_a_node_needs():
    assert ancestors(chain(), ["train"]) == {"train", "prepare"}
