"""Finds who judged, and which model is the reference: upstream often says so in the names of files and folders alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

from evaluation.records import Record

_WILDBENCH_REFERENCES = ("gpt-4-turbo-2024-04-09", "claude-3-haiku-20240307", "Llama-2-70b-chat")


def arena_judge(rows: Sequence[object], path: Path) -> str | None:
    """The judge of Arena-Hard rows that don't name theirs: the one that the others name, or upstream's folder."""
    named = {row["judge"] for row in rows if isinstance(row, dict) and isinstance(row.get("judge"), str)}
    if len(named) == 1:
        return str(named.pop())
    folder = path.absolute().parent
    return folder.name if not named and folder.parent.name == "model_judgment" else None


def is_comparison(row: object) -> TypeGuard[Record]:
    return isinstance(row, dict) and "model_A" in row and "model_B" in row


def wildbench_reference(rows: Sequence[object], path: Path) -> str:
    """Which of the two models of every row is the reference. Rows don't say: the path's `ref=…` does, or a reference that is known, or the
    file's name.

    Raises:
        ValueError: where none of them tells.
    """
    compared = [row[side] for row in rows if is_comparison(row) for side in ("model_A", "model_B")]
    models = sorted({name for name in compared if isinstance(name, str)})
    named = re.findall(r"ref=([^/]+)", str(path.absolute()))
    by_path = [model for model in models if named and named[-1].startswith(_last(model))]
    published = [model for model in models if any(reference in model for reference in _WILDBENCH_REFERENCES)]
    by_name = [model for model in models if len(models) == 2 and not _is_named(path, model)]
    # One name can be the beginning of another (gpt-4, gpt-4-turbo): the longest is meant.
    for found in (sorted(by_path, key=len)[-1:], published, by_name):
        if len(found) == 1:
            return found[0]
    raise ValueError(
        f"{path} must tell which model is the reference, got {', '.join(models[:4]) or 'no models'}; put the file into a folder "
        "called ref=<reference>, as upstream does"
    )


def _is_named(path: Path, model: str) -> bool:
    return re.search(rf"(?:^|\.){re.escape(_last(model))}(?:\.|$)", path.name) is not None


def _last(model: str) -> str:
    return model.rsplit("/", 1)[-1]


def wildbench_judge(row: Record, path: Path, model: str) -> str | None:
    """The judge of a WildBench row: `eval.py` writes it; else upstream names it in the path alone.

    That is a folder `eval=<judge>`, or a file `….eval=<judge>.<model>.json`, whose model need not be spelt as in the rows.
    """
    config = row.get("eval_config")
    if isinstance(config, dict) and isinstance(config.get("gpt"), str):
        return str(config["gpt"])
    found = re.findall(r"eval=([^/]+)(/?)", str(path.absolute()))
    if not found:
        return None
    name, is_folder = found[-1]
    if is_folder:
        return str(name)
    name = re.sub(r"\.jsonl?(\.gz)?$", "", name).split(".ref=")[0]
    if name.lower().endswith("." + _last(model).lower()):
        return str(name[: -len(_last(model)) - 1])
    # A judge's name ends with its date, or at the first point that is none of a version's.
    return re.split(r"(?<=\d{4}-\d{2}-\d{2})\.|(?<=\d{8})\.|(?<!\d)\.|\.(?!\d)", name, maxsplit=1)[0]
