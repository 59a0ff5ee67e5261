"""Trainings that log to real loggers without a network, and what is read back from there."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

from flows.recipe.config import make_recipe
from flows.runs.record import Run, start_run
from flows.service.attaching import attach_results
from tasks.keys import ROOT, Ingredients
from tasks.nodes import Node
from tasks.store import Artifact, Store
from tests.unit.bnf.training import run, run_killed

pytestmark = pytest.mark.integration
# The lock of macOS lacks some of what they import.
for package in ("wandb", "mlflow", "trackio"):
    pytest.importorskip(package, exc_type=ImportError)

SETTINGS: dict[str, Any] = {"save_steps": 2, "num_train_epochs": 2, "eval_steps": 4, "dev_prompts": 2, "dev_max_new_tokens": 2}
LOGGERS = ["wandb", "mlflow", "trackio", "tensorboard"]
STEPS, EVALUATED = list(range(1, 9)), [0, 4, 8]
ROW = {"accuracy": 50.0, "ci": [40.0, 60.0], "no_answer": 0.0, "n": 4, "n_expected": 4, "n_benchmark": None}
SUMMARY = {"benchmarks": {"gsm8k": {"title": "GSM8K", "source": "hub", "n_benchmark": None, "base": ROW}}}
REPORT = "<!doctype html><p>what it gained</p>"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every logger writes into a folder of its own."""
    (tmp_path / "wandb").mkdir()
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "WANDB_SILENT": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(tmp_path / "mlflow"),
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "BNF_RUN": "mine-dpo-1f0c",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wandb_rows(folder: Path, run_id: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a run from its files, in their order, each with the number of its file."""
    from wandb.proto import wandb_internal_pb2

    for number, file in enumerate(sorted(folder.glob(f"wandb/offline-run-*-{run_id}/*.wandb"))):
        for entry in _log_entries(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(entry)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                yield number, {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def _log_entries(data: bytes, block: int = 1 << 15) -> Iterator[bytes]:
    """The entries of a log in LevelDB's format: pieces of blocks, each after its checksum, length and kind (1 whole, 4 last)."""
    place, entry = 7, b""
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        entry += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield entry
            entry = b""


def noted(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "logger_runs.json").read_text())
    return found


def apart(script: str, *words: str) -> Any:
    """What a script prints as JSON, in a process of its own: the loggers keep state, and read their places when they are imported."""
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, cwd=ROOT, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def mlflow_run(run_id: str) -> Any:
    return apart(
        "import json, sys, mlflow\n"
        "client, name = mlflow.MlflowClient(), sys.argv[1]\n"
        "run, steps = client.get_run(name), lambda kind: [metric.step for metric in client.get_metric_history(name, kind)]\n"
        "files = {file.path: [one.path for one in client.list_artifacts(name, file.path)] for file in client.list_artifacts(name)}\n"
        "tables = [mlflow.artifacts.load_dict(f'{run.info.artifact_uri}/{path}') for paths in files.values() for path in paths"
        " if path.endswith('.json')]\n"
        "print(json.dumps({'name': run.info.run_name, 'status': run.info.status, 'params': run.data.params, 'files': files,"
        " 'tables': tables, 'loss': steps('loss'), 'eval_loss': steps('eval_loss'), 'runs': len(client.search_runs(['0']))}))",
        run_id,
    )


def trackio_run(project: str, name: str) -> Any:
    return apart(
        "import json, sys\n"
        "from trackio.sqlite_storage import SQLiteStorage\n"
        "project, name = sys.argv[1:]\n"
        "print(json.dumps({'logs': SQLiteStorage.get_logs(project, name), 'runs': SQLiteStorage.get_runs(project),"
        " 'config': SQLiteStorage.get_run_config(project, name)}, default=str))",
        project,
        name,
    )


def test_a_killed_training_goes_on_in_its_loggers_runs(dev_workplace: Path, places: Path) -> None:
    """Each has one run, with every step once."""
    output = places / "out"
    run_killed(dev_workplace, output, **SETTINGS, report_to=LOGGERS)
    before = noted(output)
    apart(
        "import sys\nfrom pathlib import Path\nfrom tests.unit.bnf.training import run\n"
        f"run(Path(sys.argv[1]), Path(sys.argv[2]), **{SETTINGS | {'report_to': LOGGERS}!r})\nprint('null')",
        str(dev_workplace),
        str(output),
    )
    after = noted(output)
    assert after == before and after["name"].startswith("mine-dpo-1f0c-") and set(after["runs"]) == set(LOGGERS)
    assert json.loads((output / "train_summary.json").read_text())["resumed_from_step"] == 2

    found = mlflow_run(after["runs"]["mlflow"]["id"])
    assert found["loss"] == STEPS and found["eval_loss"] == EVALUATED
    assert found["runs"] == 1 and found["name"] == after["name"] and found["status"] == "FINISHED"
    assert found["params"]["train.objective"] == "bnf" and found["params"]["train.global_batch_size"] == "6"

    found = trackio_run("bnf", after["name"])
    assert [entry["train/global_step"] for entry in found["logs"] if "train/loss" in entry] == STEPS
    assert [entry["train/global_step"] for entry in found["logs"] if "eval/loss" in entry] == EVALUATED
    assert found["runs"] == [after["name"]] and found["config"]["train"]["objective"] == "bnf"

    # wandb loses what it hasn't written when its own process dies, and gets no step twice.
    rows = list(wandb_rows(places, after["runs"]["wandb"]["id"]))
    steps = [row["train/global_step"] for _, row in rows if "train/loss" in row]
    assert len(set(steps)) == len(steps) and set(steps) >= set(STEPS[4:]) and {number for number, _ in rows} >= {1}
    assert [row["_step"] for _, row in rows] == sorted({row["_step"] for _, row in rows})
    assert len({path.name.rsplit("-", 1)[1] for path in places.glob("wandb/offline-run-*")}) == 1

    events = EventAccumulator(str(output / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == STEPS


def finished_run(home: Path, trained: Path, loggers: list[str]) -> Run:
    """A run whose training is that of the folder, with a table and a report."""
    store, made_of = Store(home / "artifacts"), Ingredients("train", {}, {}, {})
    recipe = make_recipe(
        {
            "model_name_or_path": "m",
            "data": {"source": "pairs", "path": "x.jsonl"},
            "name": "mine",
            "train": {"report_to": loggers},
        }
    )
    done = start_run(home, recipe, "x")
    path = store.root / "train" / made_of.key()
    path.parent.mkdir(parents=True)
    os.rename(trained, path)
    done.add(Node("train", {}), Artifact("train", made_of.key(), "f", path), cached=False, seconds=1.0)
    (done.folder / "summary.json").write_text(json.dumps(SUMMARY))
    (done.folder / "report.html").write_text(REPORT)
    done.end("completed")
    return done


def test_the_table_and_the_report_are_attached_to_the_trainings_runs(workplace: Path, places: Path) -> None:
    output = places / "out"
    apart(
        "import sys\nfrom pathlib import Path\nfrom tests.unit.bnf.training import run\n"
        f"run(Path(sys.argv[1]), Path(sys.argv[2]), report_to={LOGGERS!r})\nprint('null')",
        str(workplace),
        str(output),
    )
    known, before = noted(output), sorted(path.name for path in output.rglob("*"))
    done = finished_run(places / "home", output, LOGGERS)
    said: list[str] = []
    attach_results(done, said.append)
    assert said == ["results and report attached to wandb, mlflow, trackio, tensorboard"]
    assert sorted(path.name for path in done.artifacts["train"].path.rglob("*")) == before

    table = {"benchmark": "gsm8k", "accuracy": "50.0 [40.0, 60.0]", "no answer": "0.0", "n": "4/4"}
    rows = list(wandb_rows(places, known["runs"]["wandb"]["id"]))
    assert rows[-1][1]["results/_type"] == "table-file" and rows[-1][1]["_step"] > rows[-2][1]["_step"]
    (file,) = places.glob("wandb/offline-run-*/files/media/table/results_*.table.json")
    content = json.loads(file.read_text())
    assert dict(zip(content["columns"], *content["data"], strict=True)) == table
    (file,) = places.glob("wandb/offline-run-*/files/media/html/report_*.html")
    assert file.read_text() == REPORT

    found = mlflow_run(known["runs"]["mlflow"]["id"])
    assert found["files"] == {done.id: [f"{done.id}/report.html", f"{done.id}/results.json"]} and found["runs"] == 1
    (content,) = found["tables"]
    assert dict(zip(content["columns"], *content["data"], strict=True)) == table

    logs = trackio_run("bnf", known["name"])["logs"]
    assert logs[-1]["results"]["_value"] == [table]
    assert REPORT in [path.read_text(errors="replace") for path in (places / "trackio").rglob("*") if path.is_file()]

    shown = EventMultiplexer().AddRunsFromDirectory(str(done.folder / "tensorboard")).Reload()
    assert "train/loss" in shown.Runs()["training"]["scalars"]
    (event,) = shown.Tensors("results", "results/text_summary")
    assert b"| gsm8k | 50.0 [40.0, 60.0] | 0.0 | 4/4 |" in event.tensor_proto.string_val[0]


def test_a_logger_that_fails_is_a_message(workplace: Path, places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = places / "out"
    run(workplace, output, report_to=["tensorboard"], max_steps=1)
    runs = noted(output)
    runs["runs"]["mlflow"] = {"id": "0" * 32}
    (output / "logger_runs.json").write_text(json.dumps(runs))
    done = finished_run(places / "home", output, ["mlflow", "tensorboard", "wandb"])
    said: list[str] = []
    attach_results(done, said.append)
    failed, attached = said
    assert failed.startswith("results and report could not be attached to mlflow: ") and "0" * 32 in failed
    assert failed.endswith(f"they are in {done.folder}; `bnf evaluate {done.id}` attaches them again")
    assert attached == "results and report attached to tensorboard"
