"""A home of any name keeps its state in itself, is looked at without a write, and says where it lies when it is made."""

import fcntl
import os
import threading
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from flows import cli
from flows.dag.graph import build
from flows.errors import RecipeError
from flows.recipe.config import load_recipe, make_recipe
from flows.runs import home
from flows.runs.garbage import collect
from flows.runs.home import database_setting, home_folder, require_writable, set_prefect_environment
from flows.runs.record import CRASHED, RUNNING, all_runs, start_run
from tasks.home_lock import using
from tasks.keys import Ingredients
from tasks.nodes import Node
from tasks.store import Store
from tests.disks import unwritable
from tests.unit.evaluation.report_folders import scored
from tests.unit.flows.run_folders import run_of

RECIPE = {"name": "r", "model_name_or_path": "org/m"}
URL = "PREFECT_SERVER_DATABASE_CONNECTION_URL"


@pytest.mark.parametrize(
    "name", ["50%", "50%25", "a?b", "a?c", "a#b", "a b", "a&b=c", "q'\"", "Ünï", ":memory:", "$HOME", "{x}"]
)
def test_the_database_lies_in_its_home_whatever_that_is_called(name, tmp_path):
    prefect = tmp_path / name / "prefect"
    prefect.mkdir(parents=True)
    url = database_setting(prefect).get(URL, f"sqlite+aiosqlite:///{prefect}/prefect.db")
    # The same address for SQLite's own driver: what Prefect's opens beneath.
    with create_engine(make_url(url).set(drivername="sqlite")).begin() as connection:
        connection.execute(text("CREATE TABLE mine (x INTEGER)"))
    assert (prefect / "prefect.db").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_prefect_is_told_of_the_database_unless_the_person_has_named_one(tmp_path, monkeypatch):
    for environment, told in [({}, True), ({"PREFECT_API_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:///x.db"}, False)]:
        monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path), **environment})
        set_prefect_environment(tmp_path / "a?b")
        assert (URL in os.environ) is told
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path), "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg"})
    set_prefect_environment(tmp_path / "a?b")
    assert URL not in os.environ and database_setting(tmp_path / "plain") == {}


def test_where_a_new_home_lies_is_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BNF_HOME", raising=False)
    for said in (f"home {tmp_path / '.bnf'}, new: artifacts, runs and Prefect's records; BNF_HOME names another\n", ""):
        require_writable(home_folder())
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == ("", said)


def test_nothing_that_only_looks_makes_a_home(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BNF_HOME", str(tmp_path / "none"))
    for words in (["plan", "flows/recipes/quickstart.yaml", "judge=null"], ["runs"], ["gc"], ["gc", "--dry-run"]):
        assert bnf(monkeypatch, *words) == 0, capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def bnf(monkeypatch, *words):
    monkeypatch.setattr(cli.sys, "argv", ["bnf", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code or 0


@pytest.fixture
def read_only(tmp_path):
    """A home with a run, in a place that nobody can write, root neither."""
    place = tmp_path / "home"
    store = Store(place / "artifacts")
    made_of = Ingredients("score", {"limit": 3}, {}, {})
    work = store.work_folder("score", made_of.key())
    (work / "scores.jsonl").write_text('{"id": "a", "verdict": "correct", "outcome": "correct"}\n')
    artifact = store.commit(made_of, work, content=("*.jsonl",), fingerprint=None, about={})
    for name in ("one", "two"):
        run = start_run(place, make_recipe({**RECIPE, "name": name}), "x")
        run.add(Node("score", {"limit": 3}), artifact, cached=False, seconds=1.0)
        run.record.state = RUNNING if name == "one" else "completed"
        run.save()
        run._alive.close()
    (place / "gc.lock").touch()
    (place / "prefect").mkdir()
    with unwritable(place):
        yield place


def test_results_of_a_read_only_home_are_compared_and_its_report_and_items_shown(tmp_path, monkeypatch, capsys):
    place = tmp_path / "home"
    store = Store(place / "artifacts")
    for number, (name, marks) in enumerate((("one", "++0+"), ("two", "+0++"))):
        run = run_of(place, name, number, scores=marks)
        answers, made_of = scored(tmp_path / name, marks)[1], Ingredients("generate", {"of": name}, {}, {})
        work = store.work_folder("generate", made_of.key())
        for file in Path(answers).iterdir():
            (work / file.name).write_bytes(file.read_bytes())
        made = store.commit(made_of, work, content=("*",), fingerprint=None, about={})
        run.add(Node("generate", {}, role="aligned", benchmark="gsm8k"), made, cached=False, seconds=1.0)
        (run.folder / "report.html").write_text("<p>report</p>")
    monkeypatch.setenv("BNF_HOME", str(place))
    with unwritable(place):
        for words in (
            ["compare", "one", "two"],
            ["report", "one"],
            ["show", "two", "--items", "gsm8k"],
            ["show", "one", "--json"],
        ):
            assert bnf(monkeypatch, *words) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "report.html" in out and "gsm8k: 4 items" in out


def test_a_read_only_home_is_looked_at_and_not_run_in(read_only, monkeypatch, capsys):
    monkeypatch.setenv("BNF_HOME", str(read_only))
    with pytest.raises(OSError, match=r"Read-only|Permission"):
        (read_only / "x").touch()
    recipe = ("flows/recipes/quickstart.yaml", "judge=null")
    for words in (["plan", *recipe], ["runs"], ["show", "one"], ["show", "two"], ["gc", "--dry-run"]):
        assert bnf(monkeypatch, *words) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert CRASHED in out and "0 folders" in out
    for words in (["run", *recipe], ["gc"]):
        assert bnf(monkeypatch, *words) == 2
        said = capsys.readouterr().err
        assert said.startswith("bnf: BNF_HOME must be ") and f"got {read_only}" in said and said.count("\n") == 1


def test_a_read_only_home_is_read_while_nobody_drops_from_it(read_only):
    """As an export and a chat do: in another person's home too."""
    with using(read_only), (read_only / "gc.lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_cached_run_is_refused_in_a_read_only_home_too(read_only):
    with pytest.raises(RecipeError, match=r"BNF_HOME must be a folder that can be written, got .* is read-only here"):
        set_prefect_environment(read_only)


def test_a_dead_run_is_dead_however_many_ask(tmp_path):
    run = start_run(tmp_path, make_recipe(RECIPE), "x")
    assert all_runs(tmp_path)[0].state == RUNNING
    asked = threading.Barrier(8)
    states = []

    def ask() -> None:
        asked.wait()
        states.extend(all_runs(tmp_path)[0].state for _ in range(50))

    def ask_at_once() -> set[str]:
        states.clear()
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return set(states)

    assert ask_at_once() == {RUNNING}
    # As the kernel does when the process is gone.
    run._alive.close()
    assert ask_at_once() == {CRASHED}
    (run.folder / "alive.lock").unlink()
    assert all_runs(tmp_path)[0].state == CRASHED and not (run.folder / "alive.lock").exists()


def test_gc_waits_for_no_run_and_tells_of_it(tmp_path):
    with using(tmp_path):
        for dry_run in (True, False):
            with pytest.raises(RecipeError, match=r"gc must have .* got a run or another gc at work there"):
                collect(tmp_path, dry_run=dry_run)
    assert collect(tmp_path, dry_run=False) == []


def test_a_plan_keeps_what_it_has_read_of_models_only_in_a_home(tmp_path, tiny_model_dir, monkeypatch):
    from bnf.model import digests

    monkeypatch.setattr(digests, "_memo", {})
    for place in (tmp_path / "none", tmp_path / "home"):
        if place.name == "home":
            place.mkdir()
        Store(place / "artifacts").outside_fingerprint(Path(tiny_model_dir))
        assert (place / "digests.json").exists() is (place.name == "home")
    assert home.DEFAULT == ".bnf" and build(load_recipe("flows/recipes/quickstart.yaml", ["judge=null"]))


@pytest.mark.parametrize("under", ["", "below/it"])
def test_a_home_that_is_a_file_or_below_one_is_refused(under, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BNF_HOME", str(tmp_path / "file" / under))
    with pytest.raises(RecipeError, match=r"^BNF_HOME must be a folder, got .*, where .*/file is a file; set another"):
        home_folder()


def test_a_home_whose_name_no_file_system_takes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("BNF_HOME", str(tmp_path / ("n" * 300)))
    with pytest.raises(RecipeError, match=r"^BNF_HOME must be a folder, got .* \(File name too long\); set another"):
        home_folder()
