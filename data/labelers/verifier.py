"""Verifier: a completion's reward is 1 where the benchmark's own scorer calls it correct, and 0 where it does not."""

from __future__ import annotations

from pathlib import Path

from bnf.plugins import load
from evaluation.answers.thoughts import answer_of
from evaluation.benchmarks import BENCHMARKS
from evaluation.records import read_repaired, write_whole
from evaluation.scoring.score import UNFINISHED_THOUGHT
from evaluation.types import Progress, Verdict

_NO_ANSWER = Verdict("no_answer", None, UNFINISHED_THOUGHT)


def label(samples_file: Path, output_file: Path, *, benchmark: str, progress: Progress, **rest: object) -> None:
    """Writes the samples with a `reward` and the scorer's `outcome` for each completion.

    A thought is not scored; a completion that ends in mid-thought has no answer. A completion on which the scorer
    fails has the outcome "error"; prepare leaves it out.
    """
    score = load(BENCHMARKS, benchmark).score
    records = read_repaired(samples_file)
    for number, record in enumerate(records):
        for completion in record["completions"]:
            said = answer_of(completion, "text")
            verdict = _NO_ANSWER if said is None else score(record["item"], said, completion["finish_reason"])
            completion["reward"] = 1.0 if verdict.outcome == "correct" else 0.0
            completion["outcome"] = verdict.outcome
        if number % 256 == 0:
            progress(number, len(records), "")
    write_whole(output_file, records)
    progress(len(records), len(records), "")
