"""The text of a first recipe: what a person wants, with a comment on every part and the keys that one is likely to set next."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap

from bnf.objectives import load_objective, option_types
from bnf.plain_yaml import read
from evaluation.formats import visible
from flows.recipe.schema import first_line

_PLAIN = re.compile(r"[A-Za-z0-9_.~/][A-Za-z0-9_.~/-]*")
# Fewer steps than this teach little, so small data get smaller batches, down to the least.
_STEPS, _LEAST_BATCH, _MOST_BATCH = 16, 8, 128
# Prompts from which on a twentieth of them tells settings apart.
_DEV_PROMPTS = 200
_COLUMNS_SHOWN = 12
# Sources of votes, which may have no winner.
_VOTES = ("arena", "pandalm", "votes")
_COMMENTS_AT = 36
_WIDTH = 132


@dataclass(frozen=True)
class Wanted:
    """What a first recipe is to say.

    Attributes:
        gives: what the data's source gives: pairs, labels or ratings.
        about_data: what was seen of the data, for the comment above them.
        num_prompts: about how many prompts the data have; None where that isn't known.
        small_model: whether the model has less than a billion weights; None where that isn't known.
        samples: the benchmarks of which the project has items of its own.
        judge: a judge that runs here, or with `judge_is_remote` the name of one at an endpoint.
    """

    model: str
    data: str
    source: str
    gives: str
    objective: str = "bnf"
    columns: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    limit: int | None = None
    system_prompt: str | None = None
    engine: str | None = None
    benchmarks: tuple[str, ...] = ()
    samples: frozenset[str] = frozenset()
    judge: str | None = None
    judge_is_remote: bool = False
    judge_is_demonstration: bool = False
    about_data: str = ""
    num_prompts: int | None = None
    small_model: bool | None = None


def recipe_text(wanted: Wanted, target: Path) -> str:
    """The recipe as its file has it.

    Raises:
        ValueError: there is no such objective; with those that there are.
    """
    parts = [
        [first_line(target)],
        [
            "# Written by `bnf init`. A key that is left out has its default; docs/recipes.md has every key, and editors complete them."
        ],
        _model(wanted),
        _data(wanted),
        _prepare(wanted),
        _train(wanted),
        _evaluation(wanted),
        _judge(wanted),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts).replace("\n\n", "\n", 1) + "\n"


def written(value: object) -> str:
    """A value on one line, as a recipe has it; a text in quotes where it would be read as something else."""
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and read(value, "") == value else _quoted(value)
    if isinstance(value, float):
        # YAML of any version reads a number with a point.
        mantissa, _, exponent = f"{value:g}".partition("e")
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent)}" if exponent else mantissa
    return json.dumps(value)


def _quoted(text: str) -> str:
    """A text in quotes, with an escape for what can't be seen: YAML begins a new line at some of it, in a comment too."""
    return "".join(one if visible(one) == one else _escaped(one) for one in json.dumps(text, ensure_ascii=False))


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _line(key: str, value: object, comment: str = "", *, indent: int = 2, unset: bool = False) -> str:
    """A key with its value, and what is to say of it; one that is `unset` stands as a comment, to be uncommented."""
    said = f"{' ' * indent}{'# ' if unset else ''}{key}: {value if isinstance(value, _Raw) else written(value)}"
    return f"{said:<{_COMMENTS_AT}}  # {comment}" if comment else said


class _Raw(str):
    """YAML that is written as it is."""


def _model(wanted: Wanted) -> list[str]:
    lines = [
        "# The model that is aligned: a folder with safetensors and a chat template, or a hub id.",
        _line("model_name_or_path", wanted.model, indent=0),
    ]
    said = "the system message of conversations that have none of their own"
    return [
        *lines,
        _line(
            "system_prompt",
            wanted.system_prompt or "You are a helpful assistant.",
            said,
            indent=0,
            unset=wanted.system_prompt is None,
        ),
    ]


def _data(wanted: Wanted) -> list[str]:
    about = f"# {wanted.about_data}" if wanted.about_data else "# Preference data."
    lines = [
        *wrap(f"{about} docs/data.md has every kind of data.", _WIDTH, subsequent_indent="# ", break_long_words=False),
        "data:",
        _line("source", wanted.source),
        _line("path", wanted.data),
    ]
    if wanted.columns:
        renamed = ", ".join(f"{role}: {written(column)}" for role, column in wanted.columns.items())
        lines.append(_line("columns", _Raw(f"{{{renamed}}}"), "what the data call the source's columns"))
    if wanted.split is not None:
        lines.append(_line("split", wanted.split))
    limit = wanted.limit or 100
    return [*lines, _line("limit", limit, "the first so many prompts, for a first try", unset=wanted.limit is None)]


def _prepare(wanted: Wanted) -> list[str]:
    lines = ["# From rows to prompt groups. The run's ledger says of every row what became of it.", "prepare:"]
    objective = load_objective(wanted.objective)
    if objective.needs_pairs:
        pairing = "best_worst" if wanted.gives == "ratings" else "all"
        lines.append(_line("pairing", pairing, f"{wanted.objective} compares pairs"))
    if wanted.gives == "ratings":
        said = "from 4 on preferred, to 2 dispreferred; left out: by each prompt's own"
        lines.append(_line("ratings", _Raw("{threshold: 3, margin: 1}"), said, unset=True))
    if wanted.source in _VOTES:
        lines.append(_line("ties", "both_preferred", "a vote without a winner; left out: dropped", unset=True))
    enough = (wanted.num_prompts or 0) >= _DEV_PROMPTS
    lines.append(_line("dev_fraction", 0.05, "prompts put aside, on which settings are chosen", unset=not enough))
    return [*lines, _line("max_length", 2048, "prompt and completion, in tokens; longer ones are left out")]


def _train(wanted: Wanted) -> list[str]:
    rate = 1e-5 if wanted.small_model else 5e-7
    lines = [
        "# docs/objectives.md has every objective, docs/training.md what a training takes.",
        "train:",
        _line("objective", wanted.objective),
    ]
    options = option_types(wanted.objective)
    if options:
        objective = load_objective(wanted.objective)
        shown = ", ".join(f"{name}: {written(getattr(objective, name))}" for name in options)
        lines.append(_line("objective_options", _Raw(f"{{{shown}}}"), "the defaults", unset=True))
    if wanted.gives == "labels" and "label_weighting" in load_objective(wanted.objective).reads:
        lines.append(_line("label_weighting", "balanced", "as one of the labels may be rare"))
    return [
        *lines,
        _line("learning_rate", rate, "1e-5 suits a model below 1B, 5e-7 one of 1 to 8B"),
        _line("global_batch_size", _batch(wanted), "prompt groups in a step"),
        _line("num_train_epochs", 1, unset=True),
        _line("lora_r", 16, "adapters in place of all weights", unset=True),
        _line("report_to", "tensorboard", "or wandb; its package has to be installed", unset=True),
    ]


def _batch(wanted: Wanted) -> int:
    """The power of two that gives some steps."""
    prompts = wanted.num_prompts or _STEPS * _MOST_BATCH
    prompts = min(prompts, wanted.limit or prompts)
    return 2 ** (min(max(prompts // _STEPS, _LEAST_BATCH), _MOST_BATCH).bit_length() - 1)


def _evaluation(wanted: Wanted) -> list[str]:
    lines = ["# The same for the base and the aligned model; docs/benchmarks.md has every benchmark.", "evaluation:"]
    lines.append(
        _line(
            "engine",
            wanted.engine or "vllm",
            "left out: vllm where it is installed, else transformers",
            unset=wanted.engine is None,
        )
    )
    lines.append(_line("max_new_tokens", 256, "for a quick first run; left out: each benchmark's own"))
    if not wanted.benchmarks:
        return [*lines, _line("benchmarks", _Raw("[gsm8k]"), unset=True)]
    return [*lines, "  benchmarks:", *_items(wanted, wanted.benchmarks)]


def _items(wanted: Wanted, benchmarks: tuple[str, ...]) -> Iterator[str]:
    """The benchmarks, with the project's own items where there are some: these need no network."""
    for name in benchmarks:
        if name in wanted.samples:
            said = "the project's own items; without `source` the benchmark's, from the hub"
            yield _line(name, _Raw("{source: sample}"), said, indent=4)
        else:
            yield f"    {name}:"


def _judge(wanted: Wanted) -> list[str]:
    lines = ["# Who judges answers to open questions; docs/judges.md has the protocols."]
    if wanted.judge is None:
        return [
            *lines,
            "# judge:",
            "#   model_name_or_path: FOLDER       # or engine: openai, and model: the judge's name at the endpoint",
            "#   benchmarks: {arena_hard: {source: sample}}",
        ]
    lines.append("judge:")
    if wanted.judge_is_remote:
        lines += [_line("engine", "openai", "the key is in OPENAI_API_KEY"), _line("model", wanted.judge)]
    else:
        lines.append(_line("model_name_or_path", wanted.judge))
    if wanted.judge_is_demonstration:
        lines.append(_line("demonstration", True, "a model of this size can't judge: its verdicts show the stage"))
    lines += ["  benchmarks:", *_items(wanted, ("arena_hard",))]
    if wanted.judge_is_remote:
        lines += ["# spending:", "#   max_usd: 5                       # needs the judge's price: docs/judges.md"]
    return lines


def about(name: str, kind: str, rows: str, columns: list[str]) -> str:
    """A sentence on what was seen of data."""
    shown = ", ".join(map(written, columns[:_COLUMNS_SHOWN])) + (", …" if len(columns) > _COLUMNS_SHOWN else "")
    return f"{written(name)}: {kind}, {rows} rows" + (f"; columns {shown}." if columns else ".")
