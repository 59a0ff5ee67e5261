"""The data of a recipe in the DAG: what of them is in a key, who reads them, and which can't be read."""

import pytest

from flows.dag.graph import build
from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from tasks.job import Job
from tasks.keys import ROOT

MODEL = "models/SmolLM2-135M-Instruct"

pytestmark = pytest.mark.skipif(not (ROOT / MODEL).exists(), reason="the demonstration model is not there; run `make env`")


def data_nodes(data, *overrides):
    raw = {
        **{"name": "d", "model_name_or_path": MODEL, "data": data, "train": {}},
        "evaluation": {"benchmarks": {"gsm8k": {"source": "sample"}}},
    }
    return {node.id: node for node in build(make_recipe(raw, overrides))}


PAIRS = {"source": "pairs", "path": "data/samples/pairs.jsonl"}


def test_the_number_of_processes_is_part_of_no_key_and_every_other_prepare_setting_is_of_its():
    before = data_nodes(PAIRS)
    for override in (
        "prepare.num_proc=3",
        "prepare.dev_fraction=0.1",
        "prepare.ratings.threshold=3",
        "data.columns={id: name}",
    ):
        after = data_nodes(PAIRS, override)
        changed = {name for name in before if before[name].settings != after[name].settings} - {"report"}
        assert changed == (set() if "num_proc" in override else {"prepare"})
    assert data_nodes(PAIRS, "prepare.num_proc=3")["prepare"].unkeyed == {"num_proc": 3}


def test_the_reference_pass_gets_the_processes_of_the_training_outside_of_its_key():
    one = data_nodes(PAIRS)["reference"]
    many = data_nodes(PAIRS, "train.nproc_per_node=2", "train.num_nodes=2", "train.sharding=full")["reference"]
    assert many.settings == one.settings
    assert (many.unkeyed["nproc_per_node"], many.unkeyed["num_nodes"], many.unkeyed["sharding"]) == (2, 2, "full")


def test_reference_pass_and_analysis_get_the_same_rows_and_the_analysis_one_node(tmp_path, monkeypatch):
    from bnf.parallel.placement import Placement
    from bnf.reference.launch import ReferenceCall
    from tasks.stages import analyze, reference

    calls = {}
    monkeypatch.setattr(ReferenceCall, "launch", lambda call, progress: calls.update(reference=vars(call)))
    monkeypatch.setattr("bnf.analysis.likelihood_shift.likelihood_shift", lambda *folders, **given: calls.update(analyze=given))
    dag = data_nodes(PAIRS, "train.nproc_per_node=2", "train.num_nodes=2", "train.sharding=hybrid", "train.objective=kto")
    for stage in (reference, analyze):
        node = dag[stage.__name__.rpartition(".")[2]]
        stage.run(Job({**node.settings, **node.unkeyed}, dict.fromkeys(node.inputs, tmp_path), tmp_path, lambda *_: None))
    rows = {"max_tokens_per_row": 4096, "max_groups_per_row": 32, "share_prompts": True, "bf16": True, "weights": "fp32"}
    for given in calls.values():
        assert {name: given[name] for name in rows} == rows
    assert calls["reference"]["kl_pairs"] is True
    assert calls["reference"]["placement"] == Placement(2, 2, sharding="hybrid")
    assert calls["analyze"]["placement"] == Placement(2, 1, sharding="full")


def test_where_data_lies_is_no_part_of_the_key_and_what_is_there_is(tmp_path):
    from tasks.nodes import ingredients
    from tasks.store import Artifact, Store

    store = Store(tmp_path / "home" / "artifacts")
    base = {"model": Artifact("resolve", "k", "f", tmp_path)}

    def key(path):
        return ingredients(data_nodes({"source": "pairs", "path": str(path)})["prepare"], base, store).key()

    for name in ("one", "two", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jsonl").write_text("{}\n" if name != "other" else "{} \n")
    (tmp_path / "two" / ".cache").mkdir()
    (tmp_path / "two" / ".cache" / "lock").write_text("no data")
    assert key(tmp_path / "one") == key(tmp_path / "two") != key(tmp_path / "other")
    assert key(tmp_path / "one" / "a.jsonl") == key(tmp_path / "two" / "a.jsonl") != key(tmp_path / "other" / "a.jsonl")


def test_a_hubs_set_and_a_url_are_named_in_the_key(tmp_path):
    import fsspec

    hub = data_nodes({"source": "pairs", "path": "some/set", "revision": "abc"})["prepare"]
    assert hub.files == {} and hub.settings["sources"][0]["path"] == "some/set"
    memory = fsspec.filesystem("memory")
    versions = []
    for text in (b"{}\n", b"{ }\n"):
        memory.pipe_file("/graph/a.jsonl", text)
        versions.append(data_nodes({"source": "pairs", "path": "memory://graph/a.jsonl"})["prepare"].settings["sources"][0])
    assert versions[0]["path"] == "memory://graph/a.jsonl" and versions[0]["version"] != versions[1]["version"]
    with pytest.raises(RecipeError, match="must be a URL that answers, got nowhere://x"):
        data_nodes({"source": "pairs", "path": "nowhere://x"})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({**PAIRS, "columns": {"better": "x"}}, r"data\.columns must name roles of the source pairs"),
        ({**PAIRS, "source": "number_comparison"}, r"data\.source must give preferences, got number_comparison"),
        ({**PAIRS, "source": "paris"}, "did you mean pairs"),
        ([PAIRS, {**PAIRS, "path": "data/none.jsonl"}], "data/none.jsonl must exist"),
    ],
)
def test_data_that_cannot_be_read_is_refused_in_the_recipe(data, message):
    with pytest.raises(RecipeError, match=message):
        data_nodes(data)


def test_contamination_reads_the_data_and_all_items_and_nothing_follows_it_but_the_report():
    before, after = data_nodes(PAIRS), data_nodes(PAIRS, "evaluation.benchmarks.gsm8k.limit=3")
    node = before["contamination/gsm8k"]
    assert node.inputs == {"data": "prepare"} and node.settings == after["contamination/gsm8k"].settings
    readers = [one.id for one in before.values() if "contamination/gsm8k" in one.inputs.values()]
    assert readers == ["report"] and list(before).index(node.id) < list(before).index("train")


def test_a_folder_behind_a_url_is_keyed_by_each_of_its_files():
    import fsspec

    memory = fsspec.filesystem("memory")

    def version():
        return data_nodes({"source": "pairs", "path": "memory://folder"})["prepare"].settings["sources"][0]["version"]

    memory.pipe_file("/folder/deep/a.jsonl", b"{}\n")
    before = version()
    assert version() == before
    memory.pipe_file("/folder/deep/a.jsonl", b"{ }\n")
    changed = version()
    memory.pipe_file("/folder/b.jsonl", b"{}\n")
    assert len({before, changed, version()}) == 3


def test_a_file_url_is_the_path_that_it_is(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    node = data_nodes({"source": "pairs", "path": f"file://{tmp_path}/a.jsonl"})["prepare"]
    assert node.files["source0"] == tmp_path / "a.jsonl" and "version" not in node.settings["sources"][0]
