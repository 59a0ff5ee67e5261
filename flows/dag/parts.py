"""Parts of nodes that several stages share: models, engines, judges, the items of benchmarks, and names of plug-ins."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path

from bnf.nearest import did_you_mean
from bnf.plugins import Kind, T, load, names, own_names
from evaluation.benchmarks import BENCHMARKS
from evaluation.engines import ENGINES, is_remote
from flows.errors import RecipeError
from flows.recipe.benchmark_sections import Benchmark, JudgedBenchmark
from flows.recipe.config import Recipe
from flows.recipe.judge_sections import JudgeModel
from flows.recipe.paths import in_project, portable
from flows.recipe.sections import DRAWN
from tasks.job import Settings
from tasks.keys import ROOT, digest, package_version
from tasks.names import Role, TaskName
from tasks.nodes import Node

_NONE: Mapping[str, object] = {}


def resolve_node(
    role: Role,
    name: str,
    revision: str | None,
    recipe: Recipe,
    key: str,
    *,
    template: str | None = None,
    values: Mapping[str, object] = _NONE,
    unkeyed: Settings = _NONE,
) -> Node:
    """The node that finds or fetches the model of a role.

    Args:
        key: where the recipe names the model.
        template: a file with the chat template that it gets in the place of its own.
        values: of the template's variables.
        unkeyed: what the stage is told besides.
    """
    try:
        folder: Path | None = recipe.find(key, name)
    except RecipeError:
        # A hub id has exactly one slash; anything else is a path that isn't there.
        if name.startswith((".", "/", "~", "models/")) or name.count("/") != 1:
            raise
        folder = None
    settings: Settings = {"model_name_or_path": in_project(name), "revision": revision}
    # Keys of recipes without them have no part for them.
    settings = {**settings, **({"chat_template_kwargs": dict(values)} if values else {})}
    files = {"model": folder} if folder else {}
    if template is not None:
        files["template"] = recipe.find("chat_template", template)
    # What the stage says of the model's keys begins with their section.
    section = key.removesuffix("model_name_or_path")
    return Node("resolve", settings, files=files, role=role, unkeyed={**unkeyed, **({"section": section} if section else {})})


def base_node(recipe: Recipe) -> Node:
    """The node of the model that the recipe names. Where nothing is trained, it may be a policy, which is served as it was trained."""
    served = {"served": conversation_settings(recipe)} if recipe.train is None else {}
    return resolve_node(
        "base",
        recipe.model_name_or_path,
        recipe.revision,
        recipe,
        "model_name_or_path",
        template=recipe.chat_template,
        values=recipe.chat_template_kwargs,
        unkeyed=served,
    )


def conversation_settings(recipe: Recipe) -> Settings:
    """What conversations are rendered with besides the chat template."""
    return {"system_prompt": recipe.system_prompt, "date": recipe.date}


def judge_nodes(role: Role, judge: JudgeModel, recipe: Recipe, key: str) -> tuple[list[Node], dict[str, str]]:
    """The nodes that resolve a local judge, and the input under which a node reads it; `key` is the judge's section."""
    if judge.model_name_or_path is None:
        return [], {}
    told = recipe.chat_template is not None or recipe.chat_template_kwargs or judge.chat_template_kwargs
    if judge.model_name_or_path == recipe.model_name_or_path and not told:
        return [], {"judge": TaskName("resolve", role="base").id}
    # The recipe's own model is of the recipe's revision.
    revision = recipe.revision if judge.model_name_or_path == recipe.model_name_or_path else None
    values = judge.chat_template_kwargs
    node = resolve_node(role, judge.model_name_or_path, revision, recipe, f"{key}.model_name_or_path", values=values)
    return [node], {"judge": node.id}


def session(stage: str, role: Role) -> str:
    """The name of the child process that all nodes of one model or judge share, and so its engine."""
    return f"{stage}/{role}"


def judge_settings(judge: JudgeModel, date: str) -> Settings:
    """The settings that decide a judge's verdicts; `date` is the day that the chat template is told, where it is applied here."""
    if judge.engine == "reward_model":
        engine: Settings = {"name": "reward_model", "version": importlib.metadata.version("transformers")}
    else:
        engine = engine_settings(judge.engine, judge.base_url, judge.model, judge.max_model_len, judge.chat_template_kwargs)
        if is_remote(judge.engine):
            engine = {**engine, "api": judge.api}
    return {
        "judge_name": judge.name,
        "engine": engine,
        "verdict": judge.said,
        "max_judgment_tokens": judge.max_judgment_tokens,
        # Keys of recipes without them have no part for them.
        **({"think_tokens": judge.think_tokens} if judge.think_tokens is not None else {}),
        **({} if is_remote(judge.engine) else {"date": date}),
    }


def judge_place(judge: JudgeModel, recipe: Recipe) -> Settings:
    """The settings that change no verdict: where a local judge computes; how an endpoint is reached, and what it may cost."""
    if not is_remote(judge.engine):
        return dict(judge.placement())
    connection = {name: getattr(judge, name) for name in ("api_version", "max_concurrency", "max_retries", "timeout_s")} | {
        "api_key_variable": judge.key_variable
    }
    return {
        "connection": connection,
        "spending": recipe.spending.model_dump(),
        # The preflight can't read it: there may be no Prefect server yet.
        "key_in_block": judge.api_key_block is not None,
    }


def source_kind(name: str, benchmark: Benchmark) -> str:
    """Where a benchmark's items come from: `own`, `hub`, `sample` or `file`. Of a file the content is part of the key, not the path."""
    if benchmark.source is None:
        return "own" if load(BENCHMARKS, name).MAKES_ITS_ITEMS else "hub"
    return "sample" if benchmark.source == "sample" else "file"


def source_files(name: str, benchmark: Benchmark, recipe: Recipe) -> dict[str, Path]:
    if source_kind(name, benchmark) == "file":
        assert benchmark.source is not None
        section = "judge" if isinstance(benchmark, JudgedBenchmark) else "evaluation"
        return {"source": recipe.find(f"{section}.benchmarks.{name}.source", benchmark.source)}
    sample = sample_file(name)
    return {"source": sample} if benchmark.source == "sample" and sample.exists() else {}


def sample_file(benchmark: str) -> Path:
    """Where the project's own items of a benchmark are, if there are some."""
    return ROOT / "evaluation" / "benchmarks" / "samples" / f"{benchmark}.jsonl"


@functools.cache
def _engine_version(packages: tuple[str, ...]) -> str | None:
    """As `package_version`, which reads a whole file each time: the plan of a sweep asks a thousand times."""
    return package_version(*packages)


def engine_settings(
    name: str,
    base_url: str | None = None,
    model: str | None = None,
    max_model_len: int | None = None,
    values: Mapping[str, object] = _NONE,
) -> Settings:
    """The settings of an engine that are part of a key: name and version, and the longest text; of an endpoint its address, the model
    there, and the values of its chat template's variables. A model that runs here has those in its own template."""
    file = load(ENGINES, name)
    engine = {"name": name, "version": _engine_version(tuple(file.PACKAGES))}
    if file.REMOTE:
        told = {"chat_template_kwargs": dict(values)} if values else {}
        return {**engine, "base_url": base_url, "model": model, **told}
    return engine if max_model_len is None else {**engine, "max_model_len": max_model_len}


def evaluation_engine(recipe: Recipe) -> Settings:
    """Of the engine that generates the models' completions."""
    section = recipe.evaluation
    return engine_settings(section.engine, section.base_url, section.model, section.max_model_len, recipe.chat_template_kwargs)


def plugin(kind: Kind[T], name: str, key: str, members: Sequence[str] = ()) -> str:
    """The plug-in that a name in a recipe stands for: `-` and `_` are the same.

    Args:
        key: the recipe's key, or the argument of a command.
        members: functions that those have which the message names.

    Raises:
        RecipeError: there is none of that name; with those that there are, and the file that would add it.
    """
    module = name.replace("-", "_")
    if module not in names(kind):
        known = [one for one in names(kind) if set(own_names(load(kind, one), members)) == set(members)]
        hint = f"{meant} " if (meant := did_you_mean(module, known)) else ""
        new = (
            f"a new one is a file {kind.package.replace('.', '/')}/{module}.py" if module.isidentifier() else "correct the name"
        )
        raise RecipeError(f"{key} must be among {', '.join(known)}, got {name!r}; {hint}{new}")
    return module


def benchmark_code(benchmark: str, *members: str) -> str:
    """The part of a benchmark's code that these of its members make up, as far as its file has them."""
    return f"evaluation.benchmarks.{benchmark}:{','.join(own_names(load(BENCHMARKS, benchmark), members))}"


def keyed(error: Exception, section: str, key: str) -> str:
    """A reader's message with the key that the recipe has: `data.1.path` where the reader, which knows one source, says `data.path`."""
    said = str(error)
    return said.replace(f"{section}.", f"{key}.", 1) if said.startswith(f"{section}.") else said


def url_version(key: str, url: str) -> str:
    """The version of a URL's content, from what its server says: size, time, tag. For a folder, from what it says of all files.

    Raises:
        RecipeError: the URL doesn't answer.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
        if system.info(path).get("type") == "directory":
            return digest({name: str(system.ukey(name)) for name in system.find(path)})
        return str(system.ukey(path))
    except (OSError, ValueError, ImportError) as error:
        raise RecipeError(
            f"{key} must be a URL that answers, got {url} ({type(error).__name__}: {error}); correct it"
        ) from error


def shown_recipe(recipe: Recipe) -> Settings:
    """The recipe as the report shows it; without the keys that came later where nobody sets them, as a report has all that it shows in
    its key."""
    shown = portable(recipe).model_dump(exclude={"resources", "ray"})
    unset = {"system_prompt"} if recipe.system_prompt is None else set()
    unset |= {name for name in ("chat_template", "chat_template_kwargs", "think_tokens") if not getattr(recipe, name)}
    unset |= {"reference"} if recipe.chosen_reference() is None else set()
    shown = {name: value for name, value in shown.items() if name not in unset}
    if not any(map(recipe.evaluation.sampling, recipe.evaluation.benchmarks.values())):
        for section in (shown["evaluation"], *shown["evaluation"]["benchmarks"].values()):
            for name in DRAWN:
                section.pop(name)
    if recipe.evaluation.max_thinking_tokens is None:
        shown["evaluation"].pop("max_thinking_tokens")
    judge = shown["judge"] or {}
    for one in (judge, judge.get("second") or {}, (shown["label"] or {}).get("judge") or {}):
        for name in ("chat_template_kwargs", "think_tokens"):
            if not one.get(name):
                one.pop(name, None)
    for source in shown["data"] if isinstance(shown["data"], list) else [shown["data"] or {}]:
        if source.get("limit") is None:
            source.pop("limit", None)
    return shown
