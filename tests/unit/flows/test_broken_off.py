"""A run that ends before its end says where it was, with which exit code, and shows no traceback."""

import contextlib
import inspect
import sys
from contextvars import ContextVar
from types import SimpleNamespace

import pytest

from bnf.training.collapse import TrainingCollapsed
from flows import cli
from flows.commands import running
from flows.dag.selection import Options
from flows.display import Display
from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from flows.runs.garbage import collect
from flows.runs.record import all_runs, start_run
from tasks.child import Cancelled, StageFailed
from tasks.nodes import Node

TRAIN = Node("train", {})
RECIPE = make_recipe({"name": "r", "model_name_or_path": "m"})
HANDED = {name: ContextVar(name, default=None) for name in ("LISTENER", "PLAN", "RUN")}


@pytest.fixture
def ends(monkeypatch, capsys, tmp_path):
    """What `bnf run` prints and ends with where the flow raises an error, after some calls of the display."""

    def run(error, *calls):
        display = Display()

        def align(*args, **kwargs):
            for call in calls:
                call(display)
            raise error

        flow = SimpleNamespace(align=align, **HANDED, Listener=lambda *args: None)
        monkeypatch.setitem(sys.modules, "flows.align", flow)
        server = SimpleNamespace(prefect_server=lambda home, meanwhile: contextlib.nullcontext("http://x"))
        monkeypatch.setitem(sys.modules, "flows.service.server", server)
        monkeypatch.setenv("BNF_HOME", str(tmp_path))
        monkeypatch.setattr(running, "Display", lambda: display)
        plan = SimpleNamespace(checks=[], recipe=RECIPE, changed={}, home=tmp_path, options=Options())
        monkeypatch.setattr(running, "make_plan", lambda *args: plan)
        monkeypatch.setattr(running, "set_prefect_environment", lambda *args, **kwargs: None)
        monkeypatch.setattr(cli, "app", lambda: running.run_recipe(RECIPE, Options()))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    return run


def test_a_run_is_there_before_its_server_and_records_what_ends_it(ends, monkeypatch, tmp_path):
    """`bnf watch latest`, from another terminal, finds it while Prefect starts."""
    seen = []

    def look(display):
        seen.extend((run.state, run.record.flow_run_id) for run in all_runs(tmp_path))

    ends(RuntimeError("the Prefect server must become healthy"), look)
    ends(KeyboardInterrupt())
    assert seen == [("running", None)]
    assert [(run.state, run.record.why) for run in sorted(all_runs(tmp_path), key=lambda run: run.state)] == [
        ("failed", "the Prefect server must become healthy"),
        ("stopped", None),
    ]


def test_nothing_is_dropped_from_the_home_from_a_runs_first_file_on(ends, monkeypatch, tmp_path):
    """A folder that has a lock and no record yet is to gc what is left of a run that was dropped."""
    refused = []

    def collected(*_):
        with pytest.raises(RecipeError, match=r"gc must have .* for itself, got a run"):
            collect(tmp_path, dry_run=False)
        refused.append(True)

    def start(*args):
        collected()
        return start_run(*args)

    monkeypatch.setattr(running, "start_run", start)
    ends(RuntimeError("the Prefect server must become healthy"), collected)
    assert len(refused) == 2 and collect(tmp_path, dry_run=False) == []
    (run,) = all_runs(tmp_path)
    assert (run.folder / "recipe.yaml").exists()


def test_what_a_flow_is_handed_is_for_that_call_alone(ends, tmp_path):
    """Else a flow that is called after it would go on with its plan, and write into its run's record."""
    seen = []
    ends(RuntimeError("full"), lambda _: seen.extend(one.get() for one in HANDED.values()))
    _, plan, run = seen
    assert plan.recipe is RECIPE and run.id == all_runs(tmp_path)[0].id
    assert [one.get() for one in HANDED.values()] == [None, None, None]


def prepared(display):
    display.start(Node("prepare", {}))
    display.done(Node("prepare", {}), True, 0.0)


def training(display):
    display.start(TRAIN)
    display.progress(TRAIN, 3, 60, "steps, loss 0.5000, 37 tokens/s, 0:01:26 left")


@pytest.mark.parametrize(("error", "code", "by"), [(KeyboardInterrupt(), 130, "Ctrl-C"), (SystemExit(143), 143, "SIGTERM")])
def test_a_stopped_run_says_what_was_stopped_and_that_it_goes_on(ends, error, code, by):
    found, told = ends(error, prepared, training)
    assert found == code and "0 s of work" not in told
    message = (
        f"bnf: stopped by {by} in train (3 of 60 steps); 1 task was complete before it; the same command goes on from there"
    )
    assert message in " ".join(told.split())
    assert "train stopped after 0.0 s 3 of 60 steps" in " ".join(told.split())


def test_a_run_is_stopped_between_tasks_and_before_the_first(ends):
    assert "stopped by Ctrl-C between tasks; 1 task was complete; the same" in ends(KeyboardInterrupt(), prepared)[1]
    assert "stopped by Ctrl-C before the first task; the same command" in ends(KeyboardInterrupt())[1]


def judging(display):
    node = Node("judge", {}, role="judge", benchmark="arena_hard")
    display.start(node)
    display.progress(node, 2, 5, "games, 0:01:00 left")


def test_of_several_tasks_at_work_each_says_how_far_it_was(ends):
    told = " ".join(ends(KeyboardInterrupt(), prepared, training, judging)[1].split())
    assert (
        "stopped by Ctrl-C in train (3 of 60 steps) and judge-arena_hard (2 of 5 games); 1 task was complete before them"
        in told
    )
    assert "train stopped after 0.0 s 3 of 60 steps judge-arena_hard stopped after 0.0 s 2 of 5 games" in told


def test_a_task_that_failed_while_others_went_on_is_said_once(ends):
    told = " ".join(ends(StageFailed("x"), training, judging, lambda display: display.failed(TRAIN))[1].split())
    assert told.count("train failed after 0.0 s 3 of 60 steps") == 1 and "judge-arena_hard failed" in told


def test_a_line_that_changes_has_a_part_for_each_task(monkeypatch):
    display = Display()
    display.console.width = 80
    shown = []
    status = SimpleNamespace(update=lambda text: shown.append(str(text)), start=lambda: None, stop=lambda: shown.append("stop"))
    monkeypatch.setattr(display, "status", status)
    training(display)
    assert shown[-1] == "train  3/60  steps, loss 0.5000, 37 tokens/s, 0:01:26 left"
    judging(display)
    assert shown[-1] == "train  3/60  steps, loss 0.5000, 37   │  judge-arena_hard  2/5  games, 0:01:0"
    display.done(TRAIN, False, 1.0)
    assert shown[-1] == "judge-arena_hard  2/5  games, 0:01:00 left"


def test_before_anything_is_counted_a_line_says_what_the_task_is_at(monkeypatch, ends):
    display = Display()
    shown = []
    monkeypatch.setattr(
        display, "status", SimpleNamespace(update=lambda text: shown.append(str(text)), start=lambda: None, stop=lambda: None)
    )

    def opening(display):
        display.start(TRAIN)
        display.progress(TRAIN, 0, 0, "opening SmolLM2-135M-Instruct")

    opening(display)
    assert shown[-1] == "train  opening SmolLM2-135M-Instruct"
    display.progress(TRAIN, 3, 60, "steps")
    assert shown[-1] == "train  3/60  steps"
    told = " ".join(ends(KeyboardInterrupt(), opening)[1].split())
    assert "stopped by Ctrl-C in train (opening SmolLM2-135M-Instruct); 0 tasks were complete" in told


@pytest.mark.parametrize(
    ("error", "told", "how"),
    [
        (StageFailed("train.x must be y, got z; mend it"), "bnf: failed: train.x must be y", "failed"),
        (Cancelled("the run was cancelled; the same command goes on"), "bnf: the run was cancelled; the same", "cancelled"),
        (TrainingCollapsed("loss must be finite"), "bnf: failed: TrainingCollapsed: loss must be finite", "failed"),
        (KeyError("x"), "bnf: failed: KeyError: 'x'; with --debug it shows where", "failed"),
    ],
)
def test_a_failed_run_says_in_which_task_and_shows_no_traceback(ends, error, told, how):
    code, printed = ends(error, training)
    assert code == 1 and told in printed and "Traceback" not in printed
    assert f"train {how} after 0.0 s 3 of 60 steps" in " ".join(printed.split())


def test_debug_shows_the_traceback(ends, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bnf", "run", "r.yaml", "--debug"])
    assert "Traceback" in ends(KeyError("x"))[1]


@pytest.mark.parametrize("command", [command.callback for command in cli.app.registered_commands])
def test_every_command_takes_debug_behind_it(command):
    assert "debug" in inspect.signature(command).parameters


def test_the_version_is_the_packages(monkeypatch, capsys):
    from importlib.metadata import version

    monkeypatch.setattr(sys, "argv", ["bnf", "--version"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0 and capsys.readouterr().out == f"bnf {version('bnf')}\n"
