"""The runs that a training has in wandb, mlflow, trackio and TensorBoard: named after it, and gone on with where it was killed.

transformers' callbacks do the logging. This module says to them which run is the training's, and keeps from them what an earlier try has
logged already. `logger_runs.json` holds what finds these runs again. Nothing of the policy depends on it.
"""

import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import MLflowCallback, TensorBoardCallback, TrackioCallback, WandbCallback

from bnf.files import read_note, write_json
from bnf.parallel.group import is_first
from bnf.training.loggers import DEFAULT_PROJECT, RUN_VARIABLE, RUNS_FILE, num_rows
from bnf.training.row_trainer import RowTrainer

# What is logged of a step: of its training, and of the evaluation after it.
_KINDS = ("loss", "eval_loss")

_logger = logging.getLogger(__name__)


@dataclass
class LoggerRuns:
    """The name of a training's runs, and by logger what finds each again."""

    name: str
    runs: dict[str, dict[str, str]] = field(default_factory=dict)


class _Noted:
    """`logger_runs.json` of a training, which is there from the first step on."""

    def __init__(self, output_dir: Path) -> None:
        self.file = output_dir / RUNS_FILE
        found = read_note(self.file)
        if found is not None:
            self.runs = LoggerRuns(**found)
        else:
            # trackio knows a run by its name alone, and a pipeline's run may train several times.
            name = os.environ.get(RUN_VARIABLE) or output_dir.resolve().name
            self.runs = LoggerRuns(f"{name}-{secrets.token_hex(2)}")

    def of(self, logger: str) -> Mapping[str, str]:
        """What is known of a logger's run; nothing where there is none yet."""
        return self.runs.runs.get(logger, {})

    def note(self, logger: str, **found: str) -> None:
        if self.of(logger) != found:
            self.runs.runs[logger] = found
            write_json(self.file, asdict(self.runs), indent=1, durable=True)


def follow(trainer: RowTrainer, output_dir: Path, resumed_from: int) -> None:
    """Has the loggers of `report_to` log to this training's own runs. To be called once, before the training begins.

    Args:
        resumed_from: the step of the checkpoint that the training goes on from.
    """
    config = trainer.config
    for logger, callback in _CALLBACKS.items():
        if logger in config.loggers:
            trainer.remove_callback(callback.__bases__[1])  # transformers' own
    if not config.loggers or not is_first():
        return
    noted = _Noted(output_dir)
    trainer.args.run_name = noted.runs.name
    if "tensorboard" in config.loggers:
        trainer.add_callback(_tensorboard(output_dir / "tensorboard", resumed_from))
        noted.note("tensorboard", folder="tensorboard")
    for logger, callback in _CALLBACKS.items():
        if logger in config.loggers:
            trainer.add_callback(callback(noted, trainer))


def _logged(metrics_file: Path) -> dict[str, int]:
    """The last step of each kind that an earlier try has logged. A line that a kill has cut short doesn't count."""
    last: dict[str, int] = {}
    for line in metrics_file.read_text().splitlines() if metrics_file.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        last |= {kind: entry["step"] for kind in _KINDS if kind in entry}
    return last


def _tensorboard(folder: Path, resumed_from: int) -> TrainerCallback:
    """A logger that goes on in `folder` after a kill, and hides the steps that are computed again."""
    from torch.utils.tensorboard import SummaryWriter

    return TensorBoardCallback(SummaryWriter(str(folder), purge_step=resumed_from + 1 if resumed_from else None))


class _Once(TrainerCallback):
    """What the callbacks of this module add to transformers' own, which comes after it in their bases."""

    logger: str
    remedy: str
    _initialized: bool

    def __init__(self, noted: _Noted, trainer: RowTrainer) -> None:
        super().__init__()
        self.noted, self.config, self.metrics_file = noted, trainer.config, trainer.metrics_file
        self.logged = _logged(trainer.metrics_file)
        self.has_failed = False

    def setup(
        self, args: TrainingArguments, state: TrainerState, model: PreTrainedModel | None = None, **kwargs: object
    ) -> None:
        """Begins the run, or goes on in it.

        Raises:
            ValueError: the logger can't.
        """
        try:
            self.begin(args)
            super().setup(args, state, model, **kwargs)  # type: ignore[misc]
        except Exception as error:
            raise ValueError(
                f"report_to={self.logger} must be able to begin a run, got {type(error).__name__}: {error}; {self.remedy}"
            ) from error
        self.begun()

    def begin(self, args: TrainingArguments) -> None:
        """Before transformers' own callback begins a run."""

    def begun(self) -> None:
        """When there is a run: notes what finds it again."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Logs what was before the checkpoint, too, as far as it was on its way to the logger when the training was killed."""
        super().on_train_begin(args, state, control, **kwargs)
        for entry in state.log_history if state.global_step else ():
            then, logs = copy(state), dict(entry)
            then.global_step = int(logs.pop("step"))
            self.on_log(args, then, control, logs=logs, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        if not self._initialized:
            self.setup(args, state, kwargs.get("model"))  # type: ignore[arg-type]
        for kind in _KINDS:
            if logs and kind in logs and state.global_step <= self.logged.get(kind, -1):
                return
        with self._is_no_reason_to_stop():
            super().on_log(args, state, control, logs=logs, **kwargs)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        with self._is_no_reason_to_stop():
            super().on_train_end(args, state, control, **kwargs)
            self.end()

    def end(self) -> None:
        """After transformers' own callback has ended the run, or left it to us."""

    @contextmanager
    def _is_no_reason_to_stop(self) -> Iterator[None]:
        """Lets a training go on, and write its policy, where its logger fails on the way: its server may be gone."""
        try:
            yield
        except Exception as error:
            if not self.has_failed:
                _logger.warning(
                    f"report_to={self.logger} lacks what is logged from here on, got {type(error).__name__}: {error}; the training goes "
                    f"on, and {self.metrics_file} has all of it"
                )
            self.has_failed = True


# transformers' own take `model` and `logs` as keywords, as the trainer gives them.
class _Wandb(_Once, WandbCallback):  # type: ignore[misc]
    logger = "wandb"
    remedy = "`wandb login`, or set WANDB_MODE=offline"

    def begin(self, args: TrainingArguments) -> None:
        known = self.noted.of("wandb")
        self._wandb.init(
            id=known.get("id") or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4),
            project=known.get("project") or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
            entity=known.get("entity") or None,
            name=self.noted.runs.name,
            resume="allow",
            config={"train": self.config.to_dict()},
        )

    def begun(self) -> None:
        run = self._wandb.run
        if self.logged and not run.resumed:
            # Offline nobody says how many rows the run has, and `wandb sync` wants their numbers to rise from file to file.
            self._wandb.log({}, step=num_rows(self.metrics_file))
        self.noted.note("wandb", id=run.id, project=run.project, entity=run.entity or "")

    def end(self) -> None:
        # The process may have more to do, and its end waits for nobody.
        self._wandb.finish()


class _MLflow(_Once, MLflowCallback):  # type: ignore[misc]
    logger = "mlflow"
    remedy = "look at MLFLOW_TRACKING_URI; sqlite:///mlflow.db needs no server"

    def begin(self, args: TrainingArguments) -> None:
        known = self.noted.of("mlflow")
        if known:
            self._ml_flow.start_run(run_id=known["id"])
            self.logged = self._last_steps(known["id"])

    def _last_steps(self, run_id: str) -> dict[str, int]:
        """As the run has them: what was on its way when the training was killed is not there."""
        client = self._ml_flow.MlflowClient()
        found = {kind: [metric.step for metric in client.get_metric_history(run_id, kind)] for kind in _KINDS}
        return {kind: max(steps) for kind, steps in found.items() if steps}

    def begun(self) -> None:
        run_id = self._ml_flow.active_run().info.run_id
        if not self.noted.of("mlflow"):
            self._ml_flow.log_params({f"train.{name}": value for name, value in self.config.to_dict().items()})
        self.noted.note("mlflow", id=run_id)

    def end(self) -> None:
        # transformers ends only what it has begun.
        if self._ml_flow.active_run() is not None:
            self._ml_flow.end_run()


class _Trackio(_Once, TrackioCallback):  # type: ignore[misc]
    logger = "trackio"
    remedy = "look at TRACKIO_DIR, TRACKIO_SPACE_ID and TRACKIO_SERVER_URL; without the latter two it logs to this machine"

    def begin(self, args: TrainingArguments) -> None:
        known = self.noted.of("trackio")
        args.project = known.get("project") or os.environ.get("TRACKIO_PROJECT") or DEFAULT_PROJECT

    def begun(self) -> None:
        self._trackio.config.update({"train": self.config.to_dict()})
        run = self._trackio.context_vars.current_run.get()
        if self.noted.of("trackio") and self._trackio.context_vars.current_server.get() is None:
            self.logged = self._last_steps(run.project, run.name)
        self.noted.note("trackio", name=run.name, project=run.project)

    def _last_steps(self, project: str, name: str) -> dict[str, int]:
        """As the run on this machine has them: what was on its way when the training was killed is not there."""
        last: dict[str, int] = {}
        for entry in self._trackio.SQLiteStorage.get_logs(project, name):
            for kind, logged_as in zip(_KINDS, ("train/loss", "eval/loss"), strict=True):
                if logged_as in entry:
                    last[kind] = max(last.get(kind, -1), entry["train/global_step"])
        return last


_CALLBACKS: dict[str, type[_Once]] = {callback.logger: callback for callback in (_Wandb, _MLflow, _Trackio)}
