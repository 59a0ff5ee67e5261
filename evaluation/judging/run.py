"""Judges answers: asks a judge by a protocol, keeps every reply, and aggregates.

The answers of all models are judged together, so that a budget, a lock and an engine serve them all. What a judge replied is in the
record of calls (`calls.py`); games.jsonl is the same by judgment, in the questions' order, made anew every time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from bnf.plugins import load, names
from evaluation.judging.aggregates.judgment import Judgment
from evaluation.judging.answers import Answers
from evaluation.judging.asking import Asking, reward_of
from evaluation.judging.calls import About, Calls, call_key
from evaluation.judging.client import Judge, RewardJudge
from evaluation.judging.pending import Pending, message, pending, ratings, require
from evaluation.judging.protocols import PROTOCOLS, JudgeProtocol, Orders
from evaluation.judging.results import JudgmentRecord, answer_counts, summarize_judgments
from evaluation.records import Record, write_whole
from evaluation.types import Generation, Item, Progress

GAMES_FILE = "games.jsonl"
SUMMARY_FILE = "summary.json"


def judge(
    judge: Judge,
    protocol_name: str,
    *,
    judge_name: str,
    questions: Sequence[Item],
    models: Mapping[str, Answers],
    baseline: Answers | None,
    output_dir: Path,
    calls_file: Path | None = None,
    progress: Progress,
    orders: Orders = "both",
    demonstration: bool = False,
    fresh: bool = False,
    about: Record | None = None,
) -> Record:
    """Judges the models' answers; writes games.jsonl and summary.json into `output_dir` and returns the latter.

    A judgment without a verdict is null; nulls of an earlier run are asked again, verdicts never.

    Args:
        baseline: Whose answers the models' are compared with, by a protocol that compares.
        calls_file: The record of calls; without it one in `output_dir`.
        orders: `one` compares once a question, in an order that the question's id fixes.
        demonstration: Marks the result as meaningless.
        fresh: Asks everything again, whatever is in the record.
        about: What else the summary says.

    Raises:
        ValueError: where there is no such protocol, a question lacks an answer, or the protocol a baseline.
        SpendingCapReached: where the next request could exceed the cap; what was answered is kept.
    """
    protocol = _protocol(protocol_name)
    baseline_name = baseline.model if baseline else None
    output_dir.mkdir(parents=True, exist_ok=True)
    asked = list(pending(protocol, judge, questions, models, baseline, orders))
    with contextlib.closing(Calls(calls_file or output_dir / "calls.jsonl", fresh=fresh)) as calls:
        asking = Asking(judge, judge_name, protocol, protocol_name, calls)
        asking.ask(asked, progress)
        judgments = [_judgment(one, asking) for one in asked]
        records = [
            JudgmentRecord(
                judgment, asking.keys(one), judge_name, protocol_name, protocol.COMPARES, baseline_name, asking.replies(one)
            )
            for one, judgment in zip(asked, judgments, strict=True)
        ]
        cost = asking.cost(asked)
    results = summarize_judgments(protocol, judgments, list(models), questions, orders, demonstration)
    for model, answers in models.items():
        results["models"][model]["answers"] = answer_counts(answers, questions)
    summary = {
        "judge": judge_name,
        "form": protocol_name,
        **(about or {}),
        "verdict_mode": judge.mode,
        "baseline": baseline_name,
        "baseline_answers": answer_counts(baseline, questions) if baseline and protocol.COMPARES else None,
        "orders": orders if protocol.COMPARES else None,
        "demonstration": demonstration,
        **results,
        "cost": cost.to_json(),
    }
    write_whole(output_dir / GAMES_FILE, [record.to_json() for record in records])
    write_whole(output_dir / SUMMARY_FILE, [summary])
    return summary


def rate(
    judge: Judge,
    protocol_name: str,
    answers: Sequence[tuple[Item, str]],
    *,
    calls_file: Path,
    progress: Progress,
    fresh: bool = False,
) -> list[float | None]:
    """The rating of every (question, answer) by a protocol that doesn't compare; None without one.

    Raises:
        ValueError, SpendingCapReached: as `judge`.
    """
    protocol = _protocol(protocol_name)
    require(protocol, judge, None)
    asked = [one for number, (item, text) in enumerate(answers) for one in ratings(protocol, judge, item, str(number), [text])]
    with contextlib.closing(Calls(calls_file, fresh=fresh)) as calls:
        asking = Asking(judge, str(dict(judge.identity)), protocol, protocol_name, calls)
        asking.ask(asked, progress)
        return [_judgment(one, asking).rating for one in asked]


def reward(
    judge: RewardJudge,
    answers: Sequence[tuple[Item, str]],
    *,
    calls_file: Path,
    progress: Progress,
    fresh: bool = False,
) -> list[float | None]:
    """The reward model's reward of every (question, answer); None where it can't read one to its end."""
    conversations = [[*item["conversation"], message("assistant", text)] for item, text in answers]
    keys = [call_key(judge.identity, messages, judge.parameters(None)) for messages in conversations]
    about = About(str(dict(judge.identity)), "reward")
    with contextlib.closing(Calls(calls_file, fresh=fresh)) as calls:
        absent = {key: messages for key, messages in zip(keys, conversations, strict=True) if calls.get(key) is None}
        names = list(absent)
        num_done = len(keys) - len(names)

        def keep(index: int, reply: Generation) -> None:
            nonlocal num_done
            calls.add(names[index], reply, about)
            num_done += 1
            progress(num_done, len(keys), "")

        judge.ask(list(absent.values()), None, keep)
        found = [calls.get(key) for key in keys]
    return [reward_of(reply) if reply else None for reply in found]


def _protocol(name: str) -> JudgeProtocol:
    if name not in names(PROTOCOLS):
        raise ValueError(
            f"forms must be among {', '.join(names(PROTOCOLS))}, got {name!r}; correct it, or add evaluation/judging/protocols/{name}.py"
        )
    return load(PROTOCOLS, name)


def _judgment(one: Pending, asking: Asking) -> Judgment:
    reading = asking.reading(one)
    return Judgment(
        one.question_id,
        one.number,
        reading.verdict,
        one.facts,
        one.model,
        one.category,
        bool(one.requests),
        reading.choice_mass,
        reading.null_reason,
    )
