"""Judge: the models' answers to one benchmark, by one judge under one protocol. All benchmarks of a judge share this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bnf.plugins import load
from evaluation.benchmarks import BENCHMARKS
from evaluation.item_files import GENERATE_AGAIN, completion_lines, games, item_lines
from evaluation.judging.answers import Answers, completed, completions_by_question, read_answers
from evaluation.judging.deviations import deviations
from evaluation.judging.open_judge import open_judge
from evaluation.judging.protocols import PROTOCOLS
from evaluation.judging.run import judge
from evaluation.types import Item
from tasks.job import Identity, Job
from tasks.stages._judgments import calls_file
from tasks.stages._too_long import too_long

ORDER = 130
READS = {"answers_*": "generate", "judge": "model", "baseline": "file", "references": "file"}
CONTENT = ("games.jsonl", "summary.json")
EVALUATES = True
REPORT = "judges"
RAY = True
MEMORY_REMEDY = (
    "lower judge.max_judgment_tokens or judge.max_model_len, take a smaller judge, or with vLLM spread it over GPUs "
    "(judge.tensor_parallel_size)"
)


def run(job: Job) -> None:
    s = dict(job.settings)
    benchmark = load(BENCHMARKS, s["benchmark"])
    generated = {role.removeprefix("answers_"): path for role, path in job.inputs.items() if role.startswith("answers_")}
    completions = {
        model: [one for _, one in completion_lines(path / "completions.jsonl", GENERATE_AGAIN)]
        for model, path in generated.items()
    }
    ended = {model: completed(records) for model, records in completions.items()}
    answers = {
        model: Answers(model, completions_by_question(records), is_said=True, num_cut=ended[model].num_cut)
        for model, records in completions.items()
    }
    baseline = _baseline(job, answers)
    compares = load(PROTOCOLS, s["form"]).COMPARES
    judge(
        open_judge(s, job.inputs.get("judge"), job.fingerprints.get("judge")),
        s["form"],
        judge_name=s["judge_name"],
        questions=_questions(job, next(iter(generated.values()))),
        models={model: answers[model] for model in s["models"]},
        baseline=baseline if compares else None,
        output_dir=job.output,
        calls_file=calls_file(job),
        progress=job.progress,
        orders=s["orders"],
        demonstration=s["demonstration"],
        fresh=job.refresh,
        about={
            "source": s["source"],
            "n_benchmark": benchmark.NUM_ITEMS,
            "deviations": deviations(
                benchmark, s, baseline.model if compares else None, thinks=any(one.thinks for one in ended.values())
            ),
        },
    )


def identity(output: Path) -> Identity:
    """How many judgments got no reply at all, as from an endpoint that was away: the next run that may judge asks for them again."""
    return Identity(open=sum(game.get("finish_reason") == "failed" for game in games(output / "games.jsonl")))


def outcome(output: Path) -> str | None:
    """How many prompts were too long for the judge: their judgments have no verdict."""
    return too_long(output / "games.jsonl", "prompts of the judge", "judge.max_model_len")


def _baseline(job: Job, answers: Mapping[str, Answers]) -> Answers:
    return read_answers(job.inputs["baseline"]) if "baseline" in job.inputs else answers["base"]


def _questions(job: Job, generations: Path) -> list[Item]:
    """The questions that were answered; with the reference answers of a file of their own."""
    questions = [item for _, item in item_lines(generations / "items.jsonl", GENERATE_AGAIN)]
    if "references" not in job.inputs:
        return questions
    references = load(BENCHMARKS, job.settings["benchmark"]).read_references(str(job.inputs["references"]))
    return [{**item, "references": references[item["id"]]} if item["id"] in references else item for item in questions]
