"""Partial work that a stage would go on from, in words. It stands apart from the stages' files, whose code is part of their keys: what is
only said to people makes nobody compute anything again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from evaluation.records import read_json


def partial_work(stage: str, work: Path) -> str | None:
    """What is in a stage's work folder already: `412 of 1319 completions are there`; None where there is none, or nothing that counts."""
    say = _STAGES.get(stage)
    if say is None or not work.is_dir():
        return None
    try:
        return say(work)
    except (OSError, ValueError, KeyError):
        # A run may be at work there: files come and go.
        return None


def _completions(work: Path) -> str | None:
    # Of a conversation each turn and temperature has a folder until all are there.
    done = _lines([work / "completions.jsonl", *work.glob("parts/*/completions.jsonl")])
    items = _lines([work / "items.jsonl"])
    # Nothing here says how many samples of an item are asked for.
    several = (work / "parts").is_dir() or _has_samples(work / "completions.jsonl")
    of = f" of {items}" if items and not several else ""
    return f"{done}{of} completions are there" if done else None


def _has_samples(file: Path) -> bool:
    """Whether a file of completions has several of an item."""
    if not file.exists():
        return False
    with file.open("rb") as lines:
        first = lines.readline()
    return first.endswith(b"\n") and "sample" in json.loads(first)


def _samples(work: Path) -> str | None:
    done = _lines(work.glob("chunks/*.jsonl"))
    return f"the samples of {done} prompts are there" if done else None


def _replies(work: Path) -> str | None:
    done = _lines([work / "replies.jsonl"])
    return f"{done} {'reply' if done == 1 else 'replies'} to lm-eval {'is' if done == 1 else 'are'} there" if done else None


def _shards(work: Path) -> str | None:
    done = len([*work.glob("reference-*.safetensors"), *work.glob("dev/reference-*.safetensors")])
    return f"{done} {'shard is' if done == 1 else 'shards are'} there" if done else None


def _steps(work: Path) -> str | None:
    folders = {int(folder.name.rpartition("-")[2]): folder for folder in work.glob("checkpoints/checkpoint-*[0-9]")}
    if not folders:
        return None
    last = max(folders)
    state = read_json(folders[last] / "trainer_state.json")
    return f"a checkpoint after {last} of {state['max_steps']} steps is there"


_STAGES: Mapping[str, Callable[[Path], str | None]] = {
    "generate": _completions,
    "sample": _samples,
    "lm_eval": _replies,
    "reference": _shards,
    "train": _steps,
}


def _lines(files: Iterable[Path]) -> int:
    """The whole lines of those files that are there."""
    return sum(file.read_bytes().count(b"\n") for file in files if file.exists())
