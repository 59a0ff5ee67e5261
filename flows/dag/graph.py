"""From a recipe to the DAG's nodes: which part of the recipe each stage reads, and from which stages it takes its inputs."""

from __future__ import annotations

from dataclasses import replace

from bnf.plugins import load
from bnf.training.fields import PLACEMENT_FIELDS
from bnf.urls import without_secrets
from data.parse import columns_of
from data.reading.files import as_local
from data.reading.records import DataSource, is_hub_id
from data.sources import SOURCES
from evaluation.benchmarks import BENCHMARKS
from evaluation.engines import is_remote
from evaluation.report.inputs import SECTIONS
from flows.dag import hub
from flows.dag.checkpoints import checkpoint_nodes
from flows.dag.evaluating import evaluation_nodes, judged_nodes
from flows.dag.on_policy import BASE, data_nodes, policy_node, rounds, training_nodes, without_uncounted
from flows.dag.parts import (
    base_node,
    benchmark_code,
    keyed,
    plugin,
    resolve_node,
    session,
    shown_recipe,
    source_files,
    source_settings,
    url_version,
)
from flows.errors import RecipeError
from flows.recipe.benchmark_sections import JudgedBenchmark
from flows.recipe.config import Recipe
from tasks.keys import ROOT
from tasks.names import Role
from tasks.nodes import Node, check_inputs
from tasks.stages import STAGES


def build(recipe: Recipe) -> list[Node]:
    """The DAG of a recipe in the order of execution.

    Raises:
        RecipeError: unknown objective, source, labeler, benchmark or file, each with what there is.
    """
    nodes = [base_node(recipe)]
    if recipe.train is not None:
        chosen = recipe.chosen_reference()
        if chosen is not None and (name := chosen.model_name_or_path) is not None:
            nodes.append(resolve_node("reference_model", name, chosen.revision, recipe, "reference.model_name_or_path"))
        nodes += _alignment(recipe)
    models: list[Role] = ["base"] if recipe.train is None else ["base", "aligned"]
    evaluated = evaluation_nodes(recipe, models)
    judged = judged_nodes(recipe, models)
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
        nodes = [offline, *training_nodes(recipe, None, BASE, offline.id)]
    # Before the last training: what is found there may be a reason not to train.
    last = next(place for place, node in enumerate(nodes) if node.id == data_nodes(recipe)[-1])
    nodes[last + 1 : last + 1] = _contamination(recipe)
    trained = next(node for node in nodes if node.id == policy_node(recipe))
    # What the last training changed, on its own data.
    reads = {
        "policy": trained.id,
        **{role: trained.inputs[role] for role in ("data", "reference", "budget") if role in trained.inputs},
        **({"reference": trained.inputs["base"]} if "base" in trained.inputs else {}),
    }
    config = recipe.train_config()
    settings, unkeyed = without_uncounted(config.row_settings())
    placed = {name: value for name, value in config.to_dict().items() if name in PLACEMENT_FIELDS}
    return [*nodes, Node("analyze", settings, reads, unkeyed={**unkeyed, **placed}, session=trained.session)]


def _prepare_sources(recipe: Recipe) -> Node:
    """The node that prepares the recipe's `data`.

    Its key has the content of local files, the version of a URL as its server says it, and the name and commit of a hub's data set.
    """
    settings, files = [], {}
    whole_urls: dict[str, str] = {}
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
            settings[-1] |= {"path": without_secrets(path), "version": url_version(f"{key}.path", path)}
            if without_secrets(path) != path:
                # Manifests hold a key's settings, and others read them.
                whole_urls[f"source{number}"] = path
            continue
        try:
            files[f"source{number}"] = recipe.find(f"{key}.path", path)
        except RecipeError:
            if not is_hub_id(one.path):
                raise
            settings[-1] |= {"path": one.path, "revision": hub.pinned("dataset", one.path, one.revision)}
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
        {"num_proc": recipe.prepare.num_proc, **({"urls": whole_urls} if whole_urls else {})},
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
                {"benchmark": name, **source_settings(name, benchmark)},
                {f"data{number}" if number else "data": node for number, node in enumerate(data_nodes(recipe))},
                [benchmark_code(module, "load")],
                files=source_files(name, benchmark, recipe),
                benchmark=name,
            )
        )
    return nodes


def _report(recipe: Recipe, nodes: list[Node]) -> Node:
    models = {node.role: node.settings["model_name_or_path"] for node in nodes if node.stage == "resolve"}
    # The recipe is shown in the report, and so is part of its key; what the run's tasks share of a machine isn't.
    settings = {"recipe": shown_recipe(recipe), "models": models}
    # Those of a sweep's page are beside them, and no part of a run's report.
    folder = ROOT / "evaluation" / "report" / "templates"
    templates = sorted(path for path in folder.iterdir() if not path.name.startswith("sweep."))
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
