"""A model's answers, and the formats in which benchmarks and this project record them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evaluation.answers.thoughts import answer_of
from evaluation.item_files import thought_fault
from evaluation.judging.aggregates.judgment import Style
from evaluation.records import UNREADABLE, BadRow, Record, Rows, read_rows, unreadable

_METADATA = {"tokens": "token_len", "headers": "header_count", "lists": "list_count", "bold": "bold_count"}
# What a file of Arena-Hard's has, for error messages.
ANSWERS_FORM = (
    "JSON Lines, plain or gzipped, with uid, model and messages whose last one's content is the answer, or has it as `answer`"
)


@dataclass(frozen=True)
class Answers:
    """A model's answers by question id, one text per turn.

    Attributes:
        styles: Counts of each answer by feature, where the file has them: `metadata` of Arena-Hard's.
        is_said: Whether thoughts are off the texts already, as those of our completions are.
        num_cut: How many answers were cut at their limit of tokens. None: of recorded ones nobody knows.
    """

    model: str
    turns: Mapping[str, list[str]]
    styles: Mapping[str, Style] = field(default_factory=dict)
    is_said: bool = False
    num_cut: int | None = None


def read_answers(path: Path) -> Answers:
    """Answers of Arena-Hard (`uid`, `messages`; older `question_id`, `choices`), WildBench (`session_id`, `output`) or our completions.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where a record is none of these, two answer one question, or two are of different models.
    """
    model, turns, styles, is_said = "", {}, {}, True
    for place, row in _rows(path).numbered():
        if isinstance(row, BadRow):
            raise ValueError(f"{path} {row.fault} in {place}; correct it")
        found = _answer(row) if isinstance(row, dict) else None
        if found is None:
            raise ValueError(
                f"{path} must hold answers with uid and messages, question_id and choices, session_id and output, or id and "
                f"completion, got {str(row)[:100]} in {place}; give a file of model answers"
            )
        question, texts, name = found
        if isinstance(row, dict) and "completion" in row and (wrong := thought_fault(row)):
            raise ValueError(f"{path} must {wrong} in {place}; correct it")
        if question in turns:
            raise ValueError(f"{path} must answer each question once, got {question!r} again in {place}; remove one")
        if name and model and name != model:
            raise ValueError(
                f"{path} must hold one model's answers, got those of {model} and of {name} in {place}; give a file for each"
            )
        turns[question], model = texts, model or name
        is_said = is_said and isinstance(row, dict) and "completion" in row
        if isinstance(row, dict) and (counted := _style(row.get("metadata"), texts[-1])) is not None:
            styles[question] = counted
    if not turns:
        raise ValueError(f"{path} must hold answers, got none; give a file of model answers")
    return Answers(model or path.name.split(".json")[0], turns, styles, is_said)


def completions_by_question(records: Iterable[Record]) -> dict[str, list[str]]:
    """The answers to each question in the order of its turns, from a completions.jsonl that has a record for each turn.

    A thought is no part of an answer; one that doesn't end is an empty answer.
    """
    turns: dict[str, dict[int, str]] = {}
    for record in records:
        question: str = record["question_id" if "question_id" in record else "id"]
        turns.setdefault(question, {})[record.get("turn", 1)] = answer_of(record) or ""
    return {question: [by_turn[turn] for turn in sorted(by_turn)] for question, by_turn in turns.items()}


@dataclass(frozen=True)
class Completed:
    """How a model's completions ended: how many were cut at their limit of tokens, and whether one of them has a thought."""

    num_cut: int
    thinks: bool


def completed(records: Iterable[Record]) -> Completed:
    """Of a completions.jsonl."""
    num_cut, thinks = 0, False
    for record in records:
        num_cut += record["finish_reason"] == "length"
        thinks = thinks or record.get("answer_start", 0) != 0
    return Completed(num_cut, thinks)


def _answer(row: Record) -> tuple[str, list[str], str] | None:
    """(question, texts, model); None where the record is of no known format."""
    try:
        if "messages" in row:
            replies = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
            texts = [reply["answer"] if isinstance(reply, dict) else reply for reply in replies]
            question, model = row["uid"], row.get("model", "")
        elif "choices" in row:
            texts = [turn["content"] if isinstance(turn, dict) else turn for turn in row["choices"][0]["turns"]]
            question, model = row["question_id"], row.get("model_id", "")
        elif "output" in row:
            texts = row["output"] if isinstance(row["output"], list) else [row["output"]]
            question, model = row["session_id"], row.get("generator", "")
        else:
            said = row["completion"]
            # Ours: a thought is no part of it.
            texts, question, model = [(answer_of(row) or "") if isinstance(said, str) else said], row["id"], ""
    except (KeyError, TypeError, IndexError):
        return None
    if (
        not texts
        or not all(isinstance(text, str) for text in texts)
        or not isinstance(question, str | int)
        or isinstance(question, bool)
    ):
        return None
    return str(question), list(texts), str(model)


def _style(metadata: object, text: str) -> Style | None:
    """The counts in an answer's metadata: tokens, and of each mark a number or numbers by kind. None where one of them isn't there."""
    if not isinstance(metadata, dict):
        return None
    found: dict[str, int] = {"characters": len(text)}
    for name, key in _METADATA.items():
        value = metadata.get(key)
        parts = list(value.values()) if isinstance(value, dict) else [value]
        counts = [part for part in parts if type(part) is int and part >= 0]
        if not counts or len(counts) < len(parts):
            return None
        found[name] = sum(counts)
    return found


def _rows(path: Path) -> Rows:
    data = path.read_bytes()
    try:
        return read_rows(data)
    except (*UNREADABLE, ValueError) as error:
        raise ValueError(f"{path} must be JSON, plain or gzipped, got {unreadable(error)}; give another file") from error
