"""How a sweep's runs begin and end, with runs that do nothing: devices of their own, failures, a stop; and its record in the home."""

import contextlib
import fcntl
import sys
import threading
from types import SimpleNamespace

import pytest

from flows import sweep as module
from flows.align import LISTENER, SHARE
from flows.commands import listing, sweeping
from flows.commands.showing import taken_run_or_sweep
from flows.commands.sweeping import shown
from flows.dag import sweep_plan
from flows.dag.checks import Check
from flows.dag.selection import Options
from flows.errors import RecipeError, Stopped
from flows.recipe.config import make_recipe
from flows.runs.garbage import collect
from flows.runs.listing import chosen, list_runs
from flows.runs.record import all_runs, start_run
from flows.runs.sweeps import SweepRecord, SweepRun, all_sweeps, begin, find_sweep, held, sweep_of, unreadable_sweeps
from flows.service.sharing import SharedAccelerator, part
from tasks.child import Cancelled
from tasks.resources import Devices

NAMES = ["s-0", "s-1", "s-2"]
FOUR_GPUS = Devices(gpus=["4", "5", "6", "7"])


def record(names=NAMES):
    return SweepRecord(
        "s", "s.yaml", "bnf sweep s.yaml", {"seed": [0, 1, 2]}, None, [SweepRun(name, {"seed": 0}) for name in names]
    )


@contextlib.contextmanager
def begun(home, record):
    with held(home, record.sweep):
        yield begin(home, record, find_sweep(home, record.sweep))


@pytest.fixture
def go(tmp_path, monkeypatch):
    """Run a sweep's runs on four GPUs, each of which needs so many; what each does is in `works`."""
    started, lock = {}, threading.Lock()

    def align(recipe, **options):
        run = start_run(tmp_path, recipe, "x")
        LISTENER.get().on_run(run)
        with lock:
            started[recipe.name] = SHARE.get()
        try:
            go.works.get(recipe.name, lambda: None)()
        except BaseException:
            run.end("failed")
            raise
        run.end("completed")
        return run.id

    def call(needs, cancelled=lambda: False, complete=(), checks=()):
        checks = dict(checks)
        points = [SimpleNamespace(recipe=make_recipe({"name": name, "model_name_or_path": "m"}), settings={}) for name in NAMES]
        plans = [
            SimpleNamespace(recipe=point.recipe, options=Options(), checks=checks.get(point.recipe.name, []))
            for point in points
        ]
        monkeypatch.setattr(module, "devices_needed", lambda plan: needs)
        monkeypatch.setattr(sweep_plan, "is_result", lambda plan, run: plan.recipe.name in complete)
        with begun(tmp_path, record()) as folder:
            work = module.Work(SimpleNamespace(home=tmp_path), folder, module.Teller(on_message=go.said.append))
            module._run_all(work, list(zip(points, plans, strict=True)), cancelled)
        return work

    monkeypatch.setattr(module, "align", align)
    monkeypatch.setattr(module, "shared_devices", lambda recipe: FOUR_GPUS)
    monkeypatch.setattr(module, "_LOOK_S", 0.02)
    go = SimpleNamespace(call=call, works={}, started=started, said=[])
    return go


def test_as_many_runs_are_at_work_as_have_devices_each_with_its_own(go):
    two = threading.Barrier(2, timeout=10)
    go.works = {"s-0": two.wait, "s-1": two.wait}
    work = go.call(needs=2)
    given = [go.started[name].devices for name in NAMES]
    assert [list(one.gpus) for one in given[:2]] == [["4", "5"], ["6", "7"]] and len(given[2].gpus) == 2
    assert given[0].environment((0, 1)) == {"CUDA_VISIBLE_DEVICES": "4,5"}, "a run that has a part of the machine says which"
    assert [run.state for run in work.folder.record.runs] == ["completed"] * 3 and set(work.results) == set(NAMES)


def test_a_run_that_needs_all_devices_has_the_machine_and_waits_for_the_others_as_any_run(go):
    go.call(needs=4)
    assert {share.devices for share in go.started.values()} == {None} and list(go.started) == NAMES


def test_a_failed_run_ends_no_other_and_is_named_with_its_reason(go):
    def fail():
        raise RecipeError("the disk must be there")

    go.works = {"s-1": fail}
    work = go.call(needs=4)
    assert [(run.state, run.why) for run in work.folder.record.runs] == [
        *(("completed", None), ("failed", "the disk must be there"), ("completed", None))
    ]
    assert go.said == ["s-1: failed: the disk must be there"]
    found = shown(work.folder)
    assert len(found["runs"]) == 2 and [one["why"] for one in found["failed"]] == ["the disk must be there"]
    # The same command tries it again, and takes what is complete as it is.
    go.works.clear()
    go.started.clear()
    work = go.call(needs=4, complete={"s-0", "s-2"})
    assert list(go.started) == ["s-1"] and work.folder.record.failed == []
    assert [len(run.runs) for run in work.folder.record.runs] == [1, 2, 1]


def test_a_run_that_the_checks_refuse_is_not_begun_and_ends_no_other(go):
    work = go.call(needs=4, checks={"s-1": [Check("model", "model_name_or_path must exist, got none; name one")]})
    assert list(go.started) == ["s-0", "s-2"]
    assert [run.why for run in work.folder.record.failed] == ["model_name_or_path must exist, got none; name one"]


def test_a_cancelled_sweep_stops_the_runs_at_work_and_begins_no_other(go):
    asked = threading.Event()

    def until_stopped():
        asked.set()
        while not SHARE.get().stopped():
            threading.Event().wait(0.01)
        raise Cancelled("stopped")

    go.works = {"s-0": until_stopped}
    with pytest.raises(Cancelled, match="the same command goes on"):
        go.call(needs=4, cancelled=asked.is_set)
    assert list(go.started) == ["s-0"]
    assert go.started["s-0"].cancelled(), "the run ends as cancelled, as the sweep does"


def test_two_sweeps_of_a_name_are_not_at_work_at_once_and_a_dead_one_is_told_from_one_at_work(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.runs.sweeps._LOOKS_END_S", 0.1)
    with begun(tmp_path, record()) as folder:
        assert find_sweep(tmp_path, "s").state == "running"
        with (
            pytest.raises(RecipeError, match="name must be another than that of a sweep at work in"),
            begun(tmp_path, record()),
        ):
            pass
        folder.record.runs[0].runs.append("gone")
        folder.save()
    assert find_sweep(tmp_path, "s").state == "crashed"
    with begun(tmp_path, record()) as again:
        assert again.record.runs[0].runs == [], "a run that was removed is no more one of the sweep's"
        again.end("completed")
    assert [sweep.state for sweep in all_sweeps(tmp_path)] == ["completed"] and find_sweep(tmp_path, "t") is None


def test_who_looks_whether_a_sweep_is_at_work_keeps_none_from_beginning(tmp_path):
    with begun(tmp_path, record()):
        pass
    looks = (tmp_path / "sweeps" / "s" / "alive.lock").open()
    fcntl.flock(looks, fcntl.LOCK_SH)
    threading.Timer(0.2, looks.close).start()
    with begun(tmp_path, record()) as folder:
        assert folder.record.state == "running"


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """A home, and `bnf sweep` up to its runs: `planned.plan` is called for the plan, and `planned.ran` has the plans that were run."""
    plan = SimpleNamespace(problems=lambda: [], points=[], all_refused=False)
    planned = SimpleNamespace(home=tmp_path / "home", ran=[], plan=lambda: plan)
    sweep = SimpleNamespace(name="s", file="s.yaml", axes={}, select=None)
    monkeypatch.setattr(sweeping, "home_folder", lambda: planned.home)
    monkeypatch.setattr(sweeping, "load_sweep", lambda path, overrides: sweep)
    monkeypatch.setattr(sweeping, "set_prefect_environment", lambda home, debug: None)
    monkeypatch.setattr(sweeping, "make_sweep_plan", lambda home, sweep, tell: planned.plan())
    monkeypatch.setattr(sweeping, "_run", lambda plan, folder: planned.ran.append(plan))
    monkeypatch.setattr("flows.runs.sweeps._LOOKS_END_S", 0.1)
    return planned


def test_what_the_plan_finds_in_the_home_stays_until_the_sweep_has_ended(planned):
    """A `gc` between would drop what the plan has found, and a second sweep of the name would train the same runs."""
    given, seen = planned.plan, []

    def plan():
        for other in (lambda: collect(planned.home, dry_run=False), lambda: sweeping.run_sweep("s.yaml", [])):
            with pytest.raises(RecipeError) as caught:
                other()
            seen.append(str(caught.value).split(",")[0])
        return given()

    planned.plan = plan
    assert sweeping.run_sweep("s.yaml", []) == 0 and len(planned.ran) == 1
    assert seen == [
        f"gc must have {planned.home} for itself",
        f"name must be another than that of a sweep at work in {planned.home}",
    ]
    assert collect(planned.home, dry_run=False) == []


@pytest.mark.parametrize("content", ["", '{"sweep": "s"', "[]", '{"sweep": "s"}'])
def test_a_record_that_cannot_be_read_is_said_and_never_overwritten(planned, content, capsys, monkeypatch):
    file = planned.home / "sweeps" / "s" / "sweep.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(
        RecipeError, match=r"sweep.json must be the record of the sweep s, got .* bring it back, or move it away"
    ):
        sweeping.run_sweep("s.yaml", [])
    assert file.read_text() == content and not planned.ran
    with pytest.raises(RecipeError, match="must be the record of the sweep s"):
        taken_run_or_sweep(planned.home, "s")
    monkeypatch.setattr(listing, "home_folder", lambda: planned.home)
    listing.show_runs(filters=[], sort="age", every=True, as_json=True)
    assert "runs of s without their sweep, whose sweep.json can't be read" in capsys.readouterr().err
    assert all_sweeps(planned.home) == [] and list(unreadable_sweeps(planned.home)) == [file]
    file.unlink()
    assert sweeping.run_sweep("s.yaml", []) == 0 and planned.ran


@pytest.mark.parametrize(
    ("error", "raised", "state"),
    [(RuntimeError("no server"), RuntimeError, "failed"), (KeyboardInterrupt(), Stopped, "stopped")],
)
def test_a_sweep_that_ends_before_its_flow_begins_records_how(tmp_path, monkeypatch, error, raised, state):
    """It would look like one whose process was killed."""

    def server(home, meanwhile):
        raise error

    monkeypatch.setitem(sys.modules, "flows.service.server", SimpleNamespace(prefect_server=server))
    with begun(tmp_path, record()) as folder, pytest.raises(raised):
        sweeping._run(SimpleNamespace(home=tmp_path), folder)
    assert find_sweep(tmp_path, "s").state == state


def test_what_a_sweeps_flow_is_handed_is_for_that_call_alone(tmp_path, monkeypatch):
    seen = []
    server = SimpleNamespace(prefect_server=lambda home, meanwhile: contextlib.nullcontext("http://x"))
    monkeypatch.setitem(sys.modules, "flows.service.server", server)
    monkeypatch.setattr(module, "sweep", lambda name: seen.append((name, module.WORK.get().folder)))
    with begun(tmp_path, record()) as folder:
        sweeping._run(SimpleNamespace(home=tmp_path, points=()), folder)
    assert seen == [("s", folder)] and module.WORK.get(None) is None


def test_runs_of_other_settings_that_had_the_same_name_are_not_taken_over(tmp_path):
    run = start_run(tmp_path, make_recipe({"name": "s-0", "model_name_or_path": "m"}), "x")
    with begun(tmp_path, record()) as folder:
        folder.record.runs[0].runs.append(run.id)
        folder.save()
    with begun(tmp_path, record()) as folder:
        assert folder.record.runs[0].runs == [run.id]
    changed = record()
    changed.runs[0].settings = {"seed": 7}
    with begun(tmp_path, changed) as folder:
        assert folder.record.runs[0].runs == []


def test_runs_are_listed_with_their_sweep(tmp_path):
    run = start_run(tmp_path, make_recipe({"name": "s-0", "model_name_or_path": "m"}), "x")
    start_run(tmp_path, make_recipe({"name": "other", "model_name_or_path": "m"}), "x")
    with begun(tmp_path, record()) as folder:
        folder.record.runs[0].runs.append(run.id)
        folder.save()
    rows = list_runs(all_runs(tmp_path), sweep_of(tmp_path))
    assert {row["run"].split("-2")[0]: row["sweep"] for row in rows} == {"s-0": "s", "other": None}
    assert [row["run"] for row in chosen(rows, ["sweep=s"], "age")] == [run.id]


def test_a_part_of_the_devices_keeps_their_names_and_all_of_them_are_the_machine():
    assert part(FOUR_GPUS, [1, 3]) == Devices(gpus=["5", "7"], all_here=False)
    assert part(FOUR_GPUS, [0, 1, 2, 3]) is FOUR_GPUS
    cores = Devices(cores=[(0, 1), (2, 3)])
    assert part(cores, [1]) == Devices(cores=[(2, 3)], all_here=False)


def test_the_accelerator_is_held_once_for_all_runs(monkeypatch):
    said: list[str] = []

    class Held:
        def __init__(self, cancelled, on_wait):
            pass

        def __enter__(self):
            said.append("held")

        def __exit__(self, *_):
            said.append("given back")

    monkeypatch.setattr("flows.service.sharing.accelerator", Held)
    shared = SharedAccelerator()
    with shared(lambda: False, lambda: None):
        with shared(lambda: False, lambda: None):
            assert said == ["held"]
        assert said == ["held"]
    assert said == ["held", "given back"]


def test_a_run_can_be_cancelled_while_another_of_its_process_waits_for_the_accelerator(monkeypatch):
    waits, free = threading.Event(), threading.Event()

    @contextlib.contextmanager
    def accelerator(cancelled, on_wait):
        waits.set()
        assert free.wait(10)
        yield

    monkeypatch.setattr("flows.service.sharing.accelerator", accelerator)
    monkeypatch.setattr("flows.service.sharing._LOOK_S", 0.01)
    shared, held = SharedAccelerator(), threading.Event()

    def first():
        with shared(lambda: False, lambda: None):
            held.set()

    threading.Thread(target=first, daemon=True).start()
    assert waits.wait(10)
    with pytest.raises(Cancelled, match="while it waited"), shared(lambda: True, lambda: None):
        pass
    free.set()
    assert held.wait(10), "the first has it when it is free"
    with shared(lambda: False, lambda: None):
        pass
