"""Stored completions scored by lm-evaluation-harness's own tasks: a cross-check beside our score, never the record.

lm-eval's evaluator asks a language model that answers with the stored completions, and applies its own filters and metrics. The tasks'
data sets are made from the items at hand, so nothing is fetched. Our prompts are not lm-eval's, and the `until` strings that would
have ended a generation there cut nothing here: the comparison is of how the same text is read. It runs in a killable child process,
since some of its metrics are computer algebra. https://github.com/EleutherAI/lm-evaluation-harness
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from bnf.plugins import load
from evaluation.answers.thoughts import answer_of
from evaluation.benchmarks import BENCHMARKS
from evaluation.item_files import GENERATE_AGAIN, SCORE_AGAIN, item_lines, score_lines
from evaluation.progress import cross_checking
from evaluation.records import Record, write_json, write_whole
from evaluation.sandbox import BoundedCalls
from evaluation.statistics import percent, standard_error
from evaluation.types import Item, Progress

CROSS_CHECK_FILE = "cross_check.json"
DISAGREEMENTS_FILE = "disagreements.jsonl"
CHUNK = 128
# Of a chunk: its fixed part, and per item. MATH's metrics take 0.15 s an item.
LIMIT_S, LIMIT_PER_ITEM_S = 20.0, 0.25
_INDEX = "bnf_index"  # the field of lm-eval's documents that says which item they are


def cross_check(
    benchmark: str, items: Sequence[Item], records: Sequence[Record], progress: Progress | None = None
) -> tuple[Record, list[Record]]:
    """lm-eval's scores of completions, and every item on which they differ from the project's verdict.

    Args:
        items: The benchmark's items.
        records: Their records as `evaluation.scoring.score.score_records` gives them, with the raw text.

    Returns:
        `{"columns": [{task, filter, metric, value, stderr, n, agreement, n_killed}], "main": …}` in percent over the completions
        there are, `stderr` as lm-eval gives it, and the disagreements, each with both answers. What was killed counts as wrong.

    Raises:
        ValueError: where lm-eval has no task for the benchmark.
        RuntimeError: where lm-eval can't begin.
    """
    checked = load(BENCHMARKS, benchmark)
    tasks = list(checked.LM_EVAL_TASKS)
    if not tasks:
        raise ValueError(
            f"benchmark must be one that lm-eval can read without executing answers, got {benchmark}; leave the cross-check out"
        )
    by_id = {item["id"]: item for item in items}
    documents = [checked.lm_eval_document(by_id[record["id"]]) for record in records]
    # As they were scored: without their thoughts, where these were taken off.
    completions = [(answer_of(record) or "") if "answer_start" in record else record["completion"] for record in records]
    columns: list[Record] = []
    disagreements: list[Record] = []
    # One process for all tasks: importing lm-eval takes longer than scoring.
    with BoundedCalls(
        "evaluation.harness.replay:make_replay", {"tasks": tasks, "documents": documents}, limit_s=LIMIT_S
    ) as calls:
        for number, task in enumerate(tasks):
            step = _part_of(progress, number, len(tasks), len(records), task)
            rows = _replay(calls, task, completions, step)
            columns += _columns(task.rpartition("/")[2], rows, records, disagreements)
    main = next(column for column in columns if (column["task"], column["filter"], column["metric"]) == checked.LM_EVAL_MAIN)
    return {"benchmark": benchmark, "n": len(records), "main": main, "columns": columns}, disagreements


def cross_check_folder(benchmark: str, generation: Path, scores: Path, output_dir: Path, progress: Progress | None) -> None:
    """Cross-checks a score stage's records of a generation; writes cross_check.json and disagreements.jsonl."""
    items = [item for _, item in item_lines(generation / "items.jsonl", GENERATE_AGAIN)]
    records = [record for _, record in score_lines(scores / "scores.jsonl", SCORE_AGAIN)]
    found, disagreements = cross_check(benchmark, items, records, progress)
    write_json(output_dir / CROSS_CHECK_FILE, found, indent=2)
    write_whole(output_dir / DISAGREEMENTS_FILE, disagreements)


def _columns(
    task: str, rows: Sequence[list[Record] | None], records: Sequence[Record], disagreements: list[Record]
) -> list[Record]:
    """One column per filter and metric of the task; adds to `disagreements` on the way."""
    names = dict.fromkeys((row["filter"], metric) for found in rows if found for row in found for metric in row["metrics"])
    columns = []
    for filter_name, metric in names:
        values = []
        agreed = 0
        for found, record in zip(rows, records, strict=True):
            row = next((row for row in found or () if row["filter"] == filter_name), None)
            value = float(row["metrics"][metric]) if row is not None else 0.0
            values.append(value)
            if (value == 1.0) == (record["outcome"] == "correct"):
                agreed += 1
                continue
            disagreements.append(
                {
                    "id": record["id"],
                    **({"sample": record["sample"]} if "sample" in record else {}),
                    "task": task,
                    "filter": filter_name,
                    "metric": metric,
                    "outcome": record["outcome"],
                    "answer": record["answer"],
                    "lm_eval": value,
                    "lm_eval_answer": None if row is None else row["answer"],
                }
            )
        # An item's samples share its difficulty.
        stderr = standard_error(values, [record["id"] for record in records])
        columns.append(
            {
                "task": task,
                "filter": filter_name,
                "metric": metric,
                "value": percent(sum(values), len(values)),
                "stderr": stderr if stderr == stderr else None,
                "n": len(values),
                "agreement": percent(agreed, len(values)),
                "n_killed": sum(found is None for found in rows),
            }
        )
    return columns


def _replay(
    calls: BoundedCalls, task: str, completions: Sequence[str], step: Callable[[int], None]
) -> list[list[Record] | None]:
    """For each document what every filter of the task makes of its completion; None where that was killed."""
    rows: list[list[Record] | None] = [None] * len(completions)
    waiting = [list(range(start, min(start + CHUNK, len(completions)))) for start in range(0, len(completions), CHUNK)][::-1]
    done = 0
    while waiting:
        chunk = waiting.pop()
        pairs = [[index, completions[index]] for index in chunk]
        found = cast("list[Record] | None", calls([task, pairs], limit_s=LIMIT_S + LIMIT_PER_ITEM_S * len(chunk)))
        if found is None and len(chunk) > 1:
            # One text brought the whole chunk down: it is found by halving.
            waiting += [chunk[len(chunk) // 2 :], chunk[: len(chunk) // 2]]
            continue
        for row in found or ():
            rows[row["index"]] = [*(rows[row["index"]] or []), row]
        done += len(chunk)
        step(done)
    return rows


def make_replay(tasks: list[str], documents: list[Record]) -> Callable[[tuple[str, list[tuple[int, str]]]], list[Record]]:
    """In the child: a function of a task and [index, completion] pairs, which gives a row per index and filter of the task."""
    import logging

    import datasets
    import lm_eval
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_list([{**document, _INDEX: index} for index, document in enumerate(documents)])

    def dataset(**_: object) -> dict[str, object]:
        return {"train": rows, "test": rows, "validation": rows}

    # The folders of these task definitions alone: reading all of them takes 13 s.
    definitions = Path(lm_eval.__file__).parent / "tasks"
    folders = sorted({str(definitions / task.rpartition("/")[0]) for task in tasks})
    manager = TaskManager(include_defaults=False, include_path=folders)
    overrides = [{"task": task.rpartition("/")[2], "custom_dataset": dataset, "num_fewshot": 0} for task in tasks]
    loaded = manager.load({"group": "replay", "task": overrides})["tasks"]

    class Replay(LM):
        """Answers each request with the completion stored for its document."""

        completions: Mapping[int, str]

        def generate_until(self, requests: list[Instance]) -> list[str]:
            return [self.completions[request.doc[_INDEX]] for request in requests]

        def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
            raise NotImplementedError("stored completions have no likelihoods")

        def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
            raise NotImplementedError("stored completions have no likelihoods")

    model = Replay()

    def replay(argument: tuple[str, list[tuple[int, str]]]) -> list[Record]:
        task, pairs = argument
        name = task.rpartition("/")[2]
        model.completions = dict(pairs)
        indices = sorted(model.completions)
        results = evaluate(model, {"tasks": {name: loaded[name]}}, samples={name: indices}, bootstrap_iters=0)
        assert results is not None
        return [
            {
                "index": sample["doc"][_INDEX],
                "filter": sample["filter"],
                "metrics": {metric: float(sample[metric]) for metric in sample["metrics"]},
                "answer": str(sample["filtered_resps"][0])[-200:],
            }
            for sample in results["samples"][name]
        ]

    return replay


def _part_of(progress: Progress | None, number: int, of: int, size: int, task: str) -> Callable[[int], None]:
    def step(done: int) -> None:
        if progress is not None:
            progress(number * size + done, of * size, cross_checking(task))

    return step
