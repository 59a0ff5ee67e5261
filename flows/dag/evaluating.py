"""The tasks that evaluate models: by benchmarks with a rule, by lm-eval's tasks, and by judges."""

from __future__ import annotations

from pathlib import Path

from bnf.plugins import load, own_names
from evaluation.benchmarks import BENCHMARKS, most_new_tokens
from evaluation.benchmarks import Benchmark as BenchmarkFile
from evaluation.engines import is_remote
from evaluation.judging.answers import ANSWERS_FORM
from evaluation.judging.protocols import PROTOCOLS
from flows.dag import hub
from flows.dag.on_policy import BASE, policy_node
from flows.dag.parts import (
    benchmark_code,
    evaluation_engine,
    judge_nodes,
    judge_place,
    judge_settings,
    plugin,
    session,
    source_files,
    source_kind,
    source_settings,
)
from flows.errors import RecipeError
from flows.recipe.benchmark_sections import Benchmark, JudgedBenchmark
from flows.recipe.config import Recipe
from flows.recipe.judge_sections import JudgeModel
from tasks.job import Settings
from tasks.keys import LIBRARIES, digest, package_version
from tasks.manifest import file_sha256
from tasks.names import Role, TaskName
from tasks.nodes import Node

# What of a benchmark decides its scores; and of several samples the majority's.
_SCORING = ("score", "second_metrics", "GROUPS")
_MAJORITY = ("same_answer", "HAS_MAJORITY")
_NONE: Settings = {}


def evaluation_nodes(recipe: Recipe, models: list[Role]) -> list[Node]:
    """The nodes that generate, score and cross-check by benchmarks with a rule, and by lm-eval's tasks."""
    settings = recipe.evaluation
    nodes = []
    for name, benchmark in settings.benchmarks.items():
        module = _benchmark(name, "evaluation.benchmarks")
        if not own_names(module, ["score"]):
            raise RecipeError(
                f"evaluation.benchmarks must be scored by a rule, got {name}, which a judge scores; put it under judge"
            )
        # Keys of recipes without it have no part for it.
        drawn = {"sampling": sampling} if (sampling := settings.sampling(benchmark)) is not None else {}
        nodes += [_generate(model, name, benchmark, settings.max_new_tokens, recipe, drawn) for model in models]
        for model in models:
            asked = {"benchmark": name, "source": source_kind(name, benchmark), "limit": benchmark.limit, **drawn}
            reads = {"completions": _completions(model, name)}
            decides = benchmark_code(name, *_SCORING, *(_MAJORITY if drawn else ()))
            nodes.append(Node("score", asked, reads, [decides], role=model, benchmark=name))
            if settings.cross_check and module.LM_EVAL_TASKS:
                nodes.append(_cross_check(model, name))
    return nodes + [_lm_eval(recipe, model, name) for model in models for name in settings.lm_eval]


def _benchmark(name: str, key: str) -> BenchmarkFile:
    module = load(BENCHMARKS, plugin(BENCHMARKS, name, key))
    if not module.FORMS and not own_names(module, ["score"]):
        raise RecipeError(
            f"{key} must have score() for a rule, or FORMS for a judge, got neither in {name}'s file; write one of them there"
        )
    return module


def _completions(model: Role, benchmark: str) -> str:
    """The id of the node that generates a model's completions of a benchmark."""
    return TaskName("generate", role=model, benchmark=benchmark).id


def _weights(recipe: Recipe, model: Role) -> str:
    """The id of the node whose output is the model."""
    return policy_node(recipe) if model == "aligned" else BASE


def _cross_check(model: Role, benchmark: str) -> Node:
    return Node(
        "cross_check",
        {"benchmark": benchmark, **_lm_eval_versions()},
        {
            "completions": _completions(model, benchmark),
            "scores": TaskName("score", role=model, benchmark=benchmark).id,
        },
        [benchmark_code(benchmark, "LM_EVAL_TASKS", "LM_EVAL_MAIN", "lm_eval_document")],
        role=model,
        benchmark=benchmark,
    )


def _lm_eval(recipe: Recipe, model: Role, name: str) -> Node:
    evaluation = recipe.evaluation
    folder = None
    if evaluation.lm_eval_include_path is not None:
        folder = recipe.find("evaluation.lm_eval_include_path", evaluation.lm_eval_include_path)
    if folder is not None and not folder.is_dir():
        raise RecipeError(
            f"evaluation.lm_eval_include_path must be a folder of task definitions, got {folder}; name its folder"
        )
    engine = evaluation_engine(recipe)
    # The folder's files may have any name and depth, so they have no roles: their content is part of the settings.
    settings = {
        "task": name,
        **evaluation.lm_eval[name].model_dump(),
        "engine": engine,
        **_lm_eval_versions(),
        **_task_sets(name, folder),
        "definitions": folder_digest(folder) if folder is not None else None,
        "date": recipe.date,
        # Without a chat template there are no messages.
        **(recipe.system_settings() if evaluation.lm_eval[name].chat else {}),
        **_thinking(recipe),
    }
    return Node(
        "lm_eval",
        settings,
        {"model": _weights(recipe, model)},
        [f"evaluation.engines.{engine['name']}"],
        unkeyed={"include_path": str(folder) if folder is not None else None, **evaluation.placement()},
        role=model,
        benchmark=name,
        session=session("generate", model),
    )


def _thinking(recipe: Recipe) -> Settings:
    """Where thoughts are and how long they may be; empty where the recipe says nothing of them."""
    limit = recipe.evaluation.max_thinking_tokens
    return {**recipe.thought_settings(), **({"max_thinking_tokens": limit} if limit is not None else {})}


def _lm_eval_versions() -> Settings:
    """lm-eval's version, and those of what its tasks on mathematics compare answers with."""
    return {
        "lm_eval": package_version("lm-eval"),
        "libraries": {package: package_version(package) for package in LIBRARIES["math_verify"]},
    }


def _task_sets(name: str, folder: Path | None) -> Settings:
    """The data sets of the hub that a task reads, each with its commit; nothing where it reads none."""
    import yaml

    from evaluation.harness.sets import task_sets

    try:
        found = task_sets(name, folder)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError):
        # What is wrong with the definitions or the package, the preflight says.
        return {}
    sets = [
        {
            "path": one.path,
            "config": one.config,
            "asked": one.revision,
            "revision": hub.pinned("dataset", one.path, one.revision),
            **one.more,
        }
        for one in found
    ]
    return {"sets": sets} if sets else {}


def folder_digest(folder: Path) -> str:
    """The content of a folder's files, by their names within it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return digest({path.relative_to(folder).as_posix(): file_sha256(path) for path in files})


def judged_nodes(recipe: Recipe, models: list[Role]) -> list[Node]:
    """The nodes that generate answers to judged benchmarks, and have each judge judge them by each protocol."""
    judge = recipe.judge
    if judge is None:
        return []
    nodes = []
    for name, benchmark in judge.benchmarks.items():
        if not _benchmark(name, "judge.benchmarks").FORMS:
            raise RecipeError(f"judge.benchmarks must be judged ones, got {name}, which has a scorer; put it under evaluation")
        nodes += [_generate(model, name, benchmark, judge.max_new_tokens, recipe) for model in models]
    # The benchmarks of one judge follow one another, so that they share its engine.
    judges: list[tuple[Role, str, JudgeModel | None]] = [("judge", "judge", judge), ("second", "judge.second", judge.second)]
    for role, key, one in judges:
        if one is None:
            continue
        resolved, reads = judge_nodes(role, one, recipe, key)
        nodes += resolved
        for name, benchmark in judge.benchmarks.items():
            for protocol in _protocols(name, benchmark):
                nodes.append(_judge(recipe, role, one, name, protocol, models, reads))
    return nodes


def _protocols(name: str, benchmark: JudgedBenchmark) -> list[str]:
    """The judge protocols that the recipe names for a benchmark; without any, the benchmark's first."""
    own = list(load(BENCHMARKS, name).FORMS)
    asked = [plugin(PROTOCOLS, one, f"judge.benchmarks.{name}.forms") for one in benchmark.forms or own[:1]]
    unfit = [one for one in asked if one not in own]
    if unfit:
        raise RecipeError(f"judge.benchmarks.{name}.forms must be among {', '.join(own)}, got {unfit[0]}; correct it")
    return asked


def _judge(
    recipe: Recipe, role: Role, one: JudgeModel, name: str, protocol: str, models: list[Role], reads: dict[str, str]
) -> Node:
    judge = recipe.judge
    assert judge is not None
    if one.base_url is not None and not is_remote(one.engine):
        section = "judge.second" if role == "second" else "judge"
        raise RecipeError(
            f"{section}.base_url must be left out with engine {one.engine}, which asks no server, got {one.base_url}; set "
            f"{section}.engine=openai, or remove it"
        )
    benchmark = judge.benchmarks[name]
    compares = load(PROTOCOLS, protocol).COMPARES
    files = {}
    if compares and benchmark.baseline is not None:
        files["baseline"] = _baseline_file(recipe, name, benchmark.baseline)
    elif compares and "aligned" not in models:
        raise RecipeError(
            f"judge.benchmarks.{name}.baseline must be a file of recorded answers in a recipe without train, got none; name one"
            + (f", upstream's {upstream}" if (upstream := load(BENCHMARKS, name).BASELINE_FILE) else "")
        )
    if benchmark.references is not None:
        files["references"] = recipe.find(f"judge.benchmarks.{name}.references", benchmark.references)
    # The base model's answers are the baseline where no others are.
    judged: list[Role] = ["aligned"] if compares and "baseline" not in files else models
    inputs = {f"answers_{model}": _completions(model, name) for model in models}
    settings = {
        "benchmark": name,
        "source": source_kind(name, benchmark),
        "limit": benchmark.limit,
        "form": protocol,
        "models": judged,
        "demonstration": judge.demonstration,
        "orders": judge.orders,
        "max_new_tokens": judge.max_new_tokens,
        **judge_settings(one, recipe.date),
        **recipe.system_settings(),
    }
    code = [f"evaluation.benchmarks.{name}", f"evaluation.judging.protocols.{protocol}"]
    if one.engine != "reward_model":
        code.append(f"evaluation.engines.{one.engine}")
    return Node(
        "judge",
        settings,
        {**inputs, **reads},
        code,
        files=files,
        unkeyed=judge_place(one, recipe),
        role=role,
        benchmark=name,
        variant=protocol if protocol != _protocols(name, benchmark)[0] else None,
        session=session("judge", role),
    )


def _baseline_file(recipe: Recipe, name: str, path: str) -> Path:
    try:
        return recipe.find(f"judge.benchmarks.{name}.baseline", path)
    except RecipeError as error:
        upstream = load(BENCHMARKS, name).BASELINE_FILE
        if upstream is None or "must exist" not in str(error):
            raise
        raise RecipeError(f"{error}. It is upstream's {upstream}: {ANSWERS_FORM}") from error


def _check_server(recipe: Recipe) -> None:
    """Refuse a recipe whose answers would come from another model than it says. The recipes of earlier runs can still be read."""
    evaluation = recipe.evaluation
    if not is_remote(evaluation.engine):
        for key in ("base_url", "model"):
            if (value := getattr(evaluation, key)) is not None:
                raise RecipeError(
                    f"evaluation.{key} must be left out with engine {evaluation.engine}, which asks no server, got {value}; set "
                    "evaluation.engine=openai, or remove it"
                )
        return
    if not evaluation.model:
        raise RecipeError("evaluation.model must name the model at the endpoint, got none; add it")
    if recipe.train is not None:
        raise RecipeError(
            f"evaluation.engine must load the models itself in a recipe with train, got {evaluation.engine}, whose server has one model: "
            "the base and the aligned model would both be that; set evaluation.engine=vllm or transformers, or serve the policy and give "
            "its folder to `bnf evaluate`"
        )


def _generate(
    model: Role, name: str, benchmark: Benchmark, max_new_tokens: int | None, recipe: Recipe, drawn: Settings = _NONE
) -> Node:
    _check_server(recipe)
    module, engine = load(BENCHMARKS, name), evaluation_engine(recipe)
    most = most_new_tokens(module, max_new_tokens)
    thinking = recipe.evaluation.max_thinking_tokens
    if thinking is not None and thinking >= most:
        section = "judge" if isinstance(benchmark, JudgedBenchmark) else "evaluation"
        others = (
            f"raise {section}.max_new_tokens"
            if most < (module.MAX_NEW_TOKENS_WITH_THOUGHT or module.MAX_NEW_TOKENS)
            else f"leave {name} out"
        )
        raise RecipeError(
            f"evaluation.max_thinking_tokens must be below the {most} new tokens of {name}, as no thought is cut where nothing could be "
            f"said after it, got {thinking}; lower it, or {others}"
        )
    # What decides the completions; a conversation of several turns is sampled at its own temperature.
    return Node(
        "generate",
        {
            "benchmark": name,
            **source_settings(name, benchmark),
            "limit": benchmark.limit,
            "max_new_tokens": most,
            **drawn,
            "engine": engine,
            # An endpoint's server has a template, and a clock, of its own.
            **({} if is_remote(engine["name"]) else {"date": recipe.date}),
            **recipe.system_settings(),
            **_thinking(recipe),
        },
        {"model": _weights(recipe, model)},
        [benchmark_code(name, "load", "messages", "temperature", "NUM_TURNS"), f"evaluation.engines.{engine['name']}"],
        files=source_files(name, benchmark, recipe),
        unkeyed={"spending": recipe.spending.model_dump()} if is_remote(engine["name"]) else recipe.evaluation.placement(),
        role=model,
        benchmark=name,
        session=session("generate", model),
    )
