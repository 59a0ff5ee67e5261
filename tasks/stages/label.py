"""Label: a reward for every sample, and what the rewards say of the policy."""

from __future__ import annotations

from bnf.plugins import load
from evaluation.records import read_repaired, write_whole
from tasks.job import Job
from tasks.stages._judgments import calls_file

ORDER = 30
READS = {"samples": "sample", "judge": "model", "file": "file"}
CONTENT = ("labelled.jsonl",)
RAY = True


def run(job: Job) -> None:
    from data.labelers import LABELERS
    from data.sampling.rewards import add_gold, reward_statistics

    labeler = load(LABELERS, job.settings["labeler"])
    labelled = job.output / "labelled.jsonl"
    benchmark, judge, calls = job.settings["benchmark"], None, None
    if labeler.ASKS_JUDGE:
        judge = labeler.open_judge(job.settings, job.inputs.get("judge"), job.fingerprints.get("judge"))
        calls = calls_file(job)
    labeler.label(
        job.inputs["samples"] / "samples.jsonl",
        labelled,
        benchmark=benchmark,
        path=job.inputs.get("file"),
        judge=judge,
        calls_file=calls,
        fresh=job.refresh,
        progress=job.progress,
    )
    records = read_repaired(labelled)
    # A verifier's reward is the benchmark's verdict itself.
    if benchmark is not None and job.settings["labeler"] != "verifier":
        add_gold(records, benchmark)
        write_whole(labelled, records)
    write_whole(job.output / "rewards.json", [reward_statistics(records).to_json()])
