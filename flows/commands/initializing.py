"""`bnf init`: a first recipe, from answers or from options, that a run takes as it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import typer

from bnf.objectives import OBJECTIVES, load_objective
from bnf.plain_yaml import read
from bnf.plugins import load, names
from data.looking import Reading, Seen, look
from data.reading.records import is_hub_id
from data.sources import SOURCES, load_preferences
from evaluation.benchmarks import BENCHMARKS
from evaluation.engines import ENGINES
from evaluation.formats import visible
from flows.dag import hub
from flows.dag.parts import plugin, sample_file
from flows.dag.plan import make_plan
from flows.dag.preflight import problems
from flows.dag.selection import Options
from flows.errors import RecipeError
from flows.recipe.config import LATEST, as_name, make_recipe
from flows.recipe.paths import find_path, refuse_password
from flows.recipe.writing import Wanted, about, recipe_text, written
from flows.runs.home import home_folder
from tasks.keys import ROOT

T = TypeVar("T")
# The model that `make env` fetches, and the project's own pairs: what is proposed where nothing else is known.
_MODEL = "models/SmolLM2-135M-Instruct"
_DATA = "data/samples/pairs.jsonl"
_BENCHMARKS = "gsm8k,mmlu_redux"
# The answer that leaves a part out.
_NONE = "none"
# A model of a billion weights in two bytes each.
_LARGE_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Asked:
    """The options of `bnf init`; what is None wasn't given."""

    recipe: str | None = None
    data: str | None = None
    source: str | None = None
    split: str | None = None
    model: str | None = None
    objective: str | None = None
    engine: str | None = None
    benchmarks: str | None = None
    judge: str | None = None
    limit: int | None = None
    system_prompt: str | None = None

    @property
    def has_options(self) -> bool:
        """Whether anything but the recipe's file is given. Then nothing is asked."""
        return any(getattr(self, one.name) is not None for one in fields(self) if one.name != "recipe")


@dataclass(frozen=True)
class _Answers:
    """What was answered, or follows from the options; `seen` is None for a hub's data set, which isn't looked at."""

    data: str
    seen: Seen | None
    reading: Reading
    model: str
    objective: str
    benchmarks: list[str]
    judge: str | None
    target: Path


def init_recipe(asked: Asked) -> None:
    """Write a recipe, and say whether a run takes it.

    Raises:
        RecipeError: the file is there, the data can't be read or say no preferences, a name is unknown, or the written recipe has problems
            that its run would be refused for.
    """
    if asked.recipe is not None:
        _refuse_existing(_target(asked.recipe))
    if not asked.has_options and not _has_terminal():
        raise RecipeError(
            "--data must say where the preferences lie where there is no terminal to ask, got nothing; add --data FILE"
        )
    answers = _from_options(asked) if asked.has_options else _ask(asked.recipe)
    target, text = answers.target, recipe_text(_wanted(asked, answers), answers.target)
    recipe = make_recipe({"name": target.stem, **read(text, target.name)}, beside=target.parent)
    found = problems(make_plan(home_folder(), recipe, Options()).checks)
    _write(target, text)
    shown = written(os.path.relpath(target) if target.is_relative_to(Path.cwd()) else str(target))
    if found:
        raise RecipeError(
            "\n".join([f"{shown} is written, and a run would refuse it as it is:", *(f"  {problem}" for problem in found)])
        )
    print(f"\nwrote {shown}: it passes the preflight")
    print(f"next: bnf run {shown}" + " " * 8 + f"what it would do: bnf plan {shown}")


def _write(target: Path, text: str) -> None:
    """A new file, whole or not at all."""
    is_new = False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            is_new = True
            file.write(text)
    except FileExistsError:
        _refuse_existing(target)
        raise
    except OSError as error:
        if is_new:
            target.unlink(missing_ok=True)
        raise RecipeError(
            f"RECIPE must be a file that can be written, got {target} ({error.strerror}); name another"
        ) from error


def _has_terminal() -> bool:
    return sys.stdin.isatty()


def _from_options(asked: Asked) -> _Answers:
    if asked.data is None:
        raise RecipeError(
            "--data must say where the preferences lie, got nothing; add --data FILE, or leave all options out to be asked"
        )
    target = _new_target(asked.recipe or _proposed(asked.data))
    seen, reading = _look(asked.data, asked.split, asked.source)
    model = asked.model or _default_model()
    if model is None:
        raise RecipeError("--model must name a folder or a hub id, got nothing; add --model")
    objective = plugin(OBJECTIVES, asked.objective or "bnf", "--objective")
    return _Answers(
        asked.data,
        seen,
        reading,
        model,
        objective,
        _names(_BENCHMARKS if asked.benchmarks is None else asked.benchmarks),
        _judge(asked.judge),
        target,
    )


def _ask(recipe: str | None) -> _Answers:
    """The answers of a person. One that can't be right is asked for again."""
    data, (seen, reading) = _answer(
        "Preference data: a file, folder, URL or hub id", _DATA, lambda answer: (answer, _look(answer, None, None, ask=True))
    )
    model = _answer("Model: a folder or a hub id", _default_model(), _model_there)
    objective = _answer(
        f"Objective: {', '.join(_fitting(reading))}", "bnf", lambda answer: plugin(OBJECTIVES, answer, "the objective")
    )
    benchmarks = _answer(f"Benchmarks, of {', '.join(_scored())}; none for no benchmark", _BENCHMARKS, _names)
    judge = _answer("Judge: a folder, a hub id or an endpoint's model; none for no judge", _NONE, lambda answer: answer)
    target = _target(recipe) if recipe is not None else _answer("Recipe to write", _proposed(data), _new_target)
    return _Answers(data, seen, reading, model, objective, benchmarks, _judge(judge), target)


def _answer(question: str, default: str | None, check: Callable[[str], T]) -> T:
    while True:
        answer = str(typer.prompt(question, default=default)).strip()
        try:
            return check(answer)
        except (RecipeError, ValueError, OSError) as error:
            typer.echo(f"  {visible(str(error))}")


def _target(recipe: str) -> Path:
    """The file that is to be written.

    Raises:
        RecipeError: its name is none for a recipe.
    """
    path = Path(os.path.expanduser(recipe))
    if path.suffix not in (".yaml", ".yml") or path.stem == LATEST:
        name = as_name(path.stem)
        raise RecipeError(
            f"RECIPE must be a new file FILE.yaml, got {recipe!r}; write {name if name != LATEST else 'recipe'}.yaml"
        )
    if as_name(path.stem) != path.stem:
        raise RecipeError(
            f"RECIPE must be called by letters, digits, '.', '_' and '-', 100 at most, as its runs are called after it, got {recipe!r}; "
            f"write {path.with_name(as_name(path.stem) + path.suffix)}"
        )
    target = Path.cwd() / path
    nearest = next(folder for folder in target.parents if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        why = "can't be written" if nearest.is_dir() else "is a file"
        raise RecipeError(f"RECIPE must be a file that can be written, got {target}, where {nearest} {why}; name another")
    return target


def _new_target(recipe: str) -> Path:
    target = _target(recipe)
    _refuse_existing(target)
    return target


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise RecipeError(f"RECIPE must be a new file, got {target}, which is there; name another, or delete it")


def _proposed(data: str) -> str:
    """The recipe's name where none is given: the data's."""
    name = as_name(Path(data.rstrip("/")).name.partition(".")[0])
    return f"{name if name != LATEST else 'recipe'}.yaml"


def _look(data: str, split: str | None, source: str | None, *, ask: bool = False) -> tuple[Seen | None, Reading]:
    """What was seen of the data, and the source that is to read them; prints both. With `ask` one chooses among several sources.

    Raises:
        RecipeError: nothing is there, or no source reads the rows.
    """
    refuse_password("--data", data)
    if source is not None:
        source = plugin(SOURCES, source, "--source")
        load_preferences(source)
    try:
        path = data if "://" in data else str(find_path(data, "--data"))
    except RecipeError:
        if not is_hub_id(data):
            raise
        if source is None:
            if not ask:
                raise RecipeError(
                    f"--source must say what the data set {data} of a hub is, which isn't looked at, got nothing; add one of "
                    f"{', '.join(_preferences())} (docs/data.md)"
                ) from None
            source = _answer("Source, as docs/data.md has them", "pairs", lambda answer: plugin(SOURCES, answer, "the source"))
        return None, Reading(source, load(SOURCES, source).GIVES, {}, 0, 0, (), 0)
    try:
        seen = look(path, split)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    print(visible(about(data, seen.kind, _number(seen), seen.columns)))
    if not seen.num_read:
        raise RecipeError(f"--data must hold rows, got {data} with none; name the file or folder that has them")
    of_source = [one for one in seen.readings if source in (None, one.source)]
    if not of_source:
        reasons = "; ".join(f"{one.source}{_renamed(one)}: {one.reason}" for one in seen.nearest[:3])
        what = f"the source {source}" if source else "one of the sources"
        raise RecipeError(
            f"--data must hold preferences that {what} reads, got {data} with columns {', '.join(seen.columns)}"
            + (f" ({reasons})" if reasons else "")
            + "; docs/data.md has what each source reads; rename the columns, or write a recipe that says which is which, such as "
            + f"data: {{source: pairs, path: {data}, columns: {{prompt: NAME, chosen: NAME, rejected: NAME}}}}, or of thumbs "
            + "columns: {prompt: NAME, completion: NAME, label: NAME}; prompts alone are sampled from: "
            + f"sample: {{source: prompts, path: {data}}}"
        )
    reading = of_source[0]
    others = list(dict.fromkeys(one.source for one in of_source[1:]))
    print(visible(_as_read(reading, seen)) + (f"; also possible: {', '.join(others)}" if others else ""))
    if ask and others:
        choices = {one.source: one for one in reversed(of_source)}
        chosen = _answer("Read them as", reading.source, lambda answer: plugin(SOURCES, answer, "the source"))
        reading = choices.get(chosen, Reading(chosen, load_preferences(chosen).GIVES, {}, 0, 0, (), 0))
    return seen, reading


def _as_read(reading: Reading, seen: Seen) -> str:
    which = f"{reading.num_rows} of {'' if seen.num_read == seen.num_rows else 'the first '}{seen.num_read} rows"
    unread = f"; not read: {', '.join(map(written, reading.unread))}" if reading.unread else ""
    bad = f"; not {reading.reason}" if reading.num_rows < seen.num_read else ""
    return f"read as {reading.source}{_renamed(reading)}: {which}, {reading.num_prompts} prompts{unread}{bad}"


def _renamed(reading: Reading) -> str:
    columns = ", ".join(f"{role}: {written(column)}" for role, column in reading.columns.items())
    return f" with {columns}" if columns else ""


def _number(seen: Seen) -> str:
    return f"more than {seen.num_rows:,}" if seen.more else f"{seen.num_rows:,}"


def _preferences() -> list[str]:
    return [name for name in names(SOURCES) if load(SOURCES, name).GIVES not in ("problems", "prompts")]


def _default_model() -> str | None:
    return _MODEL if (ROOT / _MODEL).is_dir() else None


def _model_there(name: str) -> str:
    """The model's name. Raises RecipeError where it is no folder and can't be a hub id."""
    try:
        find_path(name, "the model")
    except RecipeError:
        if name.startswith((".", "/", "~", "models/")) or name.count("/") != 1:
            raise
    return name


def _fitting(reading: Reading) -> list[str]:
    """The objectives that learn from such data, the project's own first, without those for a policy's own samples."""
    scored = reading.gives == "ratings" or reading.num_scores > 0
    found = []
    for name in names(OBJECTIVES):
        objective = load_objective(name)
        if objective.needs_every_sample or (objective.needs_pairs and reading.gives == "labels"):
            continue
        if scored or not objective.needs_scores:
            found.append(name)
    return sorted(found, key=lambda name: name != "bnf")


def _scored() -> list[str]:
    """The benchmarks that a rule scores."""
    return [name for name in names(BENCHMARKS) if not load(BENCHMARKS, name).FORMS]


def _judge(answer: str | None) -> str | None:
    return None if answer is None or answer.strip().lower() in ("", _NONE) else answer


def _names(text: str) -> list[str]:
    if text.strip().lower() == _NONE:
        return []
    return [plugin(BENCHMARKS, name.strip(), "the benchmarks") for name in text.split(",") if name.strip()]


def _wanted(asked: Asked, answers: _Answers) -> Wanted:
    seen, reading, target, judge = answers.seen, answers.reading, answers.target, answers.judge
    prompts = round(seen.num_rows * reading.num_prompts / seen.num_read) if seen is not None and reading.num_rows else None
    remote = judge is not None and "/" not in judge and not Path(judge).exists()
    return Wanted(
        model=_as_path(answers.model, target),
        data=_as_path(answers.data, target),
        source=reading.source,
        gives=reading.gives,
        objective=answers.objective,
        columns=reading.columns,
        split=asked.split,
        limit=asked.limit,
        system_prompt=asked.system_prompt,
        engine=plugin(ENGINES, asked.engine, "--engine") if asked.engine is not None else None,
        benchmarks=tuple(dict.fromkeys(answers.benchmarks)),
        samples=frozenset(name for name in names(BENCHMARKS) if sample_file(name).exists()),
        judge=judge if judge is None or remote else _as_path(judge, target),
        judge_is_remote=remote,
        judge_is_demonstration=judge is not None and Path(judge).name == Path(_MODEL).name,
        about_data=about(answers.data, seen.kind, _number(seen), seen.columns) if seen else "",
        num_prompts=prompts,
        small_model=_is_small(answers.model),
    )


def _as_path(path: str, target: Path) -> str:
    """A path as the recipe has it: as it was given where that means the same beside the recipe, else absolute."""
    given = Path(path)
    if "://" in path or path.startswith("~") or given.is_absolute() or not given.exists() or target.parent == Path.cwd():
        return path
    return str(given.absolute())


def _is_small(model: str) -> bool | None:
    try:
        return hub.weights_bytes(find_path(model)) < _LARGE_BYTES
    except RecipeError:
        return None
