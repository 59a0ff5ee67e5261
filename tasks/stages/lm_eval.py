"""lm-eval: one of lm-evaluation-harness's tasks, on the engine that generates the benchmarks' completions."""

from __future__ import annotations

import os
from pathlib import Path

from evaluation.records import read_json
from tasks.job import Job
from tasks.stages._models import markers_of, open_model

ORDER = 100
READS = {"model": "model"}
CONTENT = ("results.json", "samples.jsonl")
EVALUATES = True
REPORT = "lm_eval"
RAY = True
MEMORY_REMEDY = (
    "lower evaluation.max_model_len, take a smaller model, or with vLLM spread it over GPUs (evaluation.tensor_parallel_size)"
)


def run(job: Job) -> None:
    from evaluation.generation.thinking import thinking_engine
    from evaluation.harness.tasks import run_task

    s = job.settings
    # Its progress bars would fill the log.
    os.environ["TQDM_DISABLE"] = "1"
    engine, tokenizer = open_model(s, job.inputs["model"])
    include_path, markers = s["include_path"], markers_of(s, tokenizer)
    run_task(
        thinking_engine(engine, tokenizer, markers, s.get("max_thinking_tokens")),
        tokenizer,
        s["task"],
        job.output,
        job.progress,
        num_fewshot=s["num_fewshot"],
        limit=s["limit"],
        chat=s["chat"],
        include_path=Path(include_path) if include_path else None,
        system_prompt=s.get("system_prompt"),
        markers=markers,
        commits={(one["path"], one["asked"]): one["revision"] for one in s.get("sets", ()) if one["revision"] is not None},
    )


def outcome(output: Path) -> str | None:
    """How many requests didn't fit into the model's context."""
    from evaluation.harness.room import what_did_not_fit

    # Results of older versions have none.
    room = read_json(output / "results.json").get("room")
    return None if room is None else what_did_not_fit(room)
