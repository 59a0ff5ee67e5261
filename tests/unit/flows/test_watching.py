"""`bnf watch`: a run that another process is at, by its record and its progress; `bnf ui RUN`: its page."""

import json
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from flows import cli
from flows.commands import watching
from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from flows.runs.progress import ProgressWriter, read_progress
from flows.runs.record import Run, find_run, start_run
from tasks.nodes import Node
from tests.unit.flows.run_folders import BASE, make, run_of

PREPARE, TRAIN = Node("prepare", {}), Node("train", {})
GSM8K = Node("generate", {}, role="base", benchmark="gsm8k")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("BNF_HOME", str(tmp_path))
    monkeypatch.setattr(watching, "_LOOK_S", 0.02)
    return tmp_path


def begun(home, name="mine"):
    """A run that is at work on its training, with what it found cached."""
    run = start_run(home, make_recipe({**BASE, "name": name}), "5f1d9c1e-0000-4000-8000-000000000000")
    run.plan([PREPARE, GSM8K, TRAIN])
    for node in (PREPARE, GSM8K):
        run.add(node, make(home, node.stage, "x"), cached=True, seconds=0.0)
    run.begin(TRAIN, "key")
    writer = ProgressWriter(run.folder)
    writer.begin("train", "2026-01-01T00:00:00.000+00:00")
    writer.progress("train", 3, 60, "steps, loss 0.5000, accuracy 0.75, 37 tokens/s, 0:01:26 left")
    return run, writer


def ending(run, *steps):
    """Do the steps one after another on a thread, as another process would."""

    def go():
        for step in steps:
            time.sleep(0.15)
            step()

    thread = threading.Thread(target=go)
    thread.start()
    return thread


def watch(monkeypatch, capsys, name="latest"):
    """Exit code, standard output and standard error of `bnf watch`."""
    monkeypatch.setattr(sys, "argv", ["bnf", "watch", name])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    return ended.value.code, printed.out, " ".join(printed.err.split())


def test_a_run_is_followed_to_its_end(home, monkeypatch, capsys):
    monkeypatch.setattr("flows.display.QUIET_INTERVAL_S", 0.0)
    monkeypatch.setattr("flows.runs.progress._INTERVAL_S", 0.0)
    run, writer = begun(home)
    artifact = make(home, "train", "y")
    thread = ending(
        run,
        lambda: writer.message("waiting for other runs' accelerator"),
        lambda: writer.progress("train", 40, 60, "steps, loss 0.4000, accuracy 0.80, 37 tokens/s, 0:00:30 left"),
        lambda: run.add(TRAIN, artifact, cached=False, seconds=12.3),
        lambda: run.end("completed"),
    )
    code, _, told = watch(monkeypatch, capsys, "mine")
    thread.join()
    assert code == 0
    assert f"run {run.id} its page: bnf ui {run.id}" in told
    assert "2 cached: prepare, generate-base-gsm8k" in told
    steps = ["3/60 steps, loss 0.5000, accuracy 0.75", "waiting for other runs' accelerator", "40/60 steps, loss 0.4000"]
    places = [told.index(step) for step in [*steps, "train done 12.3 s", "3 tasks, 2 from the cache, 12 s of work"]]
    assert places == sorted(places)


@pytest.mark.parametrize(("state", "code"), [("failed", 1), ("cancelled", 1), ("stopped", 143)])
def test_the_exit_code_says_how_it_ended(home, monkeypatch, capsys, state, code):
    run, _ = begun(home)
    thread = ending(run, lambda: run.end(state, "limit must be positive, got -1; leave it out"))
    found, _, told = watch(monkeypatch, capsys)
    thread.join()
    assert found == code and f"{run.id} {state} in train: limit must be positive" in told
    assert f"train {state} after" in told and "3 of 60 steps" in told
    # One that has ended already says the same, and how long the task had been at work then.
    run.record.ended = "2026-01-01T00:01:30+00:00"
    run.save()
    found, _, told = watch(monkeypatch, capsys)
    assert found == code and f"train {state} after 90.0 s 3 of 60 steps" in told


def test_a_run_whose_process_died_has_crashed(home, monkeypatch, capsys):
    run, _ = begun(home)
    thread = ending(run, run._alive.close)
    code, _, told = watch(monkeypatch, capsys)
    thread.join()
    assert code == 1 and f"{run.id} crashed in train" in told
    _, _, told = watch(monkeypatch, capsys)
    assert "train crashed 3 of 60 steps" in told, "when, nobody knows"


def test_a_run_that_ends_between_two_looks_has_not_crashed(home):
    run, _ = begun(home)
    seen = find_run(home, run.id)
    run.end("completed")
    assert seen.record.state == "running" and seen.state == "completed" and watching._now(seen)[1] == "completed"


def test_latest_is_the_newest_that_is_at_work_or_starting(home, monkeypatch, capsys):
    """A newer run that has ended is no answer while one is at work; where none is, that is said."""
    run, _ = begun(home)
    ended = run_of(home, "mine", 1)
    ended.record.started = "2099-01-01T00:00:00+00:00"
    ended.save()
    for name in ("latest", "mine"):
        assert watching._watched(home, name).id == run.id
        assert f"{name} is {run.id} (running)" in capsys.readouterr().err
    assert watching._watched(home, ended.id).id == ended.id and capsys.readouterr().err == ""
    run.end("completed")
    assert watching._watched(home, "latest").id == ended.id
    assert capsys.readouterr().err == f"latest is {ended.id} (failed)\nit has ended: none is at work or starting\n"


def test_a_run_that_prefect_does_not_know_yet_is_followed_and_its_page_waited_for(home, monkeypatch, capsys):
    run = start_run(home, make_recipe({**BASE, "name": "new"}), None)
    id = "5f1d9c1e-0000-4000-8000-000000000000"
    thread = ending(run, lambda: run.known_as(id))
    assert str(watching.known_flow_run(find_run(home, run.id))) == id
    thread.join()
    run.record.flow_run_id = None
    run.save()
    thread = ending(run, lambda: run.known_as(id), lambda: run.end("completed"))
    code, _, told = watch(monkeypatch, capsys)
    thread.join()
    assert code == 0 and f"run {run.id} it is starting its page: bnf ui {run.id}" in told


def test_a_run_that_ended_before_prefect_knew_it_has_no_page(home):
    run = start_run(home, make_recipe({**BASE, "name": "new"}), None)
    run.end("failed", "no port is free")
    with pytest.raises(RecipeError, match=f"got {run.id}, which ended before it was: failed: no port is free"):
        watching.known_flow_run(run)


def test_ctrl_c_ends_the_watching_alone(home, monkeypatch, capsys):
    run, _ = begun(home)

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", interrupt)
    code, _, told = watch(monkeypatch, capsys)
    assert code == 130 and f"bnf: no longer watching {run.id}, which goes on" in told
    assert find_run(home, run.id).state == "running" and "stopped after" not in told


def test_a_run_that_is_deleted_meanwhile_is_an_error_in_words(home):
    run, _ = begun(home)
    (run.folder / "run.json").unlink()
    with pytest.raises(RecipeError, match="RUN must be in the home while it is watched"):
        watching._now(run)


def test_progress_survives_a_full_disk_and_a_half_written_file(home, monkeypatch):
    run, writer = begun(home)
    assert read_progress(run.folder).tasks["train"].done == 3
    monkeypatch.setattr("flows.runs.progress.write_json", lambda *args: (_ for _ in ()).throw(OSError(28, "full")))
    writer.message("goes on")
    for text in ("", "{", "[]", '{"tasks": {"train": 1}}'):
        (run.folder / "progress.json").write_text(text)
        assert read_progress(run.folder).tasks == {}


@pytest.mark.parametrize("display", [None, ":0"])
def test_the_ui_opens_the_runs_page_or_prints_it(home, monkeypatch, capsys, display):
    run, _ = begun(home)
    opened = []

    class Server:
        def __enter__(self):
            return "http://127.0.0.1:1"

        def __exit__(self, *error):
            pass

    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if display:
        monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setattr(watching, "set_prefect_environment", lambda *args, **kwargs: None)
    monkeypatch.setitem(sys.modules, "flows.service.server", SimpleNamespace(prefect_server=lambda home: Server()))
    monkeypatch.setitem(sys.modules, "flows.service.crashed", SimpleNamespace(mark_crashed=lambda home: None))
    monkeypatch.setattr(watching, "page", lambda url, run: f"{url}/runs/flow-run/{run.record.flow_run_id}")
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("threading.Event", lambda: SimpleNamespace(wait=lambda: None))
    watching.serve_ui("mine", debug=False)
    printed = capsys.readouterr().out.splitlines()
    address = "http://127.0.0.1:1/runs/flow-run/5f1d9c1e-0000-4000-8000-000000000000"
    assert printed[0].startswith(f"{run.id} in the Prefect UI of ") and printed[1] == address
    assert opened == ([address] if display else [])


def test_what_a_task_says_at_its_end_stands_below_it(home, monkeypatch, capsys):
    """Also where several tasks have ended between two looks."""
    run, writer = begun(home)
    writer.message("    12 rows: 10 kept", "prepare")
    writer.message("    a policy of 6 steps", "train")
    thread = ending(run, lambda: run.end("completed"))
    _, _, told = watch(monkeypatch, capsys)
    thread.join()
    places = [
        told.index(text) for text in ("1 cached: prepare", "12 rows: 10 kept", "1 cached: generate-base-gsm8k", "6 steps")
    ]
    assert places == sorted(places)
    old = json.loads((run.folder / "progress.json").read_text())
    del old["about"]
    (run.folder / "progress.json").write_text(json.dumps(old))
    assert read_progress(run.folder).about == ["", ""]


def test_a_run_is_shown_before_it_is_known_what_it_does(home):
    run = start_run(home, make_recipe({**BASE, "name": "new"}), "x")
    assert isinstance(run, Run) and read_progress(run.folder).tasks == {} and read_progress(run.folder).messages == ()


def test_before_a_task_counts_its_line_says_what_it_is_at(home, monkeypatch, capsys):
    monkeypatch.setattr("flows.display.QUIET_INTERVAL_S", -1.0)
    monkeypatch.setattr("flows.runs.progress._INTERVAL_S", 0.0)
    run, writer = begun(home)
    writer.progress("train", 0, 0, "opening SmolLM2-135M-Instruct")
    thread = ending(run, lambda: run.end("stopped"))
    _, _, told = watch(monkeypatch, capsys, "mine")
    thread.join()
    assert "train opening SmolLM2-135M-Instruct" in told and "0/0" not in told and "0 of 0" not in told


@pytest.mark.parametrize("text", ["", "[]", '{"run": "x"}', b"\xff\xfe"])
def test_a_record_that_cannot_be_read_ends_the_watching_in_words(home, monkeypatch, capsys, text):
    run, _ = begun(home)
    stopped, began = [], threading.Event()
    monkeypatch.setattr(watching.Display, "stop", lambda self: stopped.append(True))
    monkeypatch.setattr(watching.Display, "message", lambda self, text: began.set())
    content = text if isinstance(text, bytes) else text.encode()
    thread = ending(run, lambda: began.wait(60) and (run.folder / "run.json").write_bytes(content))
    code, _, told = watch(monkeypatch, capsys)
    thread.join()
    assert code == 2 and "bnf: RUN must have a record that can be read while it is watched, got" in told
    assert stopped, "the spinner and the hidden cursor end with it"


def test_a_run_that_is_removed_while_it_is_watched_gives_the_terminal_back(home, monkeypatch, capsys):
    import shutil

    run, _ = begun(home)
    stopped, began = [], threading.Event()
    monkeypatch.setattr(watching.Display, "stop", lambda self: stopped.append(True))
    monkeypatch.setattr(watching.Display, "message", lambda self, text: began.set())
    thread = ending(run, lambda: began.wait(60) and shutil.rmtree(run.folder))
    code, _, told = watch(monkeypatch, capsys)
    thread.join()
    assert code == 2 and f"got {run.id}, which somebody has deleted" in told and stopped


def test_progress_of_another_form_is_none(home):
    run, _ = begun(home)
    for text in ('{"tasks": {}}', '{"tasks": [], "messages": []}', '{"tasks": {}, "messages": ["a"], "about": []}'):
        (run.folder / "progress.json").write_text(text)
        assert read_progress(run.folder) == read_progress(home / "nowhere")
