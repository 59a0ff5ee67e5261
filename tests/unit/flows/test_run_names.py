"""Which run a name stands for: the very name, else the one run that begins so; and what `compare` says of two of them."""

import json

import pytest

from flows.commands import running
from flows.commands.comparing import compare_runs
from flows.dag.selection import MODELS
from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from flows.runs.record import SCORES, find_run, passed_over
from tests.unit.flows.run_folders import run_of


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("BNF_HOME", str(tmp_path))
    return tmp_path


def test_a_recipes_very_name_comes_before_longer_ones_that_begin_so(home):
    mine, dpo, kto = (run_of(home, name, n) for n, name in enumerate(["mine", "mine-dpo", "mine-kto"]))
    assert [find_run(home, name).id for name in ("mine", "mine-dpo", "mine-kto")] == [mine.id, dpo.id, kto.id]
    assert find_run(home, dpo.id[:-2]).id == dpo.id
    again = run_of(home, "mine", 9)
    assert find_run(home, "mine").id == again.id and find_run(home, mine.id).id == mine.id


def test_a_runs_own_name_comes_before_a_recipe_called_so(home):
    mine = run_of(home, "mine", 1)
    run_of(home, mine.id, 2)
    assert find_run(home, mine.id).id == mine.id


def test_an_ambiguous_beginning_is_refused_with_the_candidates(home):
    dpo, kto = run_of(home, "mine-dpo", 1), run_of(home, "mine-kto", 2)
    with pytest.raises(RecipeError, match="RUN must name one run, got 'mine', with which 2 begin") as refused:
        find_run(home, "mine")
    assert dpo.id in str(refused.value) and kto.id in str(refused.value)
    with pytest.raises(RecipeError, match=r"RUN must be a run of .*, got 'yours'; the newest: mine-kto"):
        find_run(home, "yours")


@pytest.mark.parametrize("name", ["", " "])
def test_no_name_is_no_run_though_there_is_only_one(home, name):
    """As of a shell's variable without a value: `bnf rm "$RUN" --yes` drops nothing."""
    run_of(home, "mine", 1)
    with pytest.raises(RecipeError, match=r"RUN must be a run's name, got .*; write latest for the newest one"):
        find_run(home, name)


def test_in_a_home_without_runs_the_message_says_when_one_is_there(tmp_path):
    with pytest.raises(
        RecipeError, match=r"got 'latest'; it has none; one is there once its checks have passed, .* by BNF_HOME"
    ):
        find_run(tmp_path, "latest")


def test_the_latest_is_the_newest_that_has_what_is_needed(home):
    old, trained, failed = (
        run_of(home, "mine", 1, scores="++"),
        run_of(home, "mine", 2, trained=True),
        run_of(home, "other", 3),
    )
    assert find_run(home, "latest").id == failed.id
    assert find_run(home, "latest", SCORES).id == old.id == find_run(home, "mine", SCORES).id
    assert find_run(home, "latest", MODELS).id == trained.id
    assert [run.id for run in passed_over(home, "latest", old)] == [failed.id, trained.id]
    assert passed_over(home, old.id, old) == []
    with pytest.raises(RecipeError, match=r"RUN must have scores, got 'other': other-.* \(failed\), none of which has any"):
        find_run(home, "other", SCORES)


def test_compare_says_which_runs_it_took_and_which_recipe_keys_differ(home, capsys):
    run_of(home, "mine", 1, scores="++--")
    run_of(home, "mine-dpo", 2, scores="+++-", train={"objective": "dpo", "learning_rate": 1e-5}, prepare={"pairing": "all"})
    run_of(home, "mine", 3)
    compare_runs(["mine", "latest"], as_json=False)
    told = capsys.readouterr()
    assert "mine is mine-" in told.err and "without scores or a dev set, and so passed over: mine-" in told.err
    rows = {line.split()[0]: line.split()[1:] for line in told.out.split("recipe keys that differ")[1].splitlines() if line}
    assert rows.pop("key") and rows == {
        "prepare.pairing": ["none", "all"],
        "train.objective": ["bnf", "dpo"],
        "train.learning_rate": ["5e-07", "1e-05"],
    }
    compare_runs(["mine", "latest"], as_json=True)
    result = json.loads(capsys.readouterr().out)
    [pairing] = [entry for entry in result["settings"] if entry["key"] == "prepare.pairing"]
    assert sorted(pairing["values"].values()) == ["all", "none"] and set(pairing["values"]) == set(result["runs"])


def test_the_sources_of_a_mixture_differ_key_by_key(home, capsys):
    sources = [{"source": "pairs", "path": "a.jsonl"}, {"source": "pairs", "path": "b.jsonl"}]
    run_of(home, "one", 1, scores="+-", data=sources)
    run_of(home, "two", 2, scores="+-", data=[sources[0], {**sources[1], "path": "c.jsonl"}])
    compare_runs(["one", "two"], as_json=False)
    assert "data.1.path" in (out := capsys.readouterr().out) and "data.0.path" not in out


def test_runs_of_one_recipe_are_said_to_be_so(home, capsys):
    first = run_of(home, "mine", 1, scores="+-")
    second = run_of(home, "mine", 2, scores="++")
    compare_runs([first.id, second.id], as_json=False)
    assert "the recipes of these runs are the same" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("mine", "mine"), ("mine", "latest"), ("mine", "mine-2")])
def test_a_run_is_not_compared_with_itself(home, words):
    run = run_of(home, "mine", 1, scores="+-")
    with pytest.raises(RecipeError, match="RUN must be another run each time, got") as refused:
        compare_runs(words, as_json=False)
    assert run.id in str(refused.value) and all(repr(word) in str(refused.value) for word in words)


def test_a_name_that_is_a_run_and_a_folder_is_neither_without_a_word(home, monkeypatch):
    run_of(home, "mine", 1, trained=True)
    monkeypatch.chdir(home)
    (home / "mine").mkdir()
    with pytest.raises(RecipeError, match=r"RUN\|MODEL must be one of both, got 'mine'"):
        running.evaluate_target("mine", None, [], None, as_json=False, debug=False)


def test_no_recipe_is_called_as_the_newest_run_is(tmp_path):
    with pytest.raises(RecipeError, match=r"^name must be another name than 'latest', .*write name=latest-recipe$"):
        make_recipe({"model_name_or_path": "some/model", "name": "latest"})
