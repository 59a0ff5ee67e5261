"""Judge: a language model rates each completion from 1 to 10, without a checklist.

The reward is (rating − 1) / 9, so that a completion counts as preferred from a rating of 6 on. `label.judge` names the judge; a
completion without a rating has the outcome "error", and prepare leaves it out.
"""

from __future__ import annotations

from pathlib import Path

from bnf.data.marked import context_of
from data.labelers._unfinished import without_unfinished
from evaluation.judging.client import Judge
from evaluation.judging.open_judge import open_judge as open_judge
from evaluation.judging.run import rate
from evaluation.records import read_repaired, write_whole
from evaluation.types import Progress

ASKS_JUDGE = True

# WildBench's judge protocol: it takes a whole conversation, and needs no checklist.
_PROTOCOL = "checklist_score"


def label(
    samples_file: Path,
    output_file: Path,
    *,
    judge: Judge,
    calls_file: Path,
    fresh: bool = False,
    progress: Progress,
    **rest: object,
) -> None:
    """Writes the samples with a `reward` and an `outcome` for each completion: "rated", "error", or "no_answer" where its thought doesn't
    end; the judge isn't shown thoughts."""
    records = read_repaired(samples_file)
    for record in records:
        if context_of(record) or any(message.keys() - {"role", "content"} for message in record["messages"]):
            raise ValueError(
                f"label.labeler must be one that reads all of the prompts, got judge for {record['id']}, whose tools, calls or reasoning a "
                "judge isn't shown; take other prompts, or label by ratings"
            )
    completions = without_unfinished(records)
    answers = [({"id": record["id"], "conversation": record["messages"]}, said) for record, _, said in completions]
    ratings = rate(judge, _PROTOCOL, answers, calls_file=calls_file, progress=progress, fresh=fresh)
    for (_, completion, _), rating in zip(completions, ratings, strict=True):
        completion["reward"] = 0.0 if rating is None else (rating - 1) / 9
        completion["outcome"] = "error" if rating is None else "rated"
    write_whole(output_file, records)
