"""Where a run's policy lies, and the line that serves it: what the report says of it."""

from __future__ import annotations

import shlex

from evaluation.records import Record


def serve_line(folder: str) -> str:
    """The command that serves a model's folder behind an endpoint of OpenAI's form."""
    return f"vllm serve {shlex.quote(folder)}"


def policy_line(summary: Record) -> str | None:
    """The policy's folder and the line that serves it; None where nothing was trained. Equal inputs give equal reports wherever the home
    lies, so the folder is the one beside the report in the run's folder."""
    trained = [stage for stage in summary["stages"] if stage["stage"] == "train"]
    if not trained:
        return None
    folder = f"artifacts/{'-'.join(filter(None, ('train', trained[-1]['model'])))}/policy"
    return f"{folder} in the run's folder; from there: {serve_line(folder)}"
