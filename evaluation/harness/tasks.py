"""Runs lm-evaluation-harness's own tasks, by name, on the project's engines.

Their scores have a section of their own, on lm-eval's scale and with its standard errors. A user's own tasks come from a folder of YAML
files. These may name Python functions beside them, which are the user's code and are run. Tasks that execute what a model wrote are
refused. https://github.com/EleutherAI/lm-evaluation-harness
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.answers.thoughts import MARKERS
from evaluation.engines import Engine
from evaluation.harness.definitions import definition_folders, names_in
from evaluation.records import Record, write_json, write_whole
from evaluation.types import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from evaluation.harness.model import EngineModel

RESULTS_FILE = "results.json"
SAMPLES_FILE = "samples.jsonl"
# Completions with a thought as the model wrote them: a task reads what follows the thought.
THOUGHTS_FILE = "thoughts.jsonl"
# Resamples of a standard error that has no formula; lm-eval's program takes 100,000, which costs more time than it tells.
BOOTSTRAP_ITERS = 1000


def unknown_task(name: str, include_path: Path | None = None) -> str | None:
    """What is wrong with a task's name, as a message; None where a task, group or tag has that name."""
    folders = definition_folders(include_path)
    names = [names_in(folder) for folder in folders]
    if any(name in found for found in names):
        return None
    # Tags stand in files that others include. lm-eval's own index knows them, and takes 20 s to build: a name that no definition
    # holds anywhere is not looked up there.
    if any(name in path.read_text(encoding="utf-8", errors="replace") for folder in folders for path in folder.rglob("*yaml*")):
        from lm_eval.tasks import TaskManager

        if name in TaskManager(include_path=include_path).all_tasks:
            return None
    nearest = difflib.get_close_matches(name, [known for found in names for known in found], n=3)
    hint = f"did you mean {', '.join(nearest)}?" if nearest else "`lm_eval ls tasks` lists them"
    place = f" or {include_path}" if include_path else "; one of your own needs evaluation.lm_eval_include_path"
    return f"evaluation.lm_eval must name tasks of lm-eval{place}, got {name!r}; {hint}"


def run_task(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase | None,
    name: str,
    output_dir: Path,
    progress: Progress,
    *,
    num_fewshot: int | None = None,
    limit: int | None = None,
    chat: bool = False,
    include_path: Path | None = None,
    system_prompt: str | None = None,
    markers: Sequence[str] = MARKERS,
    commits: Mapping[tuple[str, str | None], str] | None = None,
) -> Record:
    """Runs a task, or each task of a group or tag; writes results.json and samples.jsonl and returns the former.

    The engine's replies are kept in `output_dir` until these are written: a call after a kill asks for the others alone.

    Args:
        num_fewshot: Examples before each question; None takes the task's own number.
        limit: The first so many documents of each task.
        chat: Whether prompts go through the model's chat template; lm-eval's published figures mostly don't.
        include_path: A folder of task definitions, which come before lm-eval's own.
        system_prompt: The system message of chat prompts that have none: a task's own description is one.
        markers: The texts that begin and end a thought, which is taken off before an answer is read.
        commits: At which commit a data set of the hub is read, by its id and the revision that a task asks for.

    Raises:
        ValueError: where there is no such task, it executes code or decodes in a way that no engine here does, or the engine can't say
            likelihoods that it needs.
    """
    from evaluation.harness.model import EngineModel
    from evaluation.harness.replies import REPLIES_FILE
    from evaluation.harness.seeds import own_random_numbers

    if problem := unknown_task(name, include_path):
        raise ValueError(problem)
    replies = output_dir / REPLIES_FILE
    model = EngineModel(engine, tokenizer, progress, system_prompt, markers, replies)
    with own_random_numbers():
        found = _evaluated(model, name, num_fewshot, limit, chat, include_path, commits or {})
    results = {
        "task": name,
        "limit": limit,
        "results": {task: _metrics(values) for task, values in found["results"].items()},
        "higher_is_better": found.get("higher_is_better", {}),
        "n_samples": found.get("n-samples", {}),
        "num_fewshot": found.get("n-shot", {}),
        "versions": found.get("versions", {}),
        "chat": chat,
        "room": dataclasses.asdict(model.room),
    }
    if model.thoughts:
        unfinished = sum(not one["is_finished"] for one in model.thoughts)
        results["thoughts"] = {"num": len(model.thoughts), "num_unfinished": unfinished}
        if any("is_thought_cut" in one for one in model.thoughts):
            results["thoughts"]["num_cut"] = sum(one["is_thought_cut"] for one in model.thoughts)
    if model.thoughts:
        write_whole(output_dir / THOUGHTS_FILE, model.thoughts)
    write_whole(output_dir / SAMPLES_FILE, (_sample(task, one) for task, rows in found["samples"].items() for one in rows))
    write_json(output_dir / RESULTS_FILE, results, indent=2)
    replies.unlink()
    return results


def _evaluated(
    model: EngineModel,
    name: str,
    num_fewshot: int | None,
    limit: int | None,
    chat: bool,
    include_path: Path | None,
    commits: Mapping[tuple[str, str | None], str],
) -> Record:
    """What lm-eval's `evaluate` gives, called as its program's `simple_evaluate` does, which besides describes machine and repository."""
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    from evaluation.harness.seeds import FEWSHOT_SEED, seed_all
    from evaluation.harness.sets import at_commits

    folders = _definitions(name, include_path)
    manager = TaskManager(include_defaults=folders is None, include_path=include_path if folders is None else folders)
    seed_all()
    with at_commits(commits):
        loaded = manager.load([name])
    for task in loaded["tasks"].values():
        if getattr(task, "UNSAFE_CODE", False):
            raise ValueError(
                f"evaluation.lm_eval must not execute what a model wrote, got {task.task_name}, which does; leave it out"
            )
        if num_fewshot is not None:
            task.set_config(key="num_fewshot", value=num_fewshot)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    # Again: `datasets` may have kept what a definition made of its rows, and then less is drawn while it is loaded.
    seed_all(model.num_answered)
    found = evaluate(
        model, loaded, limit=limit, apply_chat_template=chat, fewshot_as_multiturn=chat, bootstrap_iters=BOOTSTRAP_ITERS
    )
    assert found is not None
    return dict(found)


def _definitions(name: str, include_path: Path | None) -> list[Path] | None:
    """The folder of definitions that a single task needs; None where all have to be read (groups and tags name others)."""
    for folder in definition_folders(include_path):
        path = names_in(folder).get(name)
        if path is not None and "group:" not in path.read_text(encoding="utf-8", errors="replace"):
            return [path.parent]
    return None


def _metrics(values: Record) -> Record:
    """{"acc,none": .5, "acc_stderr,none": .1, …} as {"acc,none": {"value": .5, "stderr": .1}}; what is no number is left out."""
    found: Record = {}
    for key, value in values.items():
        metric, comma, filter_name = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = values.get(f"{metric}_stderr,{filter_name}")
        found[key] = {"value": _finite(value), "stderr": _finite(stderr)}
    return found


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _sample(task: str, sample: Record) -> Record:
    """What of a document is kept: its place and hash, the model's answers, and each metric that is one number."""
    metrics = {name: sample[name] for name in sample["metrics"] if isinstance(sample[name], int | float)}
    return {
        "task": task,
        "doc_id": sample["doc_id"],
        "doc_hash": sample["doc_hash"],
        "filter": sample["filter"],
        "metrics": {name: float(value) for name, value in metrics.items()},
        "target": str(sample["target"]),
        "answers": [str(answer) for answer in sample["filtered_resps"]],
        "texts": [[str(text) for text in texts] for texts in sample["resps"]],
    }
