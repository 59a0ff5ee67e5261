"""Score: a verdict for every completion, without a model."""

from __future__ import annotations

from tasks.job import Job

ORDER = 110
READS = {"completions": "generate"}
CONTENT = ("scores.jsonl", "summary.json")
EVALUATES = True
REPORT = "scores"


def run(job: Job) -> None:
    from evaluation.scoring.score import score_folder

    s = job.settings
    score_folder(
        s["benchmark"],
        job.inputs["completions"],
        job.output,
        source=s["source"],
        limit=s["limit"],
        sampling=s.get("sampling"),
        progress=job.progress,
    )
