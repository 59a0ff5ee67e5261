"""The checks before a run: everything that the recipe names is there and fits together, and the machine has the room."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bnf.data.groups import GROUPS_FILE
from bnf.data.sizes import DataSizes, data_sizes
from bnf.host import available_memory, own_cores
from bnf.model.device import device_kind
from bnf.model.digests import check_files
from bnf.model.served import served_otherwise
from bnf.model.templates import templated
from bnf.plugins import load
from bnf.training.config import TrainConfig
from bnf.training.gpus import GIB
from bnf.training.loggers import lacking
from bnf.training.row_memory import weight_bytes
from data.parse import Parser
from data.reading.records import Bad, DataSource, Reader, is_hub_id
from data.sampling.prompts import load_prompts
from data.sources import SOURCES
from evaluation.benchmarks import BENCHMARKS
from evaluation.engines import ENGINES
from evaluation.records import read_json
from flows.dag import hub
from flows.dag.checks import Check
from flows.dag.completions import completion_check
from flows.dag.costs import dev_samples, kept_policies
from flows.dag.endpoint_check import endpoint_check
from flows.dag.engine_checks import engine_key, load_checks
from flows.dag.judged_check import judged_files_check
from flows.dag.memory_check import memory_check
from flows.dag.objective_checks import FIRST_ROWS, objective_checks, sample_checks, sources_of
from flows.dag.on_policy import BASE
from flows.dag.parts import keyed, sample_file
from flows.dag.ray_checks import device_check, ray_check
from flows.dag.reference_check import reference_checks
from flows.dag.system_prompt_check import system_prompt_check
from flows.dag.thought_checks import thought_checks
from flows.dag.trainable import problems_before, resolved_folder
from flows.errors import RecipeError
from flows.recipe.config import Recipe
from tasks.nodes import Forecast, Node, model_folder

# The name of the check that the home can be written. A plan doesn't need it.
HOME = "home"


def preflight(recipe: Recipe, forecasts: Sequence[Forecast], home: Path) -> list[Check]:
    """The checks of what the tasks that will run need. Tasks whose output is cached need nothing."""
    todo = [entry.node for entry in forecasts if entry.cached is not True]
    return [
        *_checks(recipe, forecasts, todo, home),
        *completion_check(forecasts),
        *dev_samples(recipe, forecasts),
        *kept_policies(recipe, forecasts, home),
    ]


def problems(checks: Iterable[Check]) -> list[str]:
    """The problems that the checks found, each once."""
    return list(dict.fromkeys(check.problem for check in checks if check.problem))


def require(checks: Iterable[Check]) -> None:
    """Raise RecipeError with every problem found."""
    if found := problems(checks):
        raise RecipeError("\n".join(found))


def _checks(recipe: Recipe, forecasts: Sequence[Forecast], todo: Sequence[Node], home: Path) -> Iterator[Check]:
    stages = {node.stage for node in todo}
    models = {node.id: _resolved(node) for node in todo if node.stage == "resolve"}
    yield from models.values()
    if stages and not any(check.problem for check in models.values()):
        base = next(entry for entry in forecasts if entry.node.id == BASE)
        folder = resolved_folder(base)
        if BASE not in models and folder is not None and (wrong := _model_problem(folder, "model_name_or_path", base.node)):
            # Though the model is resolved: what a policy is served with is no part of that.
            yield Check(f"model {folder.name}", wrong)
        if (check := system_prompt_check(recipe, folder)) is not None:
            yield check
        yield from thought_checks(forecasts)
    for node in todo:
        if "engine" in node.settings:
            yield _engine(node, engine_key(node))
        if node.stage == "generate":
            yield _benchmark(node, recipe)
        if node.stage == "lm_eval" and node.role == "base":
            yield _lm_eval(node)
            for one in node.settings.get("sets", ()):
                key = f"evaluation.lm_eval.{node.benchmark}"
                yield hub.set_check(
                    key, one["path"], one["revision"], "leave the task out, or read the set from a file in a task of your own"
                )
        if node.stage == "judge" and node.files:
            yield judged_files_check(node, {entry.node.id: entry.node for entry in forecasts})
        if node.stage == "prepare" and "sources" in node.settings:
            yield from _sources(node)
            yield from _processes(node)
        if node.stage == "sample" and node.settings["round"] == 1:
            yield from _prompts(node)
    ray = ray_check(todo)
    cluster = None if ray is None else ray.cluster
    yield from (check for check in (ray, device_check(todo, cluster)) if check is not None)
    yield from load_checks(forecasts, cluster=cluster)
    if "train" in stages:
        nodes = [entry.node for entry in forecasts]
        first = [*objective_checks(recipe, nodes), *sample_checks(recipe), *_training_packages(recipe.train_config())]
        yield from first
        yield _memory(forecasts, recipe.train_config())
        if not any(check.problem for check in [*first, *models.values()]):
            yield from (Check(name, problem, "can be trained") for name, problem in problems_before(recipe, forecasts))
            yield from reference_checks(recipe, forecasts)
    if stages:
        yield disk(home)


def _resolved(node: Node) -> Check:
    key, revision = _model_key(node), node.settings["revision"]
    if "model" in node.files and revision is not None:
        folder = node.files["model"]
        return Check(
            f"model {folder.name}",
            f"revision must be left out for a folder, got {revision!r} for {folder}; remove it, or name a hub id",
        )
    return _model(node.files["model"], key, node) if "model" in node.files else _hub_model(node, key)


def _model_key(node: Node) -> str:
    """Where the recipe names the model that the node resolves."""
    section = {
        "base": "",
        "judge": "judge.",
        "second": "judge.second.",
        "labeler": "label.judge.",
        "reference_model": "reference.",
    }
    return f"{section[str(node.role)]}model_name_or_path"


def _model(folder: Path, key: str, node: Node) -> Check:
    name = f"model {folder.name}"
    for file in ("config.json", "tokenizer_config.json"):
        if not (folder / file).is_file():
            return Check(name, f"{key} must be a folder with {file}, got {folder} without it; save model and tokenizer there")
    tokenizer = read_json(folder / "tokenizer_config.json", "save model and tokenizer there")
    # A reference is given the policy's token ids: a model before its fine-tuning, without a template, can be one.
    has_template = "template" in node.files or "chat_template" in tokenizer or (folder / "chat_template.jinja").is_file()
    if not key.startswith("reference.") and not has_template:
        return Check(name, f"{key} must have a chat template, got {folder} without one; use an instruct model")
    if not any(folder.glob("*.safetensors")):
        return Check(name, f"{key} must hold safetensors weights, got {folder} without them; convert the model")
    if (wrong := _model_problem(folder, key, node)) is not None:
        return Check(name, wrong)
    template = "" if key.startswith("reference.") else ", chat template"
    return Check(name, None, f"{hub.weights_bytes(folder) / GIB:.2f} GiB of weights{template}")


def _model_problem(folder: Path, key: str, node: Node) -> str | None:
    """What is wrong with a model folder's weights, with the chat template that the recipe says for it, or with serving a policy so."""
    template, values = node.files.get("template"), node.settings.get("chat_template_kwargs", {})
    try:
        check_files(folder)
        if template is not None or values:
            templated(folder, template, values)
        if "served" in node.unkeyed:
            return served_otherwise(folder, template, values, **node.unkeyed["served"])
    except (ValueError, OSError) as error:
        # A judge's are keys of its section.
        return f"{key.removesuffix('model_name_or_path')}{error}"
    return None


def _hub_model(node: Node, key: str) -> Check:
    """A model that has to be fetched must be on the hub or in this machine's cache of it, and be what the pipeline reads."""
    name = node.settings["model_name_or_path"]
    found = hub.asked_for("model", name, node.settings["revision"])
    if found.wrong is None and found.folder is not None:
        check = _model(found.folder, key, node)
        return replace(check, name=f"model {name}", seen=f"{check.seen}; {found.seen}", is_stale=not found.is_reached)
    wrong, seen = found.wrong, found.seen
    if wrong is None and found.files is not None:
        files = found.files.keys()
        missing = [file for file in ("config.json", "tokenizer_config.json") if file not in files]
        if not any(file.endswith(".safetensors") for file in files):
            missing.append("safetensors weights")
        wrong = f"it has no {missing[0]}" if missing else None
        seen = f"{(found.weights_bytes or 0) / GIB:.2f} GiB of weights, on the hub"
    problem = f"{key} must be a folder or a hub id that can be fetched, got {name!r}: {wrong}; name a folder, or correct the id"
    return Check(f"model {name}", problem if wrong else None, seen)


def _engine(node: Node, key: str) -> Check:
    name = node.settings["engine"]["name"]
    package = "transformers" if name == "reward_model" else load(ENGINES, name).LIBRARY
    if importlib.util.find_spec(package) is None:
        return Check(
            f"engine {name}",
            f"{key}.engine must be installed, got {name} without the package {package}; set {key}.engine=transformers",
        )
    if name == "openai":
        return endpoint_check(node, key)
    return Check(f"engine {name}", None, str(node.settings["engine"]["version"]))


def _benchmark(node: Node, recipe: Recipe) -> Check:
    settings, benchmark = node.settings, node.settings["benchmark"]
    section = "evaluation" if benchmark in recipe.evaluation.benchmarks else "judge"
    name, key = f"benchmark {benchmark}", f"{section}.benchmarks.{benchmark}.source"
    module = load(BENCHMARKS, benchmark)
    try:
        module.check()
    except FileNotFoundError as error:
        return Check(name, f"{section}.benchmarks.{error}")
    if settings["source"] == "hub" and module.HUB is not None:
        remedy = "name a local file" + (", or `sample`" if sample_file(benchmark).exists() else "")
        return hub.set_check(key, module.HUB.id, settings.get("revision"), remedy)
    try:
        # A benchmark that is on no hub says in its error that it needs a file.
        source = {"file": str(node.files.get("source")), "sample": "sample"}.get(settings["source"])
        items = module.load(source, settings["limit"])
    except (ValueError, OSError) as error:
        text = str(error)
        return Check(name, text.replace(f"{benchmark}.source", key, 1) if f"{benchmark}.source" in text else f"{key}: {text}")
    return Check(name, None, f"{len(items)} items ({settings['source']})")


def _lm_eval(node: Node) -> Check:
    """The task must be known to lm-eval. Its data come from the hub when the stage runs, unless its definition says otherwise."""
    from evaluation.harness.tasks import unknown_task

    folder = node.unkeyed["include_path"]
    return Check(
        f"lm-eval {node.benchmark}", unknown_task(str(node.benchmark), Path(folder) if folder else None), "known to lm-eval"
    )


def _sources(node: Node) -> Iterator[Check]:
    """Each local source must be able to read its first rows; the hub must have the sets of the others."""
    sources = sources_of(node)
    for number, source in enumerate(sources):
        key = "data" if len(sources) == 1 else f"data.{number}"
        if is_hub_id(source.path):
            yield hub.set_check(f"{key}.path", source.path, source.revision, "name a file or folder, or correct the id")
        elif source.streaming:
            problem = f"{key}.streaming must be left out for files, got true for {source.path}; remove it"
            yield Check(f"source {source.source}", problem)
        else:
            yield _source(source, key)


def _processes(node: Node) -> Iterator[Check]:
    """Each process that prepares data here must have a core. On Ray no more tasks begin than its cluster has cores."""
    number, cores = node.unkeyed["num_proc"], len(own_cores())
    if number is not None and number > cores and "ray" not in node.unkeyed:
        yield Check(
            "processes of prepare",
            f"prepare.num_proc must be at most {cores}, this machine's cores, got {number}; lower it, or leave it out for one per core",
        )


def _prompts(node: Node) -> Iterator[Check]:
    """The prompts of the pool and the held-out ones must be there; where the stage will fetch them, the hub must have their set."""
    settings, local = node.settings, node.files.get("prompts")
    name, number = f"prompts of {settings['source']}", settings["num_prompts"] + settings["held_out_prompts"]
    source = load(SOURCES, settings["source"])
    if local is None and not source.MAKES_PROMPTS:
        path, revision = settings["path"], settings["place"].get("revision")
        if path is None:
            sets = dict.fromkeys((one.path, revision or one.revision) for one in source.HUB)
        else:
            # A URL has answered when its version was asked for.
            sets = {} if "://" in path else {(path, revision): None}
        for hub_id, of in sets:
            yield hub.set_check("sample.path", hub_id, of, "name a file or folder")
        return
    try:
        prompts = load_prompts(settings["source"], str(local) if local else None, number, **settings["place"])
    except (ValueError, OSError) as error:
        yield Check(name, keyed(error, "data", "sample"))
    else:
        yield Check(name, None, f"{len(prompts)} prompts")


def _source(source: DataSource, key: str) -> Check:
    name = f"source {source.source}"
    parse = Parser(source)
    try:
        first = [(raw, parse(raw)[1]) for raw in itertools.islice(Reader(source), FIRST_ROWS)]
    except (ValueError, OSError) as error:
        return Check(
            name, f"{key}.path must be readable by the source {source.source}, got {source.path}: {keyed(error, 'data', key)}"
        )
    bad = [(raw, row) for raw, row in first if isinstance(row, Bad)]
    if len(bad) == len(first):
        seen = f"line {bad[0][0].where}: {bad[0][1].detail}" if bad else "no row"
        return Check(
            name, f"{key}.path must hold rows of the source {source.source}, got {source.path}, {seen}; check {key}.columns"
        )
    return Check(name, None, Path(source.path).name)


def _memory(forecasts: Sequence[Forecast], config: TrainConfig) -> Check:
    """Whether a training has the memory: by the estimate where the base model's config.json is here, else by the size of its weights."""
    base = next(entry for entry in forecasts if entry.node.id == BASE)
    folder = base.node.files.get("model") or (model_folder(base.artifact.path) if base.artifact is not None else None)
    weights = None
    if folder is None:
        found = hub.asked_for("model", base.node.settings["model_name_or_path"], base.node.settings["revision"])
        folder, weights = found.folder, found.weights_bytes
    check = None if folder is None else memory_check(folder, config, _prepared(forecasts, config), available_memory())
    return check or _memory_of(weights, config)


def _prepared(forecasts: Sequence[Forecast], config: TrainConfig) -> DataSizes | None:
    """The sizes of the data of the first training that will run, where they are prepared here."""
    known = {entry.node.id: entry for entry in forecasts}
    trained = next(entry for entry in forecasts if entry.node.stage == "train" and entry.cached is not True)
    data = known[trained.node.inputs["data"]]
    there = data.cached and data.artifact is not None and (data.artifact.path / GROUPS_FILE).is_file()
    return data_sizes(data.artifact.path, share_prompts=config.share_prompts) if there and data.artifact is not None else None


def _memory_of(weights: int | None, config: TrainConfig) -> Check:
    """The check of a model of which the size of its bfloat16 files is all that is known, until it is fetched (`flows.dag.trainable`). A
    training keeps weights, gradients and AdamW's two moments; with adapters the weights alone. Each process has its own, or a share.
    """
    if weights is None:
        return Check("memory", None, "unknown: the size of the model's weights isn't known before they are fetched")
    available = available_memory()
    processes = 1 if config.sharded else config.nproc_per_node
    width = weight_bytes(config)
    per_parameter = 4 * width if config.lora_r == 0 else 0.5 if config.load_in_4bit else width
    needed = per_parameter * weights / 2 * processes
    if available is not None and device_kind() == "cpu" and needed > available:
        return Check(
            "memory",
            f"memory must hold {needed / GIB:.1f} GiB to train, got {available / GIB:.1f} GiB free; take a smaller model",
        )
    return Check(
        "memory",
        None,
        "unknown" if available is None else f"{available / GIB:.1f} GiB free, {needed / GIB:.1f} GiB for weights",
    )


def _training_packages(config: TrainConfig) -> Iterator[Check]:
    """The packages that a training imports beside torch and transformers."""
    for logger in config.loggers:
        wrong = lacking(logger)
        yield Check(f"logger {logger}", f"train.report_to={logger} {wrong}" if wrong else None, "installed")
    if config.lora_r:
        wrong = "must have the package peft, got an installation without it; pip install peft"
        there = importlib.util.find_spec("peft") is not None
        yield Check("package peft", None if there else f"train.lora_r={config.lora_r} {wrong}", "installed")


def disk(home: Path) -> Check:
    """Whether the home, or the folder that it would be made in, can be written and has room."""
    existing = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        return Check(HOME, f"BNF_HOME must be a folder that can be written, got {home}; set BNF_HOME to another folder")
    problem = (
        f"the disk of {home} must have 1 GiB free, got {free / GIB:.2f} GiB; free some or move BNF_HOME" if free < GIB else None
    )
    return Check("disk", problem, f"{free / GIB:.0f} GiB free")
