"""The loggers of transformers that `report_to` may name, and what each needs on the machine; nothing heavy is imported."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from bnf.nearest import did_you_mean
from bnf.training.values import check

# What finds the runs of a training's loggers again, in its folder (`bnf.training.logger_runs`).
RUNS_FILE = "logger_runs.json"
# The name of the pipeline's run, for the loggers' runs.
RUN_VARIABLE = "BNF_RUN"
# In wandb and trackio, where the environment names no other.
DEFAULT_PROJECT = "bnf"

# Name → (the modules it imports, what pip installs, the variable that must be set). A test compares it with
# transformers.integrations.INTEGRATION_TO_CALLBACK, and with what transformers says of missing loggers.
LOGGERS: dict[str, tuple[tuple[str, ...], str, str | None]] = {
    "azure_ml": (("azureml.core.run",), "azureml-sdk", None),
    "clearml": (("clearml",), "clearml", None),
    "codecarbon": (("codecarbon",), "codecarbon", None),
    "comet_ml": (("comet_ml",), "comet-ml", None),
    "dagshub": (("dagshub", "mlflow"), "dagshub mlflow", "MLFLOW_TRACKING_URI"),
    "dvclive": (("dvclive",), "dvclive", None),
    "flyte": (("flytekit",), "flytekit", None),
    "kubeflow": ((), "", "KUBEFLOW_TRAINER_SERVER_URL"),
    "mlflow": (("mlflow",), "mlflow", None),
    "neptune": (("neptune",), "neptune", None),
    "swanlab": (("swanlab",), "swanlab", None),
    "tensorboard": (("tensorboard",), "tensorboard", None),
    "trackio": (("trackio",), "trackio", None),
    "wandb": (("wandb",), "wandb", None),
}


def check_logger_names(names: Sequence[str]) -> None:
    """Refuses a logger that transformers doesn't have, and `all`, which is those that happen to be installed."""
    check("all" not in names, "report_to", "name the loggers", "all", "use [tensorboard, wandb] or the like")
    for name in names:
        remedy = did_you_mean(name, LOGGERS) or "tensorboard writes beside the metrics"
        check(name in LOGGERS, "report_to", f"be none or among {', '.join(LOGGERS)}", name, remedy)


def lacking(logger: str) -> str | None:
    """What this machine lacks for a logger, as the rest of a message (`must have …, got …; remedy`); None where it lacks nothing."""
    modules, packages, variable = LOGGERS[logger]
    missing = [module for module in modules if not _is_there(module)]
    if missing:
        return f"must have the package {packages}, got an installation without {missing[0]}; pip install {packages}"
    if variable is not None and variable not in os.environ:
        return f"must have the variable {variable}, got an environment without it; set it, or report to another logger"
    return None


def num_rows(metrics_file: Path) -> int:
    """How many rows a training that logs this file has given its loggers, at most: its lines, and a last one that sums up."""
    return len(metrics_file.read_text().splitlines()) + 1


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package inside one that isn't there
        return False
