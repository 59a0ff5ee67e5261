"""From a recipe to the DAG's nodes: which part of the recipe each stage reads, and from which stages it takes its inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bnf.plugins import load, own_names
from bnf.training.fields import PLACEMENT_FIELDS
from data.parse import columns_of
from data.reading.files import as_local
from data.reading.records import DataSource, is_hub_id
from data.sources import SOURCES
from evaluation.benchmarks import BENCHMARKS
from evaluation.benchmarks import Benchmark as BenchmarkFile
from evaluation.engines import is_remote
from evaluation.judging.protocols import PROTOCOLS
from evaluation.report.inputs import SECTIONS
from flows.dag.checkpoints import checkpoint_nodes
from flows.dag.on_policy import BASE, data_nodes, policy_node, rounds, training_nodes, without_uncounted
from flows.dag.parts import (
    benchmark_code,
    evaluation_engine,
    judge_nodes,
    judge_place,
    judge_settings,
    keyed,
    plugin,
    resolve_node,
    session,
    shown_recipe,
    source_files,
    source_kind,
    url_version,
)
from flows.errors import RecipeError
from flows.recipe.config import Recipe
from flows.recipe.sections import Benchmark, JudgedBenchmark, JudgeModel
from tasks.job import Settings
from tasks.keys import LIBRARIES, ROOT, digest, package_version
from tasks.manifest import file_sha256
from tasks.names import Role, TaskName
from tasks.nodes import Node, check_inputs
from tasks.stages import STAGES

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
    models: list[Role] = ["base"] if recipe.train is None else ["base", "aligned"]
    evaluated = _evaluation(recipe, models)
    judged = _judged(recipe, models)
    # All that one model generates is done in succession, by one engine process, which ends before the next model's starts.
    engines = [session("generate", model) for model in models]
    nodes += [node for engine in engines for node in (*evaluated, *judged) if node.session == engine]
    nodes += [node for node in (*evaluated, *judged) if node.session not in engines]
    nodes = _beside_samples(nodes)
    nodes += checkpoint_nodes(recipe, nodes)
    nodes.append(_report(recipe, nodes))
    check_inputs(nodes)
    return [_on_ray(node, recipe.ray.address) for node in nodes]


def _on_ray(node: Node, address: str) -> Node:
    """The node with Ray's address, where there is one and Ray shares out its work."""
    if node.stage == "reference":
        # Of a sharded model each row needs all processes of the training.
        is_shared = node.unkeyed["sharding"] == "none"
        # Another one has a process of its own: the training after it must not depend on a cluster.
        node = replace(node, session=None) if is_shared and address != "none" else node
    else:
        # A model that runs here and not at an endpoint, or data that are rendered.
        engine = node.settings.get("engine")
        is_shared = not is_remote(engine["name"]) if engine else "sources" in node.settings
    can = address != "none" and is_shared and load(STAGES, node.stage).RAY
    return replace(node, unkeyed={**node.unkeyed, "ray": address}) if can else node


def _beside_samples(nodes: list[Node]) -> list[Node]:
    """The nodes with those of the engine that samples right behind the sampling, so that it starts once."""
    sample = next((node for node in nodes if node.stage == "sample" and node.session is not None), None)
    if sample is None:
        return nodes
    shared = [node for node in nodes if node.session == sample.session]
    others = [node for node in nodes if node.session != sample.session]
    place = next(number for number, node in enumerate(nodes) if node is sample)
    return [*others[:place], *shared, *others[place:]]


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
    reads = {
        "policy": trained.id,
        **{role: trained.inputs[role] for role in ("data", "reference", "budget") if role in trained.inputs},
    }
    config = recipe.train_config()
    settings, unkeyed = without_uncounted(config.row_settings())
    placed = {name: value for name, value in config.to_dict().items() if name in PLACEMENT_FIELDS}
    return [*nodes, Node("analyze", settings, reads, unkeyed={**unkeyed, **placed}, session=trained.session)]


def _prepare_sources(recipe: Recipe) -> Node:
    """The node that prepares the recipe's `data`.

    Its key has the content of local files, the version of a URL as its server says it, and the name and revision of a hub's data set.
    """
    settings, files = [], {}
    for number, one in enumerate(recipe.sources()):
        key = f"data.{number}" if isinstance(recipe.data, list) else "data"
        source = plugin(SOURCES, one.source, f"{key}.source")
        without = {"path"} if one.limit is not None else {"path", "limit"}
        given = {**one.model_dump(exclude=without), "source": source}
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
    prepare = {**recipe.prepare.model_dump(exclude={"num_proc"}), "seed": recipe.seed, "date": recipe.date}
    prepare |= recipe.system_settings()
    # Each round prepares its samples in a node of its own beside it.
    role: Role | None = "offline" if recipe.sample is not None else None
    return Node(
        "prepare",
        {"prepare": prepare, "sources": settings},
        {"model": BASE},
        list(plugins),
        files,
        {"num_proc": recipe.prepare.num_proc},
        role=role,
    )


def _contamination(recipe: Recipe) -> list[Node]:
    """The nodes that look for each benchmark's items in the training data: for all of its items, whatever `limit` says."""
    judged = recipe.judge.benchmarks if recipe.judge else {}
    nodes = []
    for name, benchmark in {**recipe.evaluation.benchmarks, **judged}.items():
        section = "judge" if isinstance(benchmark, JudgedBenchmark) else "evaluation"
        module = plugin(BENCHMARKS, name, f"{section}.benchmarks")
        nodes.append(
            Node(
                "contamination",
                {"benchmark": name, "source": source_kind(name, benchmark)},
                {f"data{number}" if number else "data": node for number, node in enumerate(data_nodes(recipe))},
                [benchmark_code(module, "load")],
                files=source_files(name, benchmark, recipe),
                benchmark=name,
            )
        )
    return nodes


def _evaluation(recipe: Recipe, models: list[Role]) -> list[Node]:
    settings = recipe.evaluation
    nodes = []
    for name, benchmark in settings.benchmarks.items():
        module = _benchmark(name, "evaluation.benchmarks")
        if not own_names(module, ["score"]):
            raise RecipeError(
                f"evaluation.benchmarks must be scored by a rule, got {name}, which a judge scores; put it under judge"
            )
        nodes += [_generate(model, name, benchmark, settings.max_new_tokens, recipe) for model in models]
        for model in models:
            asked = {"benchmark": name, "source": source_kind(name, benchmark), "limit": benchmark.limit}
            reads = {"completions": _completions(model, name)}
            nodes.append(Node("score", asked, reads, [benchmark_code(name, *_SCORING)], role=model, benchmark=name))
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
        "definitions": folder_digest(folder) if folder is not None else None,
        "date": recipe.date,
        # Without a chat template there are no messages.
        **(recipe.system_settings() if evaluation.lm_eval[name].chat else {}),
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


def _lm_eval_versions() -> Settings:
    """lm-eval's version, and those of what its tasks on mathematics compare answers with."""
    return {
        "lm_eval": package_version("lm-eval"),
        "libraries": {package: package_version(package) for package in LIBRARIES["math_verify"]},
    }


def folder_digest(folder: Path) -> str:
    """The content of a folder's files, by their names within it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return digest({path.relative_to(folder).as_posix(): file_sha256(path) for path in files})


def _judged(recipe: Recipe, models: list[Role]) -> list[Node]:
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
    benchmark = judge.benchmarks[name]
    compares = load(PROTOCOLS, protocol).COMPARES
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


def _generate(model: Role, name: str, benchmark: Benchmark, max_new_tokens: int | None, recipe: Recipe) -> Node:
    module, engine = load(BENCHMARKS, name), evaluation_engine(recipe)
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
            **recipe.system_settings(),
        },
        {"model": _weights(recipe, model)},
        [benchmark_code(name, "load", "messages", "temperature", "NUM_TURNS"), f"evaluation.engines.{engine['name']}"],
        files=source_files(name, benchmark, recipe),
        unkeyed={"spending": recipe.spending.model_dump()} if is_remote(engine["name"]) else recipe.evaluation.placement(),
        role=model,
        benchmark=name,
        session=session("generate", model),
    )


def _report(recipe: Recipe, nodes: list[Node]) -> Node:
    models = {node.role: node.settings["model_name_or_path"] for node in nodes if node.stage == "resolve"}
    # The recipe is shown in the report, and so is part of its key; what the run's tasks share of a machine isn't.
    settings = {"recipe": shown_recipe(recipe), "models": models}
    templates = sorted((ROOT / "evaluation" / "report" / "templates").iterdir())
    # A stage's file says under which name the report gets the stage's folders.
    sections = [
        f"tasks.stages.{stage}:REPORT" for stage in dict.fromkeys(node.stage for node in nodes) if load(STAGES, stage).REPORT
    ]
    for stage in dict.fromkeys(node.stage for node in nodes):
        if (section := load(STAGES, stage).REPORT) not in (None, *SECTIONS):
            raise ValueError(
                f"REPORT of {stage} must be a section of the report ({', '.join(SECTIONS)}), got {section!r}; correct it in "
                f"tasks/stages/{stage}.py, or add the section to evaluation/report/inputs.py"
            )
    # Only the report's key holds how numbers are shown. Templates are no Python code, so they are in the key as files.
    files = {path.name: path for path in templates}
    return Node("report", settings, {node.id: node.id for node in nodes}, ["evaluation.formats", *sections], files)
