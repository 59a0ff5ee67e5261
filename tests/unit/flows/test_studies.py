"""`bnf study` of a language model: its file, when nothing is run again, its page, and what is recorded of a collapse."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from bnf.failures import Cause
from evaluation.report.study_results import find_study
from flows import sweep as sweep_module
from flows.commands import studying, sweep_study_page
from flows.dag import graph
from flows.dag.objective_checks import objective_checks, sample_checks
from flows.dag.points import make_points
from flows.errors import RecipeError
from flows.recipe import studies, sweep_file
from flows.recipe.config import make_recipe
from flows.recipe.sweep_file import load_sweep, made_of, same_but_code
from flows.runs.made import made_by
from flows.runs.sweeps import SweepFolder, SweepRecord, SweepRun, begin, find_sweep, held
from flows.runs.swept import of_last_round
from flows.sweep_end import compare_again
from tasks.child import Cancelled, StageFailed
from tasks.keys import ROOT
from tests.unit.conftest import DEMONSTRATION_MODEL
from tests.unit.evaluation.study_runs import MADE, STUDY, noise_study

SECTION = {"title": "T", "question": "Does it?", "design": ["Fixed."], "columns": ["gain", "collapsed"]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of studies with one, `noise`; the home and the docs are in tmp_path."""
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "_task.yaml").write_text(yaml.safe_dump({"model_name_or_path": "m"}))
    write(tmp_path)
    monkeypatch.setattr(studies, "FOLDER", tmp_path / "studies")
    monkeypatch.setattr(studying, "ROOT", tmp_path)
    monkeypatch.setenv("BNF_HOME", str(tmp_path / "home"))
    return tmp_path


def write(folder, **section):
    file = {"base": "_task.yaml", "study": {**SECTION, **section}, "sweep": {"seed": [0, 1]}}
    (folder / "studies" / "noise.yaml").write_text(yaml.safe_dump(file))


def ended(folder, *runs, state="completed"):
    """The sweep's folder as it has ended with these runs, with the results of a made study."""
    sweep = load_sweep(studies.study_path("noise"))
    record = SweepRecord("noise", "noise.yaml", "bnf sweep noise.yaml", {"seed": [0, 1]}, None, list(runs))
    (folder / "home").mkdir(exist_ok=True)
    with held(folder / "home", "noise"):
        found = begin(folder / "home", record, find_sweep(folder / "home", "noise"))
        swept, facts = noise_study(folder / "made")
        find_study(swept, facts, STUDY, MADE, made_of(sweep)).write(found.folder)
        found.end(state)


def study(*words, **more):
    return studying.study("noise", words, **{"write_page": True, "as_json": True, **more})


@pytest.fixture
def swept(monkeypatch):
    """The calls of `run_sweep`, which runs nothing."""
    calls = []

    def run_sweep(path, overrides, **options):
        calls.append((path, list(overrides)))
        return 7

    monkeypatch.setattr(studying, "run_sweep", run_sweep)
    return calls


DONE = SweepRun("a", {"seed": 0}, state="completed")
COLLAPSED = SweepRun("b", {"seed": 1}, state="failed", why="the loss must be finite", is_collapsed=True)


def test_the_page_of_a_complete_study_is_written_without_a_run(folder, swept, capsys):
    ended(folder, DONE, COLLAPSED, state="failed")
    assert study() == 1 and swept == [], "as bnf sweep, whose runs have not all a result"
    found = json.loads(capsys.readouterr().out)
    page, figure = folder / "docs" / "results" / "noise.md", folder / "docs" / "images" / "noise.svg"
    assert found["files"] == [str(page), str(figure)] and figure.read_text().startswith("<svg xmlns")
    assert found["rows"][-1]["cells"]["collapsed"]["num_seeds"] == 3 and "bnf loses to dpo 0.0" in found["answer"]
    text = page.read_text()
    places = [
        text.index(heading) for heading in ("# Noise", "## Where BNF loses", "## The question", "## The design", "| setting")
    ]
    places += [
        text.index(part) for part in ("../images/noise.svg", "## What holds", "## What doesn't", "bnf study noise --write-page")
    ]
    assert places == sorted(places)
    assert "1.5 hours" in text and "torch 2.9" in text and "2026-11-29" in text and "(../sweep_results.md#the-tables)" in text
    [row] = [line for line in text.splitlines() if line.startswith("| dpo 0.4 |")]
    assert row.startswith("| dpo 0.4 | 1 of 3: 2 collapsed | +7.0 [+3.0, +13.7], n 1 |") and "| 2 of 3 |" in row
    before = text
    assert study() == 1 and page.read_text() == before


@pytest.mark.parametrize(
    "runs",
    [
        [DONE, SweepRun("b", {"seed": 1}, state="failed", why="the disk is full")],
        [DONE, SweepRun("b", {"seed": 1}, state="stopped")],
        [DONE, SweepRun("b", {"seed": 1})],
    ],
)
def test_what_is_not_complete_is_run(folder, swept, runs):
    ended(folder, *runs, state="failed")
    assert study() == 7 and len(swept) == 1


def test_a_study_runs_where_there_is_none_its_file_has_changed_or_settings_are_given(folder, swept):
    assert study() == 7
    ended(folder, DONE)
    assert study("train.learning_rate=1e-6") == 7 and study(write_page=False) == 7
    write(folder, columns=["gain"])
    assert study() == 7
    (folder / "studies" / "_task.yaml").write_text(yaml.safe_dump({"model_name_or_path": "other"}))
    assert study() == 7
    path = str(folder / "studies" / "noise.yaml")
    assert swept == [(path, []), (path, ["train.learning_rate=1e-6"]), (path, []), (path, []), (path, [])]


def test_results_of_other_code_are_made_anew_from_the_runs_and_without_these_the_study_runs(folder, swept, monkeypatch):
    ended(folder, DONE)
    place = folder / "home" / "sweeps" / "noise" / "study.json"
    today = json.loads(place.read_text())["made_of"]
    file, code = today.split(" ")
    place.write_text(place.read_text().replace(code, "other"))
    again = []

    def compare_again(home, sweep, found):
        again.append(found.id)
        place.write_text(place.read_text().replace("other", code))
        return len(again) == 1

    monkeypatch.setattr(studying, "compare_again", compare_again)
    assert study() == 0 and (again, swept) == (["noise"], [])
    assert study() == 0 and again == ["noise"], "made by today's code"
    # As before a field of it was added: the file says what it is made of all the same.
    place.write_text(json.dumps({"made_of": f"{file} older"}))
    assert study() == 7 and again == ["noise"] * 2
    place.write_text("{}")
    assert study() == 7 and len(again) == 2


def test_the_key_of_the_results_holds_what_decides_them(folder, monkeypatch):
    def key(*words):
        return made_of(load_sweep(studies.study_path("noise"), words))

    first = key()
    assert key("resources.devices=2") == first != key("train.x=1") and same_but_code(first, key("resources.devices=4"))
    monkeypatch.setattr(sweep_file, "code_digests", lambda entries: {"evaluation.report.study_results": "changed"})
    assert key() != first and same_but_code(key(), first)
    write(folder, columns=["gain"])
    assert not same_but_code(key(), first)


def test_a_run_that_is_gone_makes_no_comparison(tmp_path):
    (tmp_path / "base.yaml").write_text("model_name_or_path: m\n")
    (tmp_path / "s.yaml").write_text("base: base.yaml\nsweep:\n  seed: [0, 1]\n")
    sweep = load_sweep(str(tmp_path / "s.yaml"))
    gone = [SweepRun(f"s-seed{seed}", {"seed": seed}, ["gone"], state="completed") for seed in (0, 1)]
    for runs in (gone, [replace(one, runs=[]) for one in gone], gone[:1]):
        record = SweepRecord("s", "s.yaml", "bnf sweep s.yaml", {"seed": [0, 1]}, None, runs)
        assert not compare_again(tmp_path, sweep, SweepFolder(tmp_path / "sweeps" / "s", record))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("data.path=/home/me/data/gsm8k/train.first1000.jsonl", "data.path=gsm8k/train.first1000.jsonl"),
        ("data.path=gsm8k/train.jsonl", "data.path=gsm8k/train.jsonl"),
        ("data.path=../../x/gsm8k/train.jsonl", "data.path=gsm8k/train.jsonl"),
        ("model_name_or_path=~/models/small/", "model_name_or_path=models/small"),
        (
            'data=[{"path": "/a/b/c.jsonl"}, {"path": "https://h.io/a/b"}]',
            'data=[{"path": "b/c.jsonl"}, {"path": "https://h.io/a/b"}]',
        ),
        ("data.path=/one.jsonl", "data.path=one.jsonl"),
        ("train.learning_rate=1e-6", "train.learning_rate=1e-6"),
    ],
)
def test_the_pages_command_has_settings_without_the_machines_folders(given, shown):
    assert studying._results_settings([given, "resources.devices=2"]) == [shown]


def test_figures_of_a_last_round_are_marked_and_the_page_says_what_was_tested_and_how_many_ran(folder, swept):
    runs, facts = noise_study(folder / "made")
    last = [replace(run, of_last_round=frozenset(("chosen_shift",))) if run.name == "bnf 0.4" else run for run in runs]
    study = replace(STUDY, columns=["gain", "chosen_shift"], tests=["gain"])
    found = find_study(last, facts, study, replace(MADE, at_once=2), "x")
    page = sweep_study_page.write("noise", "bnf study noise", found, folder)[0].read_text()
    rows = [line for line in page.splitlines() if line.startswith("| bnf")]
    assert ["†" in row for row in rows] == [False, False, True]
    text = " ".join(page.split())
    assert "† Of the last round alone: it is measured from that round's start" in text
    assert "bnf 0.4: preferred, nats per token." in text and "Likelihood over training, bnf 0.4 (the last round)" in (
        folder / "images" / "noise.svg"
    ).read_text().replace("\n", " ")
    assert "- Tested: gain. Compared: dpo 0.0 against bnf 0.0; dpo 0.2 and bnf 0.4" not in text
    assert "- Tested: gain. Compared: dpo 0.0, bnf 0.2 and bnf 0.4 against bnf 0.0; dpo 0.2 against bnf 0.2;" in text
    assert "Up to 2 runs were at work at a time." in text


def test_a_run_of_several_rounds_says_which_figures_are_of_the_last_alone():
    def of(**sample):
        recipe = make_recipe(
            {
                "model_name_or_path": "m",
                "sample": {"source": "capitals", **sample},
                "label": {"labeler": "verifier"},
                "train": {},
            }
        )
        return of_last_round(recipe.sample)

    assert of() == frozenset() == of_last_round(None)
    assert {"chosen_shift", "eval_accuracy"} < of(rounds=2) and "kl" not in of(rounds=2)
    assert "kl" in of(rounds=2, reference="each_round")


def test_all_studies_are_listed_with_what_they_ask(folder, capsys):
    assert studying.study(None, write_page=False, as_json=True) == 0
    found = {one["study"]: one["question"] for one in json.loads(capsys.readouterr().out)["studies"]}
    assert list(found) == ["bandit", "length", "noise"] and found["noise"] == "Does it?"
    with pytest.raises(
        RecipeError, match=r"NAME must be one of bandit, length, noise, got '_task'; correct it\n.*bandit: Does a"
    ):
        studying.study("_task", write_page=False, as_json=True)
    with pytest.raises(RecipeError, match="must stand with a study of language models, got seed=1 with bandit"):
        studying.study("bandit", ["seed=1"], write_page=False, as_json=True)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"columns": ["gian"]}, "columns.* must be .*'gain'.*, got 'gian'"),
        ({"columns": ["gain", "gain"]}, "must have each column once, got 'gain' twice; remove one"),
        ({"design": []}, "study.design must"),
        ({"method": "x"}, "study.method"),
    ],
)
def test_a_section_that_breaks_a_rule_is_refused(folder, section, message):
    write(folder, **section)
    with pytest.raises(RecipeError, match=message):
        load_sweep(studies.study_path("noise"))


def test_a_file_without_the_section_is_no_study(folder):
    (folder / "studies" / "other.yaml").write_text(yaml.safe_dump({"base": "_task.yaml", "sweep": {"seed": [0]}}))
    with pytest.raises(RecipeError, match="must have the section study, got none; write one, or begin the file's name with _"):
        studying.study(None, write_page=False, as_json=True)


def test_names_and_messages_are_no_markup_on_the_page(tmp_path):
    runs, facts = noise_study(tmp_path)
    bad = "`x` [a](javascript:b) <script>|\u202e"
    failed = [replace(facts.failed[0], is_collapsed=False, why=bad), *facts.failed[1:]]
    found = find_study(runs, replace(facts, failed=failed), STUDY, MADE, "x")
    (tmp_path / "images").mkdir()
    page, _ = sweep_study_page.write("noise", "bnf study noise", found, tmp_path)
    assert r"\`x\` [a]\(javascript:b) \<script>\|⟨U+202E⟩" in page.read_text()


def test_a_collapse_is_recorded_as_one_and_nothing_else_is(tmp_path):
    point = SimpleNamespace(recipe=make_recipe({"name": "s-0", "model_name_or_path": "m"}), settings={})
    record = SweepRecord("s", "s.yaml", "bnf sweep s.yaml", {"seed": [0]}, None, [SweepRun("s-0", {"seed": 0})])
    with held(tmp_path, "s"):
        folder = begin(tmp_path, record, None)
        work = sweep_module.Work(SimpleNamespace(home=tmp_path), folder, sweep_module.Teller())
        for error, is_collapsed in (
            (StageFailed("the loss must be finite", Cause.USER, "TrainingCollapsed"), True),
            (StageFailed("a key must be right", Cause.USER, "ValueError"), False),
            (StageFailed("killed"), False),
            (Cancelled("stopped"), False),
        ):
            sweep_module._note(work, point, None, error)
            assert find_sweep(tmp_path, "s").record.runs[0].is_collapsed is is_collapsed
    # A record of an earlier version doesn't say.
    value = json.loads((tmp_path / "sweeps" / "s" / "sweep.json").read_text())
    del value["runs"][0]["is_collapsed"]
    assert SweepRecord.from_json(value).runs[0].is_collapsed is False


def test_shared_work_counts_once_in_the_hours(tmp_path):
    def artifact(name, seconds, torch):
        manifest = {"seconds": seconds, "versions": {"torch": torch}, "machine": {"cpu": "c", "cores": 2, "memory_gib": 8.0}}
        return SimpleNamespace(folder=f"stage/{name}", manifest=manifest)

    shared = artifact("shared", 100.0, "2.9")
    runs = [
        SimpleNamespace(
            artifacts={"a": shared, "b": artifact(name, 10.0, torch)}, record=SimpleNamespace(ended=end, started=None)
        )
        for name, torch, end in (("x", "2.9", "2026-11-28T23:00:00+00:00"), ("y", "2.8", "2026-11-29T01:00:00+00:00"))
    ]
    found = made_by(runs)
    assert (found.seconds, found.machines, found.num_unknown) == (120.0, ["c, 2 cores, 8.0 GiB"], 0)
    assert found.versions == {"torch": ["2.9", "2.8"]} and found.date == "2026-11-29" and found.at_once == 1
    times = [("2026-11-29T01:00", "2026-11-29T03:00"), ("2026-11-29T02:00", "2026-11-29T04:00"), ("2026-11-29T03:00", None)]
    spans = [SimpleNamespace(artifacts={}, record=SimpleNamespace(started=start, ended=end)) for start, end in times]
    assert made_by(spans[:2]).at_once == 2 and made_by([spans[0], spans[2]]).at_once == 1


def test_the_projects_studies_say_what_they_ask():
    for name in studies.study_names():
        assert re.search(r"\?", studies.question_of(name)), name


@pytest.mark.parametrize(
    "file", [file for file in sorted((ROOT / "flows" / "recipes").rglob("studies/*.yaml")) if file.name[0] != "_"], ids=str
)
def test_every_run_of_the_projects_studies_is_a_recipe_that_its_data_serve(file, tmp_path, monkeypatch):
    sweep = load_sweep(str(file))
    points = make_points(sweep)
    assert len(points) == len(sweep.grid()) and {point.settings["seed"] for point in points} == {0, 1, 2}
    assert (sweep.study is None) == (file.parents[1].name == "paper")
    # The model that `_sft.yaml` makes.
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "studies-sft").symlink_to(DEMONSTRATION_MODEL)
    monkeypatch.chdir(tmp_path)
    for point in points:
        if point.settings["seed"] == 0:
            nodes = graph.build(point.recipe)
            checks = [*objective_checks(point.recipe, nodes), *sample_checks(point.recipe)]
            assert not [check.problem for check in checks if check.problem is not None], point.label
