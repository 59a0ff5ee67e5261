"""Cross-check: lm-eval's own reading of the completions that were scored, without a model."""

from __future__ import annotations

from tasks.job import Job

ORDER = 120
READS = {"completions": "generate", "scores": "score"}
CONTENT = ("cross_check.json", "disagreements.jsonl")
EVALUATES = True
REPORT = "cross_checks"


def run(job: Job) -> None:
    from evaluation.harness.replay import cross_check_folder

    cross_check_folder(job.settings["benchmark"], job.inputs["completions"], job.inputs["scores"], job.output, job.progress)
