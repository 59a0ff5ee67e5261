"""Gives sampled completions their rewards: by a benchmark's scorer, a judge, a reward model, or ratings from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from bnf.plugins import Kind, default
from evaluation.types import Progress


class Labeler(Protocol):
    """What a file of this folder has.

    Attributes:
        READS_FILE: whether the recipe's `label.path` must name a file for it.
        ASKS_JUDGE: whether the recipe's `label.judge` must name a judge for it. `open_judge` then opens that judge.
    """

    READS_FILE: bool = False
    ASKS_JUDGE: bool = False

    @default
    def open_judge(self, settings: Mapping[str, object], folder: Path | None, fingerprint: str | None) -> object:
        """The judge that `label` is given, from the label stage's settings; `folder` holds a local judge's model, of that fingerprint."""
        raise NotImplementedError

    def label(
        self,
        samples_file: Path,
        output_file: Path,
        *,
        benchmark: str | None,
        path: Path | None,
        judge: object,
        calls_file: Path | None,
        fresh: bool,
        progress: Progress,
    ) -> None:
        """Writes the samples with a `reward` and an `outcome` for each completion. A file takes by name what it reads of the keywords, and
        the rest by `**rest`.

        Args:
            benchmark: the benchmark that can score the prompts; None where there is none.
            path: the file of `label.path`.
            judge: what `open_judge` gave; `calls_file` records its calls, and `fresh` asks again what is recorded there.
        """


LABELERS = Kind("labeler", "data.labelers", Labeler, lambda labeler: ["open_judge"] if labeler.ASKS_JUDGE else [])
