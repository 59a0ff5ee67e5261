"""Partial work that a stage would go on from, in words. It stands apart from the stages' files, whose code is part of their keys: what is
only said to people makes nobody compute anything again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from evaluation.records import read_json


def partial_work(stage: str, work: Path, wanted: int | None = None) -> str | None:
    """What is in a stage's work folder already: `412 of 1319 completions are there`; None where there is none, or nothing that counts.

    Args:
        wanted: of a generation the completions of each item, of sampling the prompts; None where nobody says.
    """
    say = _STAGES.get(stage)
    if say is None or not work.is_dir():
        return None
    try:
        return say(work, wanted)
    except (OSError, ValueError, KeyError):
        # A run may be at work there: files come and go.
        return None


def _completions(work: Path, wanted: int | None) -> str | None:
    # Of a conversation each turn and temperature has a folder until all are there.
    done = _lines([work / "completions.jsonl", *work.glob("parts/*/completions.jsonl")])
    of_each = (0 if _has_samples(work / "completions.jsonl") else 1) if wanted is None else wanted
    number = _lines([work / "items.jsonl"]) * of_each
    of = f" of {number}" if number and not (work / "parts").is_dir() else ""
    return f"{done}{of} completions are there" if done else None


def _has_samples(file: Path) -> bool:
    """Whether a file of completions has several of an item."""
    if not file.exists():
        return False
    with file.open("rb") as lines:
        first = lines.readline()
    return first.endswith(b"\n") and "sample" in json.loads(first)


def _samples(work: Path, wanted: int | None) -> str | None:
    done = _lines(work.glob("chunks/*.jsonl"))
    of = f" of {wanted}" if wanted is not None else ""
    return f"the samples of {done}{of} prompts are there" if done else None


def _replies(work: Path, wanted: int | None) -> str | None:
    done = _lines([work / "replies.jsonl"])
    return f"{done} {'reply' if done == 1 else 'replies'} to lm-eval {'is' if done == 1 else 'are'} there" if done else None


def _shards(work: Path, wanted: int | None) -> str | None:
    done = len([*work.glob("reference-*.safetensors"), *work.glob("dev/reference-*.safetensors")])
    return f"{done} {'shard is' if done == 1 else 'shards are'} there" if done else None


def _steps(work: Path, wanted: int | None) -> str | None:
    folders = {int(folder.name.rpartition("-")[2]): folder for folder in work.glob("checkpoints/checkpoint-*[0-9]")}
    if not folders:
        return None
    last = max(folders)
    state = read_json(folders[last] / "trainer_state.json")
    return f"a checkpoint after {last} of {state['max_steps']} steps is there"


_STAGES: Mapping[str, Callable[[Path, int | None], str | None]] = {
    "generate": _completions,
    "sample": _samples,
    "lm_eval": _replies,
    "reference": _shards,
    "train": _steps,
}


def _lines(files: Iterable[Path]) -> int:
    """The whole lines of those files that are there."""
    return sum(file.read_bytes().count(b"\n") for file in files if file.exists())
