"""From a recipe to the DAG's nodes: which part of the recipe each stage reads, and from which stages it takes its inputs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from bnf.plugins import load, own_names
from data.parse import columns_of
from data.reading.files import as_local
from data.reading.records import DataSource, is_hub_id
from evaluation.benchmarks import BENCHMARKS
from evaluation.benchmarks import Benchmark as BenchmarkFile
from evaluation.engines import is_remote
from flows.dag.on_policy import BASE, data_nodes, policy_node, rounds, training_nodes
from flows.dag.parts import (
    endpoint,
    engine_settings,
    judge_nodes,
    judge_settings,
    keyed,
    plugin,
    resolve_node,
    source_files,
    source_kind,
    url_version,
)
from flows.errors import RecipeError
from flows.recipe.config import Recipe
from flows.recipe.paths import portable
from flows.recipe.sections import Benchmark, JudgedBenchmark, JudgeModel
from tasks.keys import LIBRARIES, ROOT, digest, package_version
from tasks.nodes import Node
from tasks.store import file_sha256

EVALUATION_STAGES = ("resolve", "generate", "lm_eval", "score", "cross_check", "judge", "contamination", "report")
STAGES = ("resolve", "sample", "label", "measure", "prepare", "reference", "train", "analyze", *EVALUATION_STAGES[1:])
# What runs the model, in the engine process that all of a model's tasks share.
ENGINE_STAGES = ("generate", "lm_eval")
# What of a benchmark decides its scores.
_SCORING = ("score", "second_metrics", "GROUPS")


def build(recipe: Recipe) -> list[Node]:
    """The DAG of a recipe in the order of execution.

    Raises:
        RecipeError: unknown objective, source, labeler, benchmark or file, each with what there is.
    """
    nodes = [resolve_node("base", recipe.model_name_or_path, recipe.revision, recipe, "model_name_or_path")]
    if recipe.train is not None:
        nodes += _alignment(recipe)
    models = ["base", *(["aligned"] if recipe.train is not None else [])]
    evaluated = _evaluation(recipe, models)
    judged = _judged(recipe, models)
    # All that a model generates follows one another, so that it shares one engine.
    nodes += [node for model in models for node in (*evaluated, *judged) if node.stage in ENGINE_STAGES and node.model == model]
    nodes += [node for node in (*evaluated, *judged) if node.stage not in ENGINE_STAGES]
    nodes.append(_report(recipe, nodes))
    return nodes


def _alignment(recipe: Recipe) -> list[Node]:
    assert recipe.train is not None
    offline = _prepare_sources(recipe) if recipe.data else None
    if recipe.sample is not None:
        nodes = rounds(recipe, offline)
    else:
        assert offline is not None
        nodes = [offline, *training_nodes(recipe, None, {"model": BASE}, BASE, offline.id)]
    # Before the last training: what is found there may be a reason not to train.
    last = next(place for place, node in enumerate(nodes) if node.id == data_nodes(recipe)[-1])
    nodes[last + 1 : last + 1] = _contamination(recipe)
    trained = next(node for node in nodes if node.id == policy_node(recipe))
    # What the last training changed, on its own data.
    reads = {"policy": trained.id, **{role: trained.inputs[role] for role in ("data", "reference")}}
    return [*nodes, Node("analyze", recipe.train_config().row_settings(), reads)]


def _prepare(recipe: Recipe) -> dict[str, Any]:
    return {"prepare": {**recipe.prepare.model_dump(exclude={"num_proc"}), "seed": recipe.seed, "date": recipe.date}}


def _num_proc(recipe: Recipe) -> dict[str, Any]:
    return {"num_proc": recipe.prepare.num_proc}


def _prepare_sources(recipe: Recipe) -> Node:
    """Preparation of the recipe's `data`: of local files the content counts, of a URL what its server says of it, of a hub's set its
    name and revision."""
    settings, files = [], {}
    for number, one in enumerate(recipe.sources()):
        key = f"data.{number}" if isinstance(recipe.data, list) else "data"
        source = plugin("data.sources", one.source, f"{key}.source")
        given = {**one.model_dump(exclude={"path"}), "source": source}
        settings.append(given)
        try:
            columns_of(DataSource(source, one.path, one.columns))
        except ValueError as error:
            raise RecipeError(keyed(error, "data", key)) from error
        path = as_local(one.path)
        if "://" in path:
            settings[-1] |= {"path": path, "version": url_version(f"{key}.path", path)}
            continue
        try:
            files[f"source{number}"] = recipe.find(f"{key}.path", path)
        except RecipeError:
            if not is_hub_id(one.path):
                raise
            settings[-1] |= {"path": one.path}
    plugins = dict.fromkeys(f"data.sources.{given['source']}" for given in settings)
    given = {**_prepare(recipe), "sources": settings}
    # Beside sampled groups it is a node of its own.
    name = "offline" if recipe.sample is not None else None
    return Node("prepare", given, {"model": BASE}, list(plugins), files, _num_proc(recipe), model=name)


def _contamination(recipe: Recipe) -> list[Node]:
    """One check per benchmark, of all its items: a limit changes nothing here."""
    judged = recipe.judge.benchmarks if recipe.judge else {}
    nodes = []
    for name, benchmark in {**recipe.evaluation.benchmarks, **judged}.items():
        section = "judge" if isinstance(benchmark, JudgedBenchmark) else "evaluation"
        module = plugin("evaluation.benchmarks", name, f"{section}.benchmarks")
        nodes.append(
            Node(
                "contamination",
                {"benchmark": name, "source": source_kind(name, benchmark)},
                {f"data{number}" if number else "data": node for number, node in enumerate(data_nodes(recipe))},
                [f"evaluation.benchmarks.{module}:load"],
                files=source_files(name, benchmark, recipe),
                benchmark=name,
            )
        )
    return nodes


def _evaluation(recipe: Recipe, models: list[str]) -> list[Node]:
    settings = recipe.evaluation
    nodes = []
    for name, benchmark in settings.benchmarks.items():
        module = _benchmark(name, "evaluation.benchmarks")
        if not own_names(module, ["score"]):
            raise RecipeError(
                f"evaluation.benchmarks must be scored by a rule, got {name}, which a judge scores; put it under judge"
            )
        engine = engine_settings(settings.engine, settings.base_url, settings.model)
        nodes += [_generate(model, name, benchmark, engine, settings.max_new_tokens, recipe) for model in models]
        for model in models:
            asked = {"benchmark": name, "source": source_kind(name, benchmark), "limit": benchmark.limit}
            reads = {"completions": f"generate/{model}/{name}"}
            nodes.append(Node("score", asked, reads, [_part(name, *_SCORING)], model=model, benchmark=name))
            if settings.cross_check and module.LM_EVAL_TASKS:
                nodes.append(_cross_check(model, name))
    return nodes + [_lm_eval(recipe, model, name) for model in models for name in settings.lm_eval]


def _benchmark(name: str, key: str) -> BenchmarkFile:
    return load(BENCHMARKS, plugin("evaluation.benchmarks", name, key))


def _part(benchmark: str, *names: str) -> str:
    """The part of a benchmark's code that these of its names make up, as far as it has them."""
    return f"evaluation.benchmarks.{benchmark}:{','.join(own_names(load(BENCHMARKS, benchmark), names))}"


def _cross_check(model: str, benchmark: str) -> Node:
    return Node(
        "cross_check",
        {"benchmark": benchmark, **_lm_eval_versions()},
        {"completions": f"generate/{model}/{benchmark}", "scores": f"score/{model}/{benchmark}"},
        [_part(benchmark, "LM_EVAL_TASKS", "LM_EVAL_MAIN", "lm_eval_document")],
        model=model,
        benchmark=benchmark,
    )


def _lm_eval(recipe: Recipe, model: str, name: str) -> Node:
    evaluation = recipe.evaluation
    folder = None
    if evaluation.lm_eval_include_path is not None:
        folder = recipe.find("evaluation.lm_eval_include_path", evaluation.lm_eval_include_path)
    if folder is not None and not folder.is_dir():
        raise RecipeError(
            f"evaluation.lm_eval_include_path must be a folder of task definitions, got {folder}; name its folder"
        )
    engine = engine_settings(evaluation.engine, evaluation.base_url, evaluation.model)
    # Definitions are files of any name and depth, and so no input by role: their content is part of the settings.
    settings = {
        "task": name,
        **evaluation.lm_eval[name].model_dump(),
        "engine": engine,
        **_lm_eval_versions(),
        "definitions": folder_digest(folder) if folder is not None else None,
        "date": recipe.date,
    }
    return Node(
        "lm_eval",
        settings,
        {"model": policy_node(recipe) if model == "aligned" else f"resolve/{model}"},
        [f"evaluation.engines.{engine['name']}"],
        unkeyed={"include_path": str(folder) if folder is not None else None},
        model=model,
        benchmark=name,
        session=f"generate/{model}",
    )


def _lm_eval_versions() -> dict[str, Any]:
    """lm-eval's version, and those of what its tasks on mathematics compare answers with."""
    return {
        "lm_eval": package_version("lm-eval"),
        "libraries": {package: package_version(package) for package in LIBRARIES["math_verify"]},
    }


def folder_digest(folder: Path) -> str:
    """The content of a folder's files, by their names within it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return digest({path.relative_to(folder).as_posix(): file_sha256(path) for path in files})


def _judged(recipe: Recipe, models: list[str]) -> list[Node]:
    judge = recipe.judge
    if judge is None:
        return []
    nodes = []
    engine = engine_settings(recipe.evaluation.engine, recipe.evaluation.base_url, recipe.evaluation.model)
    for name, benchmark in judge.benchmarks.items():
        if not _benchmark(name, "judge.benchmarks").FORMS:
            raise RecipeError(f"judge.benchmarks must be judged ones, got {name}, which has a scorer; put it under evaluation")
        nodes += [_generate(model, name, benchmark, engine, judge.max_new_tokens, recipe) for model in models]
    # The benchmarks of one judge follow one another, so that they share its engine.
    for role, one in (("judge", judge), ("second", judge.second)):
        if one is None:
            continue
        resolved, reads = judge_nodes(role, one, recipe, "judge" if role == "judge" else f"judge.{role}")
        nodes += resolved
        for name, benchmark in judge.benchmarks.items():
            for form in _forms(name, benchmark):
                nodes.append(_judge(recipe, role, one, name, form, models, reads))
    return nodes


def _forms(name: str, benchmark: JudgedBenchmark) -> list[str]:
    """The forms a benchmark is judged in; the first is its own."""
    own = list(load(BENCHMARKS, name).FORMS)
    asked = [
        plugin("evaluation.judging.protocols", form, f"judge.benchmarks.{name}.forms") for form in benchmark.forms or own[:1]
    ]
    unfit = [form for form in asked if form not in own]
    if unfit:
        raise RecipeError(f"judge.benchmarks.{name}.forms must be among {', '.join(own)}, got {unfit[0]}; correct it")
    return asked


def _judge(recipe: Recipe, role: str, one: JudgeModel, name: str, form: str, models: list[str], reads: dict[str, str]) -> Node:
    judge = recipe.judge
    assert judge is not None
    benchmark = judge.benchmarks[name]
    compares = importlib.import_module(f"evaluation.judging.protocols.{form}").COMPARES
    files = {}
    if compares and benchmark.baseline is not None:
        files["baseline"] = recipe.find(f"judge.benchmarks.{name}.baseline", benchmark.baseline)
    elif compares and "aligned" not in models:
        raise RecipeError(
            f"judge.benchmarks.{name}.baseline must be a file of recorded answers in a recipe without train, got none; name one"
        )
    if benchmark.references is not None:
        files["references"] = recipe.find(f"judge.benchmarks.{name}.references", benchmark.references)
    # The base model's answers are the baseline where no others are.
    judged = ["aligned"] if compares and "baseline" not in files else models
    inputs = {f"answers_{model}": f"generate/{model}/{name}" for model in models}
    variant = "-".join(
        part for part in (role if role != "judge" else "", form if form != _forms(name, benchmark)[0] else "") if part
    )
    settings = {
        "benchmark": name,
        "source": source_kind(name, benchmark),
        "limit": benchmark.limit,
        "form": form,
        "models": judged,
        "demonstration": judge.demonstration,
        "orders": judge.orders,
        "max_new_tokens": judge.max_new_tokens,
        **judge_settings(one, recipe.date),
    }
    code = [f"evaluation.benchmarks.{name}", f"evaluation.judging.protocols.{form}"]
    if one.engine != "reward_model":
        code.append(f"evaluation.engines.{one.engine}")
    return Node(
        "judge",
        settings,
        {**inputs, **reads},
        code,
        files=files,
        unkeyed=endpoint(one, recipe),
        model=variant or None,
        benchmark=name,
        session=f"judge/{role}",
    )


def _generate(
    model: str, name: str, benchmark: Benchmark, engine: dict[str, Any], max_new_tokens: int | None, recipe: Recipe
) -> Node:
    module = load(BENCHMARKS, name)
    limits = [module.MAX_NEW_TOKENS, *([max_new_tokens] if max_new_tokens else [])]
    # What decides the completions; a conversation of several turns is sampled at its own temperature.
    return Node(
        "generate",
        {
            "benchmark": name,
            "source": source_kind(name, benchmark),
            "limit": benchmark.limit,
            "max_new_tokens": min(limits),
            "engine": engine,
            # An endpoint's server has a template, and a clock, of its own.
            **({} if is_remote(engine["name"]) else {"date": recipe.date}),
        },
        {"model": policy_node(recipe) if model == "aligned" else f"resolve/{model}"},
        [_part(name, "load", "messages", "temperature", "NUM_TURNS"), f"evaluation.engines.{engine['name']}"],
        files=source_files(name, benchmark, recipe),
        unkeyed={"spending": recipe.spending.model_dump()} if is_remote(engine["name"]) else {},
        model=model,
        benchmark=name,
        session=f"generate/{model}",
    )


def _report(recipe: Recipe, nodes: list[Node]) -> Node:
    models = {node.model: node.settings["model_name_or_path"] for node in nodes if node.stage == "resolve"}
    # The recipe is shown in the report, and so is part of its key.
    settings = {"recipe": portable(recipe).model_dump(), "models": models}
    templates = sorted((ROOT / "evaluation" / "report" / "templates").iterdir())
    # How numbers are shown is in no other stage's key. Templates are no Python: as files they are part of the key all the same.
    return Node(
        "report",
        settings,
        {node.id: node.id for node in nodes},
        ["evaluation.formats"],
        {path.name: path for path in templates},
    )
