"""Score stored completions and judgments."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.words import completing
from flows.words.arguments import Debug, Json


class FileFormat(StrEnum):
    native = "native"
    zeroeval = "zeroeval"


class JudgmentFormat(StrEnum):
    native = "native"
    upstream = "upstream"


def score(
    benchmark: Annotated[str, typer.Argument(help="A benchmark, such as gsm8k.", autocompletion=completing.benchmarks)],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="completions.jsonl with its items.jsonl beside it, or ZeroEval's.")
    ],
    file_format: Annotated[FileFormat, typer.Option("--format", help="Ours, or ZeroEval's result files.")] = FileFormat.native,
    lm_eval: Annotated[
        bool, typer.Option("--lm-eval", help="Also let lm-eval's own tasks read them, and list where it disagrees.")
    ] = False,
    has_thoughts: Annotated[
        bool | None,
        typer.Option(
            "--take-thoughts-off/--read-thoughts",
            help="Whether <think>…</think> is taken off first; left out: in ours yes, in ZeroEval's files no, as upstream reads it.",
        ),
    ] = None,
    think_tokens: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="BEGIN END",
            help="The texts between which the model thinks, and takes thoughts off; left out: <think> and </think>.",
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score stored completions, without a model."""
    from flows.commands.scoring import score_file

    score_file(
        benchmark,
        file,
        file_format.value,
        lm_eval=lm_eval,
        has_thoughts=has_thoughts,
        think_tokens=think_tokens,
        as_json=as_json,
    )


def judge_score(
    benchmark: Annotated[str, typer.Argument(help="arena-hard or wildbench.", autocompletion=completing.benchmarks)],
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE …", help="Recorded judgments: upstream's files, or a judge stage's games.jsonl."),
    ],
    file_format: Annotated[
        JudgmentFormat | None, typer.Option("--format", help="Refuse files of the other format; without it both are read.")
    ] = None,
    questions: Annotated[
        str | None,
        typer.Option(
            "--questions",
            metavar="FILE|hub",
            help="WildBench's questions, whose tags give the task means; or Arena-Hard's question.jsonl, to name what is missing.",
        ),
    ] = None,
    answers: Annotated[
        list[Path] | None,
        typer.Option(
            "--answers",
            metavar="FILE",
            help="Arena-Hard's files of answers, one for each model and baseline: style by their counts.",
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Aggregate recorded judgments, without a model."""
    from flows.commands.scoring import score_judgments

    score_judgments(
        benchmark, files, file_format.value if file_format else None, questions, answers=answers or (), as_json=as_json
    )
