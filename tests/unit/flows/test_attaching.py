"""Which loggers a run's table and report are attached to. `tests/integration/test_loggers.py` attaches them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows.service import attaching
from flows.service.attaching import attach_results
from tasks.keys import ROOT
from tests.unit.flows.run_folders import run_of

RUNS = {"mlflow": {"id": "1"}, "wandb": {"id": "2", "project": "bnf", "entity": ""}}


def said_of(home: Path, *loggers: str, noted: bool = True) -> list[str]:
    """What is said of a run that reports to these loggers, where the training has noted its runs in mlflow and wandb."""
    run = run_of(home, "mine", 1, trained=True, scores="+", train={"report_to": list(loggers) or "none"})
    (run.folder / "report.html").write_text("report")
    if noted:
        (run.artifacts["train"].path / "logger_runs.json").write_text(json.dumps({"name": run.id, "runs": RUNS}))
    said: list[str] = []
    attach_results(run, said.append)
    return said


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The loggers that are asked; mlflow fails."""
    asked: list[str] = []

    def attach(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        asked.append(command[4])
        failed = command[4] == "mlflow"
        return subprocess.CompletedProcess(
            command, int(failed), "", "a warning\nMlflowException: no such run\n" if failed else ""
        )

    monkeypatch.setattr(attaching.subprocess, "run", attach)
    monkeypatch.setattr(attaching, "lacking", lambda logger: None)
    return asked


def test_results_go_where_the_training_logged_and_the_recipe_still_reports(tmp_path: Path, asked: list[str]) -> None:
    assert said_of(tmp_path, "wandb", "tensorboard") == ["results and report attached to wandb"]
    assert asked == ["wandb"]


@pytest.mark.parametrize(("loggers", "noted"), [((), True), (("wandb",), False), (("clearml",), True)])
def test_nothing_is_attached_or_said_elsewhere(tmp_path: Path, asked: list[str], loggers: tuple[str, ...], noted: bool) -> None:
    assert said_of(tmp_path, *loggers, noted=noted) == [] == asked


def test_a_logger_that_fails_is_said_with_its_reason_and_others_are_asked_all_the_same(
    tmp_path: Path, asked: list[str]
) -> None:
    failed, attached = said_of(tmp_path, "mlflow", "wandb")
    assert failed.startswith("results and report could not be attached to mlflow: MlflowException: no such run; they are in ")
    assert "`bnf evaluate mine-" in failed and attached == "results and report attached to wandb"


def test_a_package_that_is_gone_and_a_service_that_does_not_answer_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    monkeypatch.setattr(attaching, "lacking", lambda logger: "must have the package wandb, got none; pip install wandb")
    (said,) = said_of(tmp_path / "gone", "wandb")
    assert "to wandb: this machine must have the package wandb, got none; pip install wandb; they are in" in said

    def hang(command: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(command, attaching.TIMEOUT_S)

    monkeypatch.setattr(attaching, "lacking", lambda logger: None)
    monkeypatch.setattr(attaching.subprocess, "run", hang)
    (said,) = said_of(tmp_path / "slow", "wandb")
    assert "to wandb: it did not answer in 180 s; they are in" in said


def test_no_logger_is_imported_by_the_flow() -> None:
    script = (
        "import sys, flows.service.attaching, bnf.training.config\n"
        "print([name for name in ('wandb', 'mlflow', 'trackio', 'tensorboard', 'torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"
