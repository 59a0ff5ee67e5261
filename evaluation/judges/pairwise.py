"""Pairwise judging in the form of Arena-Hard: two games per question, the baseline as A and then as B.

A judge is an engine like any other. One that runs here chooses among the verdict labels by structured output; one behind a
server writes free text, from which the protocol's regular expression takes the label. Every game is a record, keyed by the
judge, its messages and its parameters: an answer that was regenerated is judged again, an unchanged one never is.
https://arxiv.org/abs/2406.11939
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from evaluation._records import Record, read_repaired, to_line, write_whole
from evaluation._types import Generation, Item, Message, Progress, Sampling
from evaluation.engines import Engine
from evaluation.generate import render
from evaluation.judges._pairwise_score import VERDICTS, aggregate

GAMES_FILE = "games.jsonl"
SUMMARY_FILE = "summary.json"

_SYSTEM = (
    "You are comparing how well two assistants, A and B, answered the same request. First think of what a good answer would "
    "contain. Then weigh, in this order: whether each answer is correct, whether it does what was asked, whether it is clear and "
    "no longer than it needs to be, and whether something important is missing. Neither the order of the answers nor their "
    "length is an argument.\n\n"
    "There are five verdicts:\n"
    "[[A>>B]] A is much better\n[[A>B]] A is slightly better\n[[A=B]] both are about equally good\n"
    "[[B>A]] B is slightly better\n[[B>>A]] B is much better\n\n"
)
_ASK_FREE = "Give your reasons in a few sentences and end with exactly one of the five verdicts, in its double brackets."
_ASK_CHOICE = "Reply with exactly one of the five verdicts, in its double brackets, and nothing else."
_ASK_AGAIN = (
    "Your judgment holds no verdict yet. Continue it and end with exactly one of the five verdicts, in its double brackets."
)
_LABEL = re.compile(r"\[\[([AB<>=]+)\]\]")


@dataclass(frozen=True)
class _Game:
    """One game to be judged; in game 1 the baseline is A, in game 2 it is B."""

    key: str
    question_id: str
    number: int
    messages: tuple[tuple[str, str], ...]

    @property
    def place(self) -> tuple[str, int]:
        return self.question_id, self.number


def judge(
    engine: Engine,
    tokenizer: Any,
    *,
    judge_name: str,
    questions: Sequence[Item],
    candidate_name: str,
    candidate: Mapping[str, str],
    baseline_name: str,
    baseline: Mapping[str, str],
    output_dir: Path,
    progress: Progress,
    demonstration: bool = False,
    max_new_tokens: int = 4096,
) -> Record:
    """Judges the candidate's answers against the baseline's; writes games.jsonl and summary.json into `output_dir`.

    `candidate` and `baseline` map question ids to answers; `tokenizer` may be None for an engine that takes messages;
    `demonstration` marks the result as meaningless. A game without a verdict is null; nulls of an interrupted run are retried.

    Raises:
        ValueError: where a question lacks an answer.
    """
    for name, answers in ((candidate_name, candidate), (baseline_name, baseline)):
        missing = [item["id"] for item in questions if item["id"] not in answers]
        if missing:
            raise ValueError(f"every question must have an answer by {name}, got none for {missing[0]!r}; generate them first")
    output_dir.mkdir(parents=True, exist_ok=True)
    path = output_dir / GAMES_FILE
    # Labels alone are short; the longest has seven tokens or so in any vocabulary.
    sampling = Sampling(max_new_tokens=32, choices=list(VERDICTS)) if engine.supports_choices else Sampling(max_new_tokens)
    games = [
        game for item in questions for game in _games(item, candidate[item["id"]], baseline[item["id"]], judge_name, sampling)
    ]
    written = {(record["key"], record["question_id"], record["game"]): record for record in read_repaired(path)}
    judged = {record["key"]: record for record in written.values() if record["verdict"] is not None}
    results = {game.place: _record_of(judged[game.key], game) for game in games if game.key in judged}
    shared = {"judge": judge_name, "candidate": candidate_name, "baseline": baseline_name, "demonstration": demonstration}

    # Equal answers make both games one and the same question to the judge: it is asked once.
    waiting: dict[str, list[_Game]] = {}
    for game in games:
        if game.place not in results:
            waiting.setdefault(game.key, []).append(game)
    progress(len(results), len(games), "")
    with path.open("a", encoding="utf-8") as file:
        for key, record in _ask(engine, tokenizer, {key: same[0].messages for key, same in waiting.items()}, sampling):
            for game in waiting[key]:
                results[game.place] = _record_of(record | shared, game)
                file.write(to_line(results[game.place]))
            file.flush()
            progress(len(results), len(games), "")
    records = [results[game.place] for game in games]
    summary = {
        "judge": judge_name,
        "baseline": baseline_name,
        "models": {candidate_name: aggregate(records, num_expected=len(questions), demonstration=demonstration)},
    }
    write_whole(output_dir / SUMMARY_FILE, [summary])
    write_whole(path, records)
    return summary


def parse_verdict(reply: str) -> str | None:
    """The label of a free-text judgment, without brackets; None where there is none, or more than one distinct, or no known one."""
    found = set(_LABEL.findall(reply))
    label = found.pop() if len(found) == 1 else None
    return label if label is not None and f"[[{label}]]" in VERDICTS else None


def _games(item: Item, candidate: str, baseline: str, judge_name: str, sampling: Sampling) -> list[_Game]:
    games = []
    for number, (first, second) in enumerate(((baseline, candidate), (candidate, baseline)), start=1):
        system = _SYSTEM + (_ASK_CHOICE if sampling.choices else _ASK_FREE)
        user = f"# Request\n{item['prompt']}\n\n# Answer of A\n{first}\n\n# Answer of B\n{second}"
        messages = (("system", system), ("user", user))
        identity = json.dumps([judge_name, messages, asdict(sampling)], sort_keys=True)
        games.append(_Game(hashlib.sha256(identity.encode()).hexdigest(), item["id"], number, messages))
    return games


def _ask(engine: Engine, tokenizer: Any, asked: Mapping[str, tuple[tuple[str, str], ...]], sampling: Sampling) -> Any:
    """Yields (key, record) as the judge answers. Free text without any label is asked once to go on; both replies count."""
    conversations = {key: [_message(role, content) for role, content in messages] for key, messages in asked.items()}
    again: dict[str, tuple[Generation, list[Message]]] = {}
    for key, reply in _replies(engine, tokenizer, conversations, sampling):
        if sampling.choices is None and reply.finish_reason in ("stop", "length") and not _LABEL.search(reply.completion):
            going_on = [_message("assistant", reply.completion), _message("user", _ASK_AGAIN)]
            again[key] = (reply, [*conversations[key], *going_on])
        else:
            yield key, _reply_record(reply, 1)
    for key, second in _replies(engine, tokenizer, {key: messages for key, (_, messages) in again.items()}, sampling):
        first = again[key][0]
        both = replace(
            second,
            completion=f"{first.completion}\n{second.completion}",
            num_prompt_tokens=first.num_prompt_tokens + second.num_prompt_tokens,
            num_completion_tokens=first.num_completion_tokens + second.num_completion_tokens,
        )
        yield key, _reply_record(both, 2)


def _replies(engine: Engine, tokenizer: Any, conversations: Mapping[str, list[Message]], sampling: Sampling) -> Any:
    keys = list(conversations)
    prompts, _ = render(engine, tokenizer, [conversations[key] for key in keys])
    for index, (reply,) in engine.generate(prompts, sampling):
        yield keys[index], reply


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _reply_record(reply: Generation, attempts: int) -> Record:
    return {
        "verdict": parse_verdict(reply.completion),
        "reply": reply.completion,
        "finish_reason": reply.finish_reason,
        "attempts": attempts,
        "num_prompt_tokens": reply.num_prompt_tokens,
        "num_completion_tokens": reply.num_completion_tokens,
    }


def _record_of(record: Record, game: _Game) -> Record:
    place = {"key": game.key, "question_id": game.question_id, "game": game.number}
    return {**place, **{name: value for name, value in record.items() if name not in place}}
