"""The loggers that `report_to` may name are transformers' own, and what is said to be lacking is what transformers lacks."""

import gc
from types import SimpleNamespace

import pytest
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from bnf.training.config import TrainConfig
from bnf.training.logger_runs import _Once
from bnf.training.loggers import LOGGERS, lacking


def test_every_logger_of_transformers_is_known_and_no_other():
    assert set(LOGGERS) == set(INTEGRATION_TO_CALLBACK)


# Half-made callbacks complain when they are collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", LOGGERS)
def test_what_is_lacking_here_transformers_refuses_too(name):
    wrong = lacking(name)
    if wrong is None:
        pytest.skip(f"{name} is installed here; starting it would report somewhere")
    assert "must have the" in wrong and ", got an " in wrong and "; " in wrong
    if name == "dagshub":
        return  # transformers refuses it when the training begins
    with pytest.raises((RuntimeError, ImportError, ValueError)):
        INTEGRATION_TO_CALLBACK[name]()
    gc.collect()


def test_an_unknown_logger_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"report_to must be none or among azure_ml, .*, got 'wandbb'; did you mean wandb\?"):
        TrainConfig(report_to=["tensorboard", "wandbb"])
    assert TrainConfig(report_to=["none"]).loggers == []


def test_a_variable_may_be_what_is_lacking(monkeypatch):
    monkeypatch.delenv("KUBEFLOW_TRAINER_SERVER_URL", raising=False)
    assert "must have the variable KUBEFLOW_TRAINER_SERVER_URL" in lacking("kubeflow")
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", "http://localhost")
    assert lacking("kubeflow") is None


class Gone(TrainerCallback):
    """A logger of transformers' whose server went away after the run had begun."""

    _initialized = True

    def on_log(self, *args, **kwargs):
        raise OSError("connection refused")

    on_train_end = on_log


class Logger(_Once, Gone):
    logger = "mlflow"


def test_a_logger_that_fails_on_the_way_does_not_end_the_training(tmp_path, caplog):
    trainer = SimpleNamespace(config=TrainConfig(), metrics_file=tmp_path / "metrics.jsonl")
    one, now = Logger(None, trainer), SimpleNamespace(global_step=1)
    for _ in range(2):
        one.on_log(None, now, None, logs={"loss": 1.0})
    one.on_train_end(None, now, None)
    (said,) = caplog.messages
    assert said.startswith(
        "report_to=mlflow lacks what is logged from here on, got OSError: connection refused; the training goes on"
    )
