"""`bnf runs` and `bnf rm`: runs that can be told apart, and what dropping one frees."""

import json
import re

import pytest

from bnf.plain_yaml import dump
from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from flows.recipe.keys import keys_set
from flows.runs.garbage import collect
from flows.runs.listing import chosen, fold, headline_text, list_runs
from flows.runs.naming import changes, difference
from flows.runs.record import all_runs, find_run, start_run
from flows.wording import place
from tasks.home_lock import using
from tasks.nodes import Node
from tasks.store import Artifact
from tests.unit.flows.run_folders import make
from tests.unit.flows.test_home import bnf

RECIPE = {"name": "mine", "model_name_or_path": "org/model", "data": {"source": "pairs", "path": "p.jsonl"}, "train": {}}


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, ""),
        ({"train.objective": "dpo", "train.learning_rate": 1e-5}, "-dpo-lr1e-5"),
        ({"seed": 3, "train.objective_options.beta": 0.05, "train.lora_r": 16, "train.max_steps": 9}, "-seed3-beta0.05-r16"),
        ({"data.path": "/data/a b/Mine (2).jsonl", "model_name_or_path": "org/My_Model"}, "-mine-2-my-model"),
        ({"data.path": "https://me:hunter2@host/a/Mine.jsonl?sig=hunter2"}, "-mine"),
        ({"train.sharding": None, "prepare.labels": ["a"], "train.bf16": False}, "-sharding-labels-bf16false"),
        ({"evaluation.benchmarks": ["gsm8k"], "train.report_to": "wandb", "judge": None}, ""),
        ({"name": "given", "train.objective": "dpo"}, ""),
        ({"system_prompt": "Answer yes/no.", "seed": 3}, "-system-prompt-seed3"),
        ({"train.objective": "x" * 80}, "-" + "x" * 39),
        ({"train.learning_rate": 2.5e10, "train.max_steps": -1}, "-lr2.5e10-steps-1"),
    ],
)
def test_a_runs_name_says_what_it_changes(changed, name):
    assert difference(changed) == name


def test_changed_is_what_differs_from_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(dump(RECIPE))
    words = ["train.objective=dpo", "train.learning_rate=1e-5", "data.source=pairs"]
    made = make_recipe(RECIPE, words, beside=tmp_path)
    assert keys_set(str(file), words, made) == {"train.objective": "dpo", "train.learning_rate": 1e-5}
    file.write_text(dump({**RECIPE, "train": {"learning_rate": "none"}}))
    assert keys_set(str(file), words, made) == {"train.objective": "dpo", "train.learning_rate": 1e-5, "data.source": "pairs"}
    assert (
        changes({"train.learning_rate": 1e-5, "name": "x", "data.path": "/a/b.jsonl"}) == "train.learning_rate=1e-5 data.path=b"
    )
    assert changes({"system_prompt": "Answer\nyes/no."}) == "system_prompt=Answer yes/no."
    assert changes({"system_prompt": "Be brief. " * 9}) == f"system_prompt={'Be brief. ' * 3}Be brief.…"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Four runs, oldest first: `base` has ended, `again` repeats it, `other` shares its data and has a policy of its own, `broken` died."""
    monkeypatch.setenv("BNF_HOME", str(tmp_path))
    recipe = make_recipe(RECIPE)

    def add(objective, artifacts, *, cached=(), ended="completed", result=None, at_work=None):
        changed = {"train.objective": objective} if objective != "bnf" else {}
        made = make_recipe({**RECIPE, "train": {"objective": objective}})
        run = start_run(tmp_path, made, "x", changed=changed)
        for stage, key in artifacts.items():
            folder = tmp_path / "artifacts" / stage / f"{key}.f"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "manifest.json").write_text(json.dumps({"files": {"w": {"size": 100}}}))
            (folder / "w").write_bytes(b"x" * 100)
            run.add(Node(stage, {}), Artifact(stage, key, "f", folder), cached=stage in cached, seconds=1.0)
        if at_work:
            run.begin(Node(at_work, {}), "half")
            (tmp_path / "artifacts" / at_work / "half.work").mkdir(parents=True)
            (tmp_path / "artifacts" / at_work / "half.work" / "part").write_bytes(b"x" * 7)
        if result:
            base, aligned, verdict = result
            entry = {"base": {"accuracy": base}, "aligned": {"accuracy": aligned}, "delta": aligned - base, "verdict": verdict}
            dev = {"evaluations": [{"eval_rewards/accuracies": 0.25}, {"eval_rewards/accuracies": 0.75}]}
            (run.folder / "summary.json").write_text(json.dumps({"benchmarks": {"gsm8k": entry}, "train": {"dev": dev}}))
        run.end(ended)
        # Each a day after the one before.
        record = json.loads((run.folder / "run.json").read_text())
        record["started"] = f"2026-01-0{1 + len(runs)}T00:00:00+00:00"
        (run.folder / "run.json").write_text(json.dumps(record))
        runs.append(run.id)
        return run.id

    runs = []
    add("bnf", {"prepare": "data", "train": "one"}, result=(25.0, 76.5, "better"))
    add("bnf", {"prepare": "data", "train": "one"}, cached=("prepare", "train"), result=(25.0, 76.5, "better"))
    add("dpo", {"prepare": "data", "train": "two"}, cached=("prepare",), result=(25.0, 24.5, "noise"))
    add("dpo", {"prepare": "data"}, cached=("prepare",), ended="failed", at_work="train")
    assert recipe.name == "mine"
    return tmp_path, runs


def test_runs_are_told_apart(home, monkeypatch, capsys):
    folder, (base, again, other, broken) = home
    rows = list_runs(all_runs(folder))
    assert [row["run"] for row in rows] == [broken, other, again, base]
    assert other.startswith("mine-dpo-2") and base.startswith("mine-2") and find_run(folder, "mine").id == broken
    listed = {row["run"]: row for row in rows}
    assert listed[again]["repeats"] == base and [row["repeats"] for row in rows].count(None) == 3
    assert (listed[other]["objective"], listed[other]["model"], listed[other]["dev_accuracy"]) == ("dpo", "model", 75.0)
    assert [(row["run"], repeats) for row, repeats in fold(rows)] == [(broken, []), (other, []), (base, [again])]
    assert headline_text(listed[base]["headline"]) == "gsm8k 25.0 → 76.5 (+51.5)"
    assert headline_text(listed[other]["headline"]) == "gsm8k 25.0 → 24.5 (−0.5, noise)"

    assert [row["run"] for row in chosen(rows, [], "result")] == [again, base, other, broken], "without a result it comes last"
    assert [row["run"] for row in chosen(rows, ["objective=dpo", "state=complet"], "age")] == [other]
    assert [row["run"] for row in chosen(rows, ["changed=objective=DPO"], "age")] == [broken, other]
    for filters, sort, message in ((["x=1"], "age", "--filter must be COLUMN=TEXT"), ([], "name", "--sort must be one of age")):
        with pytest.raises(RecipeError, match=message):
            chosen(rows, filters, sort)

    # The figure is the policy's, not that of the last step.
    file = folder / "runs" / other / "summary.json"
    summary = json.loads(file.read_text())
    steps = [{"step": step, "eval_rewards/accuracies": share} for step, share in ((2, 0.25), (4, 0.875), (6, 0.75))]
    file.write_text(json.dumps({**summary, "train": {"dev": {"evaluations": steps, "kept": 4}}}))
    assert {row["run"]: row["dev_accuracy"] for row in list_runs(all_runs(folder))}[other] == 87.5
    file.write_text(json.dumps(summary))
    # A recipe that a power cut left unreadable leaves its columns empty.
    (folder / "runs" / broken / "recipe.yaml").write_text("train: {objective")
    assert list_runs(all_runs(folder))[0]["objective"] is None

    assert bnf(monkeypatch, "runs") == 0
    out = capsys.readouterr().out
    assert f"{base}  +1 cached" in out and again not in out and "train.objective=dpo" in out and "75.0" in out
    assert bnf(monkeypatch, "runs", "--all") == 0 and again in capsys.readouterr().out
    assert bnf(monkeypatch, "runs", "--filter", "model=nobody") == 0
    assert "no run in" in capsys.readouterr().out


def test_the_result_is_that_of_the_benchmark_that_the_report_begins_with(home):
    folder, (base, *_) = home
    file = folder / "runs" / base / "summary.json"
    summary = json.loads(file.read_text())
    entry = summary["benchmarks"]["gsm8k"]

    def headline(**benchmarks):
        recipe = {"data": {"source": "math"}, "sample": None}
        file.write_text(json.dumps({**summary, "recipe": recipe, "benchmarks": {"gsm8k": entry, **benchmarks}}))
        return {row["run"]: row["headline"] for row in list_runs(all_runs(folder))}[base]["benchmark"]

    assert headline(math_l5={**entry, "delta": -1.0}, math=entry) == "math_l5"
    assert headline(math={"base": {"accuracy": 1.0}, "delta": None}, crux=entry) == "gsm8k"


@pytest.fixture
def terminal(monkeypatch):
    """A function that makes standard output a terminal of so many columns."""

    def set_columns(columns):
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm")

    return set_columns


@pytest.mark.parametrize("columns", [40, 80, 120, 200, None])
def test_whatever_the_terminals_width_names_and_words_are_whole(home, monkeypatch, capsys, terminal, columns):
    folder, runs = home
    file = folder / "runs" / runs[2] / "run.json"
    changed = {"train.objective": "dpo", "evaluation.benchmarks": ["gsm8k", "crux"], "train.lora_r": 16}
    if columns is None:  # a pipe
        changed["train.objective_options." + "x" * 120] = 1
    file.write_text(json.dumps({**json.loads(file.read_text()), "changed": changed}))
    if columns is not None:
        terminal(columns)
    assert bnf(monkeypatch, "runs", "--all") == 0
    words = [word.strip(",") for word in re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).split()]
    assert {*runs, "completed", "failed", *changes(changed).split()} <= {*words}
    assert words[0] == {40: runs[3], 80: runs[3], 200: "run", None: "run"}.get(columns, words[0]), (
        "a table where there is room for one"
    )


def test_the_size_of_a_folded_run_is_what_it_frees_with_its_repeats(home, monkeypatch, capsys, terminal):
    folder, (base, _, other, broken) = home
    terminal(80)
    assert bnf(monkeypatch, "runs") == 0
    lines = capsys.readouterr().out.split(base)[1]
    assert "+1 cached" in lines and "100 B of its own" in lines
    assert bnf(monkeypatch, "runs", "--all") == 0
    assert "nothing of its own" in capsys.readouterr().out.split(base)[1]
    (folder / "runs" / other / "run.json").write_text("{}")
    assert bnf(monkeypatch, "runs", "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["runs"][0]["run"] == broken
    assert f"not listed: {other}, whose run.json can't be read" in said.err


def test_rm_says_what_goes_and_what_stays(home, monkeypatch, capsys):
    _, (base, again, other, broken) = home
    assert bnf(monkeypatch, "rm", base, "--dry-run") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"1 run would be dropped from {place(home[0])}: {base}",
        f"all artifacts stay, as {broken}, {other}, {again} have them too",
    ]
    assert bnf(monkeypatch, "rm", other, "--yes") == 0
    said = capsys.readouterr().out
    assert "1 run and 1 folder that no other run names, " in said and f", dropped from {place(home[0])}: {other}" in said
    assert f"some artifacts stay, as {broken}, {again}, {base} have them too" in said
    assert bnf(monkeypatch, "gc") == 0
    assert "0 folders, 0 B, dropped from" in capsys.readouterr().out


def test_rm_asks_in_a_sentence(home, monkeypatch, capsys):
    folder, (_, _, other, _) = home
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    assert bnf(monkeypatch, "rm", other) == 2
    assert re.fullmatch(r"drop 1 run and 1 folder that no other run names, \S+ \S*B\? \[y/N\] ", asked[0])
    assert "nothing was dropped" in capsys.readouterr().err and len(all_runs(folder)) == 4


def test_rm_drops_what_the_run_alone_names(home, monkeypatch, capsys):
    folder, (base, again, other, broken) = home
    assert bnf(monkeypatch, "rm", base, other, "--dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["folder"] for one in found["dropped"]} == {"two.f"}, "another run names one.f, and all name data.f"
    assert found["bytes"] == (folder / "artifacts" / "train" / "two.f" / "manifest.json").stat().st_size + 100
    assert len(all_runs(folder)) == 4
    assert bnf(monkeypatch, "rm", other) == 2
    assert "add --yes" in capsys.readouterr().err and len(all_runs(folder)) == 4

    assert bnf(monkeypatch, "rm", base, again, broken, "--yes") == 0
    assert "3 runs and 2 folders" in capsys.readouterr().out
    assert [run.id for run in all_runs(folder)] == [other]
    left = sorted(path.name for path in (folder / "artifacts").glob("*/*"))
    assert left == ["data.f", "two.f"] and sorted(path.name for path in (folder / "runs").iterdir()) == [other]


def test_a_run_at_work_is_not_dropped_and_gc_ends_what_a_kill_left(home, monkeypatch, capsys):
    folder, (base, *_) = home
    run = start_run(folder, make_recipe(RECIPE), "x")
    assert bnf(monkeypatch, "rm", run.id, "--yes") == 2
    assert f"RUN must have ended, got {run.id} at work; cancel it first: `bnf cancel {run.id}`" in capsys.readouterr().err
    run.end("failed")
    (folder / "runs" / base / "run.json").unlink()
    collect(folder, dry_run=False)
    assert not (folder / "runs" / base).exists() and len(all_runs(folder)) == 4


def test_only_what_is_left_of_a_run_is_dropped(home):
    folder, (base, other, *_) = home
    for file in ("notes/todo.txt", ".DS_Store"):
        (folder / "runs" / file).parent.mkdir(exist_ok=True)
        (folder / "runs" / file).write_text("mine")
    # Of a run that was being dropped a kill leaves the lock to the last; links lead to artifacts, which stay.
    for file in (folder / "runs" / base).iterdir():
        if file.name not in ("alive.lock", "artifacts"):
            file.unlink()
    collect(folder, dry_run=False)
    assert not (folder / "runs" / base).exists() and (folder / "runs" / other).is_dir()
    assert (folder / "runs" / "notes" / "todo.txt").read_text() == (folder / "runs" / ".DS_Store").read_text() == "mine"
    assert (folder / "artifacts" / "prepare" / "data.f" / "w").is_file()


@pytest.mark.parametrize("words", [["gc"], ["rm", "--yes"]])
def test_nothing_is_dropped_while_a_record_cannot_be_read(home, monkeypatch, capsys, words):
    folder, (base, _, other, _) = home
    (folder / "gc.lock").touch()
    (folder / "runs" / other / "run.json").write_text('{"state": "compl')
    assert bnf(monkeypatch, *words, *([base] if words[0] == "rm" else [])) == 2
    said = capsys.readouterr().err
    assert f"{words[0]} must know what every run names, got {folder / 'runs' / other / 'run.json'}" in said
    assert (folder / "artifacts" / "train" / "two.f" / "w").is_file() and (folder / "runs" / base).is_dir()


def test_a_clock_that_was_set_back_breaks_no_list(tmp_path, monkeypatch, capsys):
    """Names are a run's own, and what a stage took is measured by a clock that never jumps; only times of the day are as they were told."""
    monkeypatch.setenv("BNF_HOME", str(tmp_path))
    ahead = start_run(tmp_path, make_recipe(RECIPE), "x")
    ahead.record.started = "2999-01-01T12:00:00+00:00"
    times = {"started": "2999-01-01T12:00:01.000+00:00", "ended": "2026-01-01T12:00:00.000+00:00"}
    ahead.add(Node("score", {}), make(tmp_path, "score", "++"), cached=False, seconds=1.5, **times)
    ahead.end("completed")
    after = start_run(tmp_path, make_recipe(RECIPE), "x")
    after.end("completed")
    assert after.id != ahead.id
    listed = {row["run"]: row["seconds"] for row in list_runs(all_runs(tmp_path))}
    assert listed == {ahead.id: None, after.id: pytest.approx(0, abs=5)}
    assert bnf(monkeypatch, "runs") == 0 and bnf(monkeypatch, "show", ahead.id) == 0
    shown = capsys.readouterr()
    assert "1.5" in shown.out and not shown.err
    assert find_run(tmp_path, "latest").id == ahead.id, "the newest by the clock"


def test_a_dry_run_answers_whoever_is_at_work(home, monkeypatch, capsys):
    """It drops nothing, so nothing is in its way; it says what would be in the way of dropping."""
    folder, (_, _, other, _) = home
    run = start_run(folder, make_recipe(RECIPE), "x")
    run.begin(Node("train", {}), "whole")
    work = folder / "artifacts" / "train" / "whole.work"
    work.mkdir(parents=True)
    (work / "part").write_bytes(b"x" * 7)
    (work / "gone").symlink_to("nowhere")
    with using(folder):
        assert bnf(monkeypatch, "rm", run.id, "--dry-run") == 0
        said = capsys.readouterr().out
        assert "whole.work" in said and "1 run and 1 folder that no other run names, 7 B, would be dropped" in said
        assert said.endswith(f"not now: RUN must have ended, got {run.id} at work; cancel it first: `bnf cancel {run.id}`\n")
        assert bnf(monkeypatch, "rm", other, "--dry-run", "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert [one["folder"] for one in found["dropped"]] == ["two.f"]
        assert found["not_now"].startswith(f"rm must have {folder} for itself")
        # Nobody is asked about what can't be done.
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        monkeypatch.setattr("builtins.input", lambda question: pytest.fail(question))
        for name, refused in ((run.id, "RUN must have ended"), (other, "rm must have")):
            assert bnf(monkeypatch, "rm", name) == 2 and refused in capsys.readouterr().err
    assert len(all_runs(folder)) == 5 and (work / "part").is_file()


BROKEN_SUMMARIES = [
    "",
    "[]",
    '"text"',
    '{"train": {"dev": {"evaluations": [{"eval_rewards/accuracies": "0.5"}]}}}',
    '{"train": {"dev": {"evaluations": [7]}}}',
    '{"train": "none"}',
    '{"benchmarks": [1]}',
    '{"benchmarks": {"gsm8k": "25"}}',
    '{"benchmarks": {"gsm8k": {"base": {"accuracy": "25"}}}}',
    '{"benchmarks": {"gsm8k": {"delta": 1}}, "recipe": {"data": {"path": "x"}}}',
    '{"lm_eval": {"a": 5}}',
    '{"judges": {"arena_hard": {"models": {}}}}',
]
BROKEN_RECORDS = [
    {"started": "2026-01-02T00:00:00"},
    {"started": 5},
    {"ended": "yesterday"},
    {"ended": "2026-01-02T00:00:00"},
    {"changed": ["a"]},
    {"tasks": []},
    {"tasks": {"train": {"stage": "train", "key": "k", "fingerprint": "f", "path": "p", "cached": True, "seconds": "1"}}},
    {"tasks": {"train": {"stage": "train", "key": "k", "fingerprint": None, "path": "p", "cached": True, "seconds": 1}}},
    {"working": "train"},
]


@pytest.mark.parametrize("text", BROKEN_SUMMARIES)
def test_a_summary_that_no_run_wrote_so_leaves_its_columns_empty(home, monkeypatch, capsys, text):
    folder, (base, _, other, _) = home
    (folder / "runs" / base / "summary.json").write_text(text)
    assert bnf(monkeypatch, "runs", "--json", "--sort", "result") == 0
    listed = {row["run"]: row for row in json.loads(capsys.readouterr().out)["runs"]}
    assert (listed[base]["headline"], listed[base]["dev_accuracy"]) == (None, None)
    assert headline_text(listed[other]["headline"]) == "gsm8k 25.0 → 24.5 (−0.5, noise)"
    assert bnf(monkeypatch, "runs") == 0 and base in capsys.readouterr().out


@pytest.mark.parametrize("change", BROKEN_RECORDS)
def test_a_record_with_values_that_no_run_writes_hides_no_other_run(home, monkeypatch, capsys, change):
    folder, (base, *_, broken) = home
    file = folder / "runs" / base / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert bnf(monkeypatch, "runs") == 0
    said = capsys.readouterr()
    assert broken in said.out and base not in said.out and f"not listed: {base}, whose run.json can't be read" in said.err


def test_artifacts_and_locks_that_are_no_such_things_take_no_list_down(home, monkeypatch, capsys):
    folder, (base, *_, broken) = home
    (folder / "artifacts" / "train" / "one.f" / "manifest.json").write_text('{"files": [1]}')
    (folder / "artifacts" / "prepare" / "data.f" / "manifest.json").unlink()
    (folder / "artifacts" / "prepare" / "data.f" / "manifest.json").mkdir()
    file = folder / "runs" / broken / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "state": "running"}))
    (folder / "runs" / broken / "alive.lock").unlink()
    (folder / "runs" / broken / "alive.lock").mkdir()
    assert bnf(monkeypatch, "runs", "--json", "--all") == 0
    listed = {row["run"]: row for row in json.loads(capsys.readouterr().out)["runs"]}
    assert listed[base]["bytes"] == 0 and listed[broken]["state"] == "crashed" and len(listed) == 4


def test_a_run_without_benchmarks_has_the_result_of_lm_eval_or_of_its_judge(home):
    folder, (base, *_) = home

    def result(**summary):
        (folder / "runs" / base / "summary.json").write_text(json.dumps({"benchmarks": {}, **summary}))
        return headline_text({row["run"]: row["headline"] for row in list_runs(all_runs(folder))}[base])

    def value(number):
        return {"value": number, "stderr": 0.01}

    acc = {"n": 50, "base": value(0.4512), "aligned": value(0.462), "delta": 0.0108, "delta_ci": [-0.01, 0.03]}
    assert result(lm_eval={"hellaswag": {"hellaswag": {"acc,none": acc}}}) == "hellaswag acc,none 0.4512 → 0.4620 (+0.0108)"
    of_group = {"mmlu_law": {"acc,none": value(0.1)}, "mmlu": {"acc,none": {"n": None, "base": value(0.3), "aligned": None}}}
    assert result(lm_eval={"mmlu": of_group}) == "mmlu acc,none 0.3000", "of what was asked for, not of its first part"
    judged = {
        "orders": "both",
        "demonstration": False,
        "models": {name: {"score": score, "trusted": True} for name, score in (("base", 40.0), ("aligned", 45.5))},
        "delta": 5.5,
    }
    assert result(judges={"arena_hard": judged}) == "arena_hard win rate 40.0 → 45.5 (+5.5)"
    shown = {**judged, "demonstration": True, "models": {"aligned": {"score": 45.5, "trusted": True}}, "delta": None}
    assert result(judges={"arena_hard": shown}) == "arena_hard win rate 45.5 (demonstration)"
    judged["models"]["base"]["trusted"] = False
    assert result(judges={"arena_hard": judged}).endswith("(+5.5, untrusted)")


def test_a_list_reads_no_recipe_that_its_report_shows(home, monkeypatch):
    """YAML takes a hundred times as long as JSON: 200 runs took seconds."""
    folder, (base, *_) = home
    read = []
    monkeypatch.setattr("flows.runs.record.read_values", lambda file, name: read.append(file.parent.name) or {})
    file = folder / "runs" / base / "summary.json"
    shown = {"model_name_or_path": "org/shown", "train": {"objective": "kto"}, "data": None, "sample": None}
    file.write_text(json.dumps({**json.loads(file.read_text()), "recipe": shown}))
    listed = {row["run"]: row for row in list_runs(all_runs(folder))}
    assert (listed[base]["objective"], listed[base]["model"]) == ("kto", "shown")
    assert base not in read and len(read) == 3
