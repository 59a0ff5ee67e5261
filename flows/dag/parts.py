"""What several nodes of the DAG are made from: models, engines, judges, benchmarks' items, and names of plugin files."""

from __future__ import annotations

import difflib
import importlib.metadata
from pathlib import Path
from typing import Any

from bnf.plugins import load
from evaluation.benchmarks import BENCHMARKS
from evaluation.engines import ENGINES, is_remote
from flows.errors import RecipeError
from flows.recipe.config import Recipe
from flows.recipe.paths import in_project
from flows.recipe.sections import Benchmark, JudgedBenchmark, JudgeModel
from tasks.keys import ROOT, digest, package_version
from tasks.nodes import Node


def resolve_node(model: str, name: str, revision: str | None, recipe: Recipe, key: str) -> Node:
    """The node that makes a model's folder known; `key` is where the recipe names the model."""
    try:
        folder: Path | None = recipe.find(key, name)
    except RecipeError:
        # A hub id has one slash and is no path that could be mistyped.
        if name.startswith((".", "/", "~", "models/")) or name.count("/") != 1:
            raise
        folder = None
    settings = {"model_name_or_path": in_project(name), "revision": revision}
    return Node("resolve", settings, files={"model": folder} if folder else {}, model=model)


def judge_nodes(role: str, judge: JudgeModel, recipe: Recipe, key: str) -> tuple[list[Node], dict[str, str]]:
    """The nodes that resolve a local judge, and where a judge node reads it; `key` is the judge's section."""
    if judge.model_name_or_path is None:
        return [], {}
    if judge.model_name_or_path == recipe.model_name_or_path:
        return [], {"judge": "resolve/base"}
    return [resolve_node(role, judge.model_name_or_path, None, recipe, f"{key}.model_name_or_path")], {
        "judge": f"resolve/{role}"
    }


def judge_settings(judge: JudgeModel, date: str) -> dict[str, Any]:
    """What of a judge decides its verdicts; `date` is what a chat template that is applied here is told."""
    if judge.engine == "reward_model":
        engine: dict[str, Any] = {"name": "reward_model", "version": importlib.metadata.version("transformers")}
    else:
        engine = engine_settings(judge.engine, judge.base_url, judge.model)
        if is_remote(judge.engine):
            engine |= {"api": judge.api}
    return {
        "judge_name": judge.name,
        "engine": engine,
        "verdict": judge.said,
        "max_judgment_tokens": judge.max_judgment_tokens,
        **({} if is_remote(judge.engine) else {"date": date}),
    }


def endpoint(judge: JudgeModel, recipe: Recipe) -> dict[str, Any]:
    """How an endpoint is spoken to and what it may cost; it changes no verdict."""
    if not is_remote(judge.engine):
        return {}
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
    """`own`, `hub`, `sample` or `file`: where a file lies is no part of a key, its content is."""
    if benchmark.source is None:
        return "own" if load(BENCHMARKS, name).MAKES_ITS_ITEMS else "hub"
    return "sample" if benchmark.source == "sample" else "file"


def source_files(name: str, benchmark: Benchmark, recipe: Recipe) -> dict[str, Path]:
    if source_kind(name, benchmark) == "file":
        assert benchmark.source is not None
        section = "judge" if isinstance(benchmark, JudgedBenchmark) else "evaluation"
        return {"source": recipe.find(f"{section}.benchmarks.{name}.source", benchmark.source)}
    sample = ROOT / "evaluation" / "benchmarks" / "samples" / f"{name}.jsonl"
    return {"source": sample} if benchmark.source == "sample" and sample.exists() else {}


def engine_settings(name: str, base_url: str | None = None, model: str | None = None) -> dict[str, Any]:
    """An engine's part of a key: its name, its version, and for an endpoint which one and which model there."""
    file = load(ENGINES, name)
    engine: dict[str, Any] = {"name": name, "version": package_version(*file.PACKAGES)}
    return {**engine, "base_url": base_url, "model": model} if file.REMOTE else engine


def plugin(package: str, name: str, key: str = "") -> str:
    """A name in a recipe as the module it stands for: `-` and `_` are the same. `key` is where the name stands.

    Raises:
        RecipeError: naming what there is, and the file that would add it.
    """
    module = name.replace("-", "_")
    folder = ROOT.joinpath(*package.split("."))
    known = sorted(path.stem for path in folder.glob("[!_]*.py"))
    if module not in known:
        nearest = difflib.get_close_matches(module.lower(), known, n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        new = f"a new one is a file {package.replace('.', '/')}/{module}.py" if module.isidentifier() else "correct the name"
        raise RecipeError(f"{key or package.rsplit('.', 1)[-1]} must be among {', '.join(known)}, got {name!r}; {hint}{new}")
    return module


def keyed(error: Exception, section: str, key: str) -> str:
    """The message of a reader, which calls its section by one name, with the key under which this recipe has it."""
    said = str(error)
    return said.replace(f"{section}.", f"{key}.", 1) if said.startswith(f"{section}.") else said


def url_version(key: str, url: str) -> str:
    """What the place of a URL says of its content: a size, a time, a tag, as its file system has it; of a folder, each file's."""
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
