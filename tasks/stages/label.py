"""Label: a reward for every sample, and what the rewards say of the policy."""

from __future__ import annotations

import importlib

from tasks.job import Job
from tasks.stages._judgments import calls_file

ORDER = 30
READS = {"samples": "sample", "judge": "model", "file": "file"}
CONTENT = ("labelled.jsonl",)


def run(job: Job) -> None:
    from data.sampling.rewards import add_gold, reward_statistics
    from evaluation.records import read_repaired, write_whole

    labeler = importlib.import_module(f"data.labelers.{job.settings['labeler']}")
    labelled = job.output / "labelled.jsonl"
    files = (job.inputs["samples"] / "samples.jsonl", labelled)
    benchmark = job.settings["benchmark"]
    if hasattr(labeler, "open_judge"):
        judge = labeler.open_judge(job.settings, job.inputs.get("judge"), job.fingerprints.get("judge"))
        labeler.label(*files, judge=judge, calls_file=calls_file(job), fresh=job.refresh, progress=job.progress)
    else:
        given = {"path": job.inputs["file"]} if "file" in job.inputs else {}
        labeler.label(*files, benchmark=benchmark, progress=job.progress, **given)
    records = read_repaired(labelled)
    # A verifier's reward is the benchmark's verdict itself.
    if benchmark is not None and job.settings["labeler"] != "verifier":
        add_gold(records, benchmark)
        write_whole(labelled, records)
    write_whole(job.output / "rewards.json", [reward_statistics(records)])
