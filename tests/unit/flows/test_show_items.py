"""`bnf show RUN --items BENCHMARK`: the words of the command, what it prints, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.items import show_items
from flows.commands.showing import show_report
from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from flows.runs.record import start_run
from tasks.keys import Ingredients
from tasks.nodes import Node
from tasks.store import Store
from tests.unit.evaluation.report_folders import scored
from tests.unit.evaluation.test_sample_report import sampled
from tests.unit.flows.run_folders import BASE, run_of


def show(run, benchmark="gsm8k", **asked):
    show_items(run.id, benchmark, **{"filter": None, "search": None, "limit": None, "as_json": False} | asked)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose two models have fourteen items: one was lost, twelve were gained, one is right both times."""
    monkeypatch.setenv("BNF_HOME", str(tmp_path))
    store = Store(tmp_path / "artifacts")
    run = start_run(tmp_path, make_recipe({**BASE, "name": "mine"}), "x")
    texts = {"i0": "\x1b[31m</script><img src=x onerror=alert(1)>\nsecond \ud800", "i1": "z" * 2000}
    for role, marks in (("base", "+" + "-" * 12 + "+"), ("aligned", "0" + "+" * 13)):
        made = scored(tmp_path / "made" / role, marks, texts=texts)
        for stage, folder in zip(("score", "generate"), made, strict=True):
            made_of = Ingredients(stage, {"role": role}, {}, {})
            work = store.work_folder(stage, made_of.key())
            for file in folder.iterdir():
                (work / file.name).write_bytes(file.read_bytes())
            artifact = store.commit(made_of, work, content=("*",), fingerprint=None, about={})
            run.add(Node(stage, {}, role=role, benchmark="gsm8k"), artifact, cached=False, seconds=1.0)
    run.end("completed")
    return run


def test_items_are_printed_with_each_models_completion(run, capsys):
    show(run, filter="right->wrong")
    assert capsys.readouterr().out.splitlines() == [
        "i0  right → wrong",
        "  question  question i0",
        "  answer    42",
        "  base: correct, read as 42 by rule json, 10 tokens, ended by itself",
        "    ␛[31m</script><img src=x onerror=alert(1)>",
        "    second ⟨U+D800⟩",
        "  aligned: no answer, rule json, 10 tokens, cut off",
        "    ␛[31m</script><img src=x onerror=alert(1)>",
        "    second ⟨U+D800⟩",
        "",
        f"{run.id}, gsm8k: 1 of 14 items are right→wrong",
    ]


def test_ten_are_printed_and_the_others_counted(run, capsys):
    show(run, filter="changed")
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("i") for line in lines) == 10
    assert "    … 500 more characters; --json has all" in lines
    assert lines[-1] == f"{run.id}, gsm8k: 13 of 14 items are changed; above the first 10, --limit 13 shows all"
    show(run, filter="wrong→right", search="Completion", limit=1)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith('11 of 14 items are wrong→right and hold "Completion"; above the first 1, --limit 11 shows all')


def test_what_right_means_of_samples_is_said_where_no_item_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BNF_HOME", str(tmp_path))
    store, run = Store(tmp_path / "artifacts"), start_run(tmp_path, make_recipe({**BASE, "name": "mine"}), "x")
    # A quarter of the samples is right, and no item.
    for stage, folder in zip(("score", "generate"), sampled(tmp_path / "made", ["+---", "-+--"]), strict=True):
        made_of = Ingredients(stage, {}, {}, {})
        work = store.work_folder(stage, made_of.key())
        for file in folder.iterdir():
            (work / file.name).write_bytes(file.read_bytes())
        artifact = store.commit(made_of, work, content=("*",), fingerprint=None, about={})
        run.add(Node(stage, {}, role="base", benchmark="gsm8k"), artifact, cached=False, seconds=1.0)
    run.end("completed")
    show(run, filter="right")
    assert capsys.readouterr().out.splitlines() == [
        f"{run.id}, gsm8k: 0 of 2 items are right",
        "with several samples an item is right where more than half of them are",
    ]


def test_the_command_gives_all_as_json(run):
    asked = ["show", run.id, "--items", "gsm8k", "--filter", "wrong->right", "--json"]
    found = json.loads(CliRunner().invoke(app, asked).stdout)
    assert (found["num_items"], found["num_found"], found["num_left_out"], found["filter"]) == (14, 12, 0, "wrong→right")
    assert [item["id"] for item in found["items"]] == [f"i{number}" for number in range(1, 13)]
    assert [one["completion"] for one in found["items"][0]["replies"]] == ["z" * 2000] * 2
    # What no UTF-8 can hold is escaped.
    found = json.loads(CliRunner().invoke(app, ["show", run.id, "--items", "gsm8k", "--limit", "1", "--json"]).stdout)
    assert found["items"][0]["replies"][0]["completion"].endswith("second \ud800")
    found = json.loads(CliRunner().invoke(app, [*asked, "--limit", "2"]).stdout)
    assert (found["num_found"], len(found["items"])) == (12, 2)


def test_what_is_not_there_is_refused(run, tmp_path):
    with pytest.raises(RecipeError, match=rf"that {run.id} scored, got 'gsm8'; the run has gsm8k"):
        show(run, "gsm8")
    with pytest.raises(RecipeError, match=r"--filter must be one of wrong→right, .*, got 'lost'"):
        show(run, filter="lost")
    with pytest.raises(RecipeError, match="--limit must be 1 or more, got 0"):
        show(run, limit=0)
    without = run_of(tmp_path, "other", 1, trained=True)
    with pytest.raises(RecipeError, match=r"--filter must be one of wrong→right, .*, got 'lost'"):
        show(without, filter="lost")
    with pytest.raises(RecipeError, match=r"got 'gsm8k'; the run has none \(failed\), run its evaluation first"):
        show(without)
    shutil.rmtree(Path(run.artifacts["generate/aligned/gsm8k"].path))
    with pytest.raises(RecipeError, match=r"files of generate-aligned-gsm8k on this machine.*BNF_STORE"):
        show(run)


@pytest.mark.parametrize("option", [("--filter", "wrong"), ("--search", "x"), ("--limit", "3")])
def test_options_of_items_need_them(option, run):
    found = CliRunner().invoke(app, ["show", run.id, *option])
    assert found.exit_code and f"{option[0]} must stand with --items" in str(found.exception)


@pytest.mark.parametrize("display", ["", ":0"])
def test_a_report_that_no_browser_shows_says_so(tmp_path, monkeypatch, capsys, display):
    run = run_of(tmp_path, "mine", 1)
    (run.folder / "report.html").write_text("report")
    monkeypatch.setenv("BNF_HOME", str(tmp_path))
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setattr("sys.platform", "linux")
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    show_report(run.id, open_it=True, as_json=False)
    printed = capsys.readouterr()
    assert printed.out.strip() == str(run.folder / "report.html")
    assert bool(opened) is bool(display) and ("no browser could be opened here" in printed.err) is not bool(display)
