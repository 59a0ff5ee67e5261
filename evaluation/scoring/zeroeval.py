"""Recorded outputs in ZeroEval's result format: one JSON list of records per model and benchmark, plain or gzipped.

https://github.com/WildEval/ZeroEval, `result_dirs/<benchmark>/<model>.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evaluation.records import UNREADABLE, Decoder, Record, unpacked, unreadable
from evaluation.types import Item

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Upstream tries the boxed rule for these models only.
_BOXED_MODELS = "Llama-3.1"
# Ours and upstream's names.
DATASETS = {"gsm8k": "gsm", "math_l5": "math-l5", "crux": "crux", "mmlu_redux": "mmlu-redux"}
# The function and the call that upstream's CRUX prompts end with.
_CRUX_QUESTION = re.compile(r"\[PYTHON\]\n(?P<code>.*)\nassert f\((?P<input>.*)\) == \?\?\n\[/PYTHON\]\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class ZeroEvalResults:
    """What a result file holds: the items that were answered, and their completions as records of completions.jsonl."""

    model: str
    boxed: bool  # whether upstream's boxed rule applies to the model
    items: list[Item]
    completions: list[Record]


def load_zeroeval_results(path: Path, benchmark: str) -> ZeroEvalResults:
    """Reads a result file of `benchmark` (`gsm8k`, `math_l5`, `crux`, `mmlu_redux`). The model is called as the file is.

    A record is called by its `id`, else by its `session_id`, else by its number from 0.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is not such a file, or another benchmark's; the message names the record, or the line that is no JSON.
    """
    if benchmark not in DATASETS:
        known = ", ".join(DATASETS)
        raise ValueError(f"benchmark must be one that ZeroEval has, got {benchmark!r}; known are {known}")
    rows = _read(path)
    seen: dict[str, int] = {}
    generator = ""
    items: list[Item] = []
    completions: list[Record] = []
    for number, row in enumerate(rows):

        def error(rule: str, got: object, number: int = number) -> ValueError:
            return ValueError(f"{path} must {rule}, got {str(got)[:200]} in record {number}; give a result file of {benchmark}")

        if not isinstance(row, dict):
            raise error("hold a list of records", type(row).__name__)
        generator = generator if number else str(row.get("generator", ""))
        dataset = row.get("dataset") or None
        if dataset not in (None, benchmark, DATASETS[benchmark]):
            raise error(f"hold records of {benchmark}", f"the dataset {dataset!r}")
        output = row.get("output")
        if not isinstance(output, list) or not output or not isinstance(output[0], str):
            raise error("have output as a list that starts with a text", repr(output))
        if len(output) > 1:
            raise error("have one output, as upstream reads no other", f"{len(output)}")
        name = _name(row, number, error)
        if name in seen:
            raise error("have each id once", f"{name!r} of record {seen[name]} again")
        seen[name] = number
        gold = _gold(row, benchmark, error)
        if dataset is None and benchmark in ("gsm8k", "math_l5") and not _is_number(gold):
            raise error("have a number as answer, where no dataset is named", repr(gold))
        items.append({"id": name, "answer": gold, **_asked(row, benchmark)})
        completions.append({"id": name, "completion": output[0]})
    model = path.name.removesuffix(".gz").removesuffix(".json")
    boxed = _BOXED_MODELS in model or _BOXED_MODELS in generator
    return ZeroEvalResults(model, boxed, items, completions)


def _name(row: Record, number: int, error: Callable[[str, object], ValueError]) -> str:
    name = next((row[key] for key in ("id", "session_id") if row.get(key) is not None), number)
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise error("have a text or a whole number as id", repr(name))
    return str(name)


def _asked(row: Record, benchmark: str) -> Item:
    """The record's question in the fields of the benchmark's items, so that equal items have equal digests."""
    question = row.get("problem" if benchmark == "math_l5" else "question")
    if not isinstance(question, str):
        return {}
    if benchmark == "crux" and (match := _CRUX_QUESTION.search(question)):
        return match.groupdict()
    if benchmark == "mmlu_redux":
        return {"question": question, "choices": row["choices"], "subject": row.get("config")}
    return {"question": question}


def _is_number(gold: str) -> bool:
    try:
        float(gold.replace("$", "").replace(",", ""))
    except ValueError:
        return False
    return True


def _gold(row: Record, benchmark: str, error: Callable[[str, object], ValueError]) -> str:
    if benchmark == "mmlu_redux":
        choices, correct = row.get("choices"), row.get("correct_answer")
        if not isinstance(choices, list) or correct not in choices[: len(_LETTERS)]:
            raise error("have the correct_answer among the choices", repr(correct))
        return _LETTERS[choices.index(correct)]
    answer = row.get("answer")
    if benchmark == "crux" and "answer" in row:
        return str(answer)  # upstream's `str`, whatever it is
    if not isinstance(answer, str | int | float):
        raise error("have an answer", repr(answer))
    return str(answer).replace("#", "").strip()


def _read(path: Path) -> list[object]:
    data = path.read_bytes()
    try:
        rows, fault = Decoder().whole(unpacked(data))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} must be JSON, got {error.msg.lower()} on line {error.lineno}; give a ZeroEval result file"
        ) from error
    except UNREADABLE as error:
        raise ValueError(
            f"{path} must be JSON, plain or gzipped, got {unreadable(error)}; give a ZeroEval result file"
        ) from error
    if fault:
        raise ValueError(f"{path} {fault}; give a ZeroEval result file")
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} must hold a list of records, got {str(rows)[:60]}; give a ZeroEval result file")
    return rows
