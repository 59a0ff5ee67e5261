"""The forms of judging. One file per form; its name is its name in a recipe.

A form says what a judge is shown and how its reply is read. Its module has

- `COMPARES`: whether two answers are compared, or one is rated;
- `LABELS`: the replies that a constrained judge chooses from, each with its verdict; `LETTERS`, where the form has them, for verdicts
  from the log-probabilities of single letters;
- `REASONS`, `VERDICT`: the names in a structured reply, the reasons first;
- `TASK`, `ASK_TEXT`, `ASK_AGAIN`: the judge's instructions in words of our own, how free text is asked for, and how it is asked to go
  on where a reply has no verdict (None: it is not asked);
- `texts(item, turn)`: what stands before the answers; `parse(reply)`: the verdict of free text; `wants_more(reply)`;
- `facts(answer, baseline)`: what a record holds besides the verdict (a `verdict` in it needs no judge);
- `aggregate(records, …)`: a model's result; `across(results, games)`: what is said of several models together.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


def names() -> list[str]:
    """The forms there are."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def form(name: str) -> Any:
    """The module of a form.

    Raises:
        ValueError: where there is no such form.
    """
    if name not in names():
        raise ValueError(
            f"forms must be among {', '.join(names())}, got {name!r}; correct it, or add evaluation/judging/protocols/{name}.py"
        )
    return importlib.import_module(f"evaluation.judging.protocols.{name}")
