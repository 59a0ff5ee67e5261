"""A run's results in its training's loggers: the table and the report are attached to the runs that the training has there.

Each logger is called in a process of its own, so that a run that is done neither imports it, nor waits for it for long, nor fails by it.
Run as `python -m flows.service.attaching LOGGER RUN_FOLDER LOGGER_RUNS` it is that process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bnf.process import die_with_parent, module_command, module_environment
from bnf.training.loggers import RUNS_FILE, lacking, num_rows
from evaluation.records import read_json
from evaluation.report.summary import table_rows
from flows.dag.on_policy import policy_node
from flows.runs.record import Run

# An upload of a report takes seconds; who can't reach the service waits this long.
TIMEOUT_S = 180
_FAILED = 3


@dataclass(frozen=True)
class Results:
    """What is attached: the table, every row with the same columns, and the report. `known` finds the logger's run."""

    run: str
    rows: Sequence[Mapping[str, str]]
    report: Path
    known: Mapping[str, str]

    @property
    def columns(self) -> list[str]:
        return list(self.rows[0]) if self.rows else []


def attach_results(run: Run, say: Callable[[str], None]) -> None:
    """Attach a finished run's table and report to the runs of its training's loggers, and say to which, or why not.

    A training that logged nowhere, or whose files are on another machine, has none. Nothing is raised: the run is done.
    """
    if run.recipe.train is None or not (run.folder / "report.html").exists():
        return
    trained = run.artifacts.get(policy_node(run.recipe))
    if trained is None or not (trained.path / RUNS_FILE).is_file():
        return
    begun = read_json(trained.path / RUNS_FILE)["runs"]
    attached = []
    for logger in run.recipe.train_config().loggers:
        if logger in begun and logger in _ATTACH:
            problem = _attach_apart(logger, run.folder, trained.path / RUNS_FILE)
            if problem is None:
                attached.append(logger)
            else:
                say(f"results and report could not be attached to {logger}: {problem}")
    if attached:
        say(f"results and report attached to {', '.join(attached)}")


def _attach_apart(logger: str, run_folder: Path, runs_file: Path) -> str | None:
    """Attach in a process of its own; what went wrong and what helps, or None."""
    again = f"they are in {run_folder}; `bnf evaluate {run_folder.name}` attaches them again"
    if (problem := lacking(logger)) is not None:
        return f"this machine {problem}; {again}"
    command = module_command("flows.service.attaching", logger, str(run_folder), str(runs_file))
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            env=module_environment(),
        )
    except subprocess.TimeoutExpired:
        return f"it did not answer in {TIMEOUT_S} s; {again}"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"its process ended with {done.returncode}"]
    return f"{lines[-1].strip()}; {again}"


def main(logger: str, run_folder: Path, runs_file: Path) -> int:
    """Attach the run of that folder to one logger. The last line on stderr says what went wrong."""
    known = read_json(runs_file)["runs"][logger]
    rows = table_rows(read_json(run_folder / "summary.json"))
    results = Results(run_folder.name, rows, run_folder / "report.html", {**known, "training": str(runs_file.parent)})
    try:
        _ATTACH[logger](results)
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        print(f"{type(error).__name__}: {first}", file=sys.stderr)
        return _FAILED
    return 0


def _wandb(results: Results) -> None:
    import wandb

    with wandb.init(
        id=results.known["id"],
        project=results.known["project"],
        entity=results.known["entity"] or None,
        resume="allow",
        settings=wandb.Settings(console="off"),
    ) as logged:
        found: dict[str, object] = {"report": wandb.Html(results.report.read_text(), inject=False)}
        if results.rows:
            found["results"] = wandb.Table(columns=[*results.columns], data=[list(row.values()) for row in results.rows])
        # Offline nobody says how many rows the run has, and `wandb sync` wants their numbers to rise from file to file.
        logged.log(found, step=None if logged.resumed else num_rows(Path(results.known["training"]) / "metrics.jsonl"))


def _mlflow(results: Results) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    if results.rows:
        columns = {name: [row[name] for row in results.rows] for name in results.columns}
        client.log_table(results.known["id"], columns, f"{results.run}/results.json")
    client.log_artifact(results.known["id"], str(results.report), results.run)


def _trackio(results: Results) -> None:
    import trackio

    trackio.init(
        project=results.known["project"], name=results.known["name"], resume="must", auto_log_gpu=False, auto_log_cpu=False
    )
    if results.rows:
        trackio.log({"results": trackio.Table(columns=[*results.columns], data=[list(row.values()) for row in results.rows])})
    report = trackio.Artifact(results.run, type="report")
    report.add_file(str(results.report))
    trackio.log_artifact(report)
    trackio.finish()


def _tensorboard(results: Results) -> None:
    """TensorBoard reads folders: the run's own has the training's curves, by a link, and the results beside them.

    The training's folder belongs to its artifact, which stays as it was published. TensorBoard shows no files: the text names the report.
    """
    from torch.utils.tensorboard import SummaryWriter

    folder = results.report.parent / "tensorboard"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    curves = Path(results.known["training"]) / results.known["folder"]
    (folder / "training").symlink_to(os.path.relpath(curves, folder))
    with SummaryWriter(str(folder / "results")) as writer:
        if results.rows:
            writer.add_text("results", _markdown(results))
        writer.add_text("report", f"`{results.report}`")


def _markdown(results: Results) -> str:
    lines = [results.columns, ["---"] * len(results.columns), *([*row.values()] for row in results.rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


_ATTACH: Mapping[str, Callable[[Results], None]] = {
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
    "tensorboard": _tensorboard,
}


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
