"""Recorded outputs in ZeroEval's result format: one JSON list of records per model and benchmark, plain or gzipped.

https://github.com/WildEval/ZeroEval, `result_dirs/<benchmark>/<model>.json`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation._types import Item

_GZIP_MAGIC = b"\x1f\x8b"
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Upstream tries the boxed rule for these models alone.
_BOXED_MODELS = "Llama-3.1"
_BENCHMARKS = {"gsm": "gsm8k", "math-l5": "math_l5", "crux": "crux", "mmlu-redux": "mmlu_redux"}


@dataclass(frozen=True)
class ZeroEvalResults:
    """A result file: the items as far as scoring needs them, and the completions in the form of completions.jsonl."""

    model: str
    benchmark: str
    boxed: bool  # whether upstream's boxed rule applies to the model
    items: list[Item]
    completions: list[dict[str, Any]]


def load_zeroeval_results(path: Path, benchmark: str) -> ZeroEvalResults:
    """Reads a result file of `benchmark` (`gsm8k`, `math_l5`, `crux`, `mmlu_redux`). The model is called as the file is.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is not such a file; the message names the record, or the line that is no JSON.
    """
    if benchmark not in _BENCHMARKS.values():
        known = ", ".join(_BENCHMARKS.values())
        raise ValueError(f"benchmark must be one that ZeroEval has, got {benchmark!r}; known are {known}")
    rows = _read(path)
    seen: dict[str, int] = {}
    items: list[Item] = []
    completions: list[dict[str, Any]] = []
    for number, row in enumerate(rows):

        def error(rule: str, got: object, number: int = number) -> ValueError:
            return ValueError(f"{path} must {rule}, got {str(got)[:200]} in record {number}; give a result file of {benchmark}")

        if not isinstance(row, dict):
            raise error("hold a list of records", type(row).__name__)
        dataset = row.get("dataset", "")
        if _BENCHMARKS.get(str(dataset), benchmark) != benchmark:
            raise error(f"hold records of {benchmark}", dataset)
        output = row.get("output")
        if not isinstance(output, list) or not output or not isinstance(output[0], str):
            raise error("have output as a list that starts with a text", repr(output))
        name = row.get("id", row.get("session_id"))
        if not isinstance(name, str | int):
            raise error("have an id", repr(name))
        if str(name) in seen:
            raise error("have each id once", f"{name!r} of record {seen[str(name)]} again")
        seen[str(name)] = number
        items.append({"id": str(name), "answer": _gold(row, benchmark, error)})
        completions.append({"id": str(name), "completion": output[0]})
    model = path.name.removesuffix(".gz").removesuffix(".json")
    boxed = _BOXED_MODELS in model or _BOXED_MODELS in str(rows[0].get("generator", ""))
    return ZeroEvalResults(model, benchmark, boxed, items, completions)


def _gold(row: dict[str, Any], benchmark: str, error: Callable[[str, object], ValueError]) -> str:
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


def _read(path: Path) -> list[Any]:
    data = path.read_bytes()
    try:
        rows = json.loads(gzip.decompress(data) if data.startswith(_GZIP_MAGIC) else data)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} must be JSON, got {error.msg.lower()} on line {error.lineno}; give a ZeroEval result file"
        ) from error
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} must be JSON, plain or gzipped, got {type(error).__name__}: {error}; give a ZeroEval result file"
        ) from error
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} must hold a list of records, got {str(rows)[:60]}; give a ZeroEval result file")
    return rows
