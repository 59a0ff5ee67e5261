"""The files with a line for each item, sample or comparison: items.jsonl, completions.jsonl, scores.jsonl, a judge's games.jsonl.

Whoever reads one reads it here: a line that isn't what the file should hold is refused with the file, the line, the field, the rule and
the value, before anything is made of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from evaluation.fields import (
    COUNT,
    COUNT_OR_NONE,
    FLAG,
    TEXT,
    TEXT_OR_NONE,
    WHOLE,
    Field,
    fault,
    is_number,
    mapping_of,
    one_of,
    shown,
)
from evaluation.records import Record, read_numbered, read_numbered_records
from evaluation.samples import SAMPLE
from evaluation.types import Item

# More of an item than anybody generates: a higher number is a slip.
MOST_SAMPLES = 100_000
_GAME: Mapping[str, Field] = {
    "question_id": TEXT,
    "candidate": TEXT,
    "game": WHOLE,
    "verdict": Field("a text, a number or None", lambda value: isinstance(value, str | None) or is_number(value)),
}
_OUTPUT: Mapping[str, Field] = {"characters": COUNT, "empty": FLAG, "cut": FLAG}
_GAME_TOO: Mapping[str, Field] = {
    **dict.fromkeys(("finish_reason", "reply", "null_reason", "category"), TEXT_OR_NONE),
    **dict.fromkeys(
        ("output", "baseline_output"),
        Field(
            "a mapping with characters, empty and cut, or None",
            lambda value: value is None or (isinstance(value, dict) and fault(value, _OUTPUT) is None),
        ),
    ),
}
# Remedies, where the file is a stage's.
GENERATE_AGAIN, SCORE_AGAIN = "run the stage `generate` again", "run the stage `score` again"
# What an item is called and counted by.
LABELS = ("level", "subject")
OUTCOMES = ("correct", "wrong", "no_answer", "error")
_THOUGHT: Mapping[str, Field] = {"answer_start": COUNT_OR_NONE, "num_thought_tokens": COUNT, "is_thought_cut": FLAG}
_COMPLETION: dict[str, Field] = {"id": TEXT, "completion": TEXT}
_COMPLETION_TOO: dict[str, Field] = {"finish_reason": TEXT_OR_NONE, "num_completion_tokens": COUNT_OR_NONE}
# What a score stage writes for every completion, whatever its version.
_SCORE: Mapping[str, Field] = {
    "id": TEXT,
    "outcome": one_of(*OUTCOMES),
    "answer": TEXT_OR_NONE,
    "rule": TEXT,
    "finish_reason": TEXT_OR_NONE,
    "num_completion_tokens": COUNT_OR_NONE,
}
_SCORE_TOO: Mapping[str, Field] = {
    "completion": TEXT,
    "metrics": mapping_of("numbers", lambda value: isinstance(value, bool) or is_number(value)),
    "weights": mapping_of("numbers", is_number),
    "groups": mapping_of("texts or None", lambda value: isinstance(value, str | None)),
    "cluster": TEXT,
    "content": TEXT,
    "votes": COUNT,
}


def item_lines(path: Path, remedy: str) -> Iterator[tuple[int, Record]]:
    """The records of an items.jsonl, each with the number of its line. `remedy` is what error messages tell the user to do.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where a line has no id of its own, or there is none.
    """
    return _checked(path, read_numbered(path, remedy), remedy, {"id": TEXT})


def completion_lines(
    path: Path, remedy: str, *, has_prompts: bool = False, may_be_empty: bool = False
) -> Iterator[tuple[int, Record]]:
    """The records of a completions.jsonl. Raises as `item_lines`, and where a field has another type or thought fields can't be.

    Args:
        has_prompts: Whether every record must have its prompt, as a stage writes it.
        may_be_empty: Whether a file without a record is one.
    """
    prompt = {"prompt": TEXT}
    required, optional = _COMPLETION | (prompt if has_prompts else {}), _COMPLETION_TOO | prompt
    records = read_numbered(path, remedy)
    return _checked(path, records, remedy, required, optional, has_samples=True, may_be_empty=may_be_empty)


def score_lines(path: Path, remedy: str) -> Iterator[tuple[int, Record]]:
    """The records of a scores.jsonl. Raises as `completion_lines`, but for an id that comes twice, which `paired.read_scores` refuses."""
    records = read_numbered_records(path, remedy)
    return _checked(path, records, remedy, _SCORE, _SCORE_TOO, has_samples=True, is_unique=False)


def games(path: Path) -> Iterator[Record]:
    """The records of a judge stage's games.jsonl. Raises as `item_lines`."""
    remedy = "run the stage `judge` again"
    for number, record in read_numbered_records(path, remedy):
        if (wrong := fault(record, _GAME, _GAME_TOO)) is not None:
            raise ValueError(f"{path} must {wrong} on line {number}; {remedy}")
        yield record


def is_answer_alone(item: Item) -> bool:
    """Whether an item says nothing of what it asks, as one of recorded answers may."""
    return item.keys() <= {"id", "answer", *LABELS}


def thought_fault(record: Record, text: str | None = None) -> str | None:
    """What is wrong with the fields of a completion's record that say of its thought, from the rule on; None where nothing is.

    `answer_start` is where in the text the answer begins, None where the thought doesn't end. The others stand beside it alone:
    `num_thought_tokens`, at most all tokens and all of them where the thought doesn't end, and `is_thought_cut`, true only of a thought.

    Args:
        text: The completion; None takes the record's own, if it has one.
    """
    if wrong := fault(record, {}, _THOUGHT):
        return wrong
    text = record.get("completion") if text is None else text
    start, has_start = record.get("answer_start"), "answer_start" in record
    if start is not None and text is not None and start > len(text):
        return f"have answer_start as at most the completion's {len(text)} characters, got {start}"
    if record.get("is_thought_cut") and not (has_start and start != 0):
        given = start if has_start else "none"
        return f"have the answer_start of a thought where is_thought_cut is true, got {given}"
    if (length := record.get("num_thought_tokens")) is None:
        return None
    if not has_start:
        return f"have answer_start beside num_thought_tokens, got num_thought_tokens {length} alone"
    total = record.get("num_completion_tokens")
    if total is not None and length > total:
        return f"have num_thought_tokens as at most the {total} of num_completion_tokens, got {length}"
    if total is not None and start is None and length != total:
        return f"have all {total} num_completion_tokens as num_thought_tokens where the thought doesn't end, got {length}"
    return None


def _checked(
    path: Path,
    records: Iterable[tuple[int, Record]],
    remedy: str,
    required: Mapping[str, Field],
    optional: Mapping[str, Field] | None = None,
    *,
    has_samples: bool = False,
    is_unique: bool = True,
    may_be_empty: bool = False,
) -> Iterator[tuple[int, Record]]:
    """The file's records, each with an id of its own, or with a sample of an id, and with the fields that it must have."""
    lines: dict[tuple[str, int | None], int] = {}
    by_sample = False
    for number, record in records:
        wrong = fault(record, required, optional) or (thought_fault(record) or _sample_fault(record) if has_samples else None)
        sample = record.get(SAMPLE) if has_samples else None
        if wrong is None and is_unique and lines and (sample is not None) != by_sample:
            wrong = f"have {SAMPLE} in all of its lines or in none, got {sample}"
        if wrong is None and is_unique and (key := (record["id"], sample)) in lines:
            of = "each id once" if sample is None else f"each {SAMPLE} of an id once"
            got = shown(record["id"]) if sample is None else f"{sample} of {shown(record['id'])}"
            wrong = f"have {of}, got {got} of line {lines[key]} again"
        if wrong is not None:
            raise ValueError(f"{path} must {wrong} on line {number}; {remedy}")
        by_sample = sample is not None
        lines[record["id"], sample] = number
        yield number, record
    if not lines and not may_be_empty:
        raise ValueError(f"{path} must hold a record for each item, got none; {remedy}")


def _sample_fault(record: Record) -> str | None:
    sample = record.get(SAMPLE)
    if sample is None:
        return None
    if type(sample) is not int or sample < 0:
        return f"have {SAMPLE} as a number from 0, got {shown(sample)}"
    # The highest number says how many samples there should be.
    return f"have {SAMPLE} as a number below {MOST_SAMPLES}, got {sample}" if sample >= MOST_SAMPLES else None
