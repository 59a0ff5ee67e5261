"""Judge: the models' answers to one benchmark, judged in one form by one judge. All benchmarks of a judge share this process."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnf.plugins import load
from evaluation.benchmarks import BENCHMARKS
from evaluation.judging import open_judge as _open
from evaluation.judging.answers import Answers, completions_by_question, read_answers
from evaluation.judging.deviations import deviations
from evaluation.judging.run import Baseline, judge
from evaluation.records import read_records
from evaluation.types import Item
from tasks.job import Job
from tasks.stages._judgments import calls_file

CONTENT = ("games.jsonl", "summary.json")
MEMORY_REMEDY = "lower judge.max_judgment_tokens, or take a smaller judge"


def environment(settings: Mapping[str, Any]) -> dict[str, str]:
    return _open.environment(settings["engine"]["name"])


def run(job: Job) -> None:
    s = job.settings
    benchmark = load(BENCHMARKS, s["benchmark"])
    generated = {role.removeprefix("answers_"): path for role, path in job.inputs.items() if role.startswith("answers_")}
    answers = {
        model: Answers(model, completions_by_question(list(read_records(path / "completions.jsonl"))))
        for model, path in generated.items()
    }
    baseline = _baseline(job, answers)
    form = importlib.import_module(f"evaluation.judging.protocols.{s['form']}")
    judge(
        _open.open_judge(s, job.inputs.get("judge"), job.fingerprints.get("judge")),
        s["form"],
        judge_name=s["judge_name"],
        questions=_questions(job, next(iter(generated.values()))),
        models={model: answers[model] for model in s["models"]},
        baseline=baseline if form.COMPARES else None,
        output_dir=job.output,
        calls_file=calls_file(job),
        progress=job.progress,
        orders=s["orders"],
        demonstration=s["demonstration"],
        fresh=job.refresh,
        about={
            "source": s["source"],
            "n_benchmark": benchmark.NUM_ITEMS,
            "deviations": deviations(benchmark, s, baseline.name if form.COMPARES else None),
        },
    )


def identity(output: Path) -> dict[str, Any]:
    """Games whose requests failed, as with an endpoint that was away: another run that comes by asks them again."""
    return {"open": sum(game["finish_reason"] == "failed" for game in read_records(output / "games.jsonl"))}


def _baseline(job: Job, answers: Mapping[str, Answers]) -> Baseline:
    if "baseline" in job.inputs:
        recorded = read_answers(job.inputs["baseline"])
        return Baseline(recorded.model, recorded.turns)
    return Baseline("base", answers["base"].turns)


def _questions(job: Job, generations: Path) -> list[Item]:
    """The questions that were answered; with the reference answers of a file of their own."""
    questions = list(read_records(generations / "items.jsonl"))
    if "references" not in job.inputs:
        return questions
    references = load(BENCHMARKS, job.settings["benchmark"]).read_references(str(job.inputs["references"]))
    return [{**item, "references": references[item["id"]]} if item["id"] in references else item for item in questions]
