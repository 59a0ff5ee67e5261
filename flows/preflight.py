"""The checks before anything costly starts: everything a recipe names is there and fits together, and the machine has the room."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bnf.config import TrainConfig
from bnf.objectives import load_objective
from data._parse import Parser
from data._reading import Bad, DataSource, Reader, is_hub_id
from data.prompts import load_prompts
from flows.config import Recipe
from flows.errors import RecipeError
from tasks.execute import stage_module
from tasks.nodes import Forecast, Node

GIB = 1 << 30
PROBE_TIMEOUT_S = 10.0
_FIRST_ROWS = 20


@dataclass(frozen=True)
class Check:
    """One check: what was looked at, what is wrong with it (None where nothing is), and what was seen."""

    name: str
    problem: str | None
    seen: str = ""
    # Said when a run begins: what it will cost.
    is_cost: bool = False


def preflight(recipe: Recipe, forecasts: Sequence[Forecast], home: Path) -> list[Check]:
    """Check what the tasks that will run need. Nothing is checked for tasks whose output is cached."""
    todo = [entry.node for entry in forecasts if entry.cached is not True]
    bases = [entry.node for entry in forecasts if entry.node.id == "resolve/base"]
    weights = sum(_weights_bytes(folder) for node in bases for folder in node.files.values())
    return [*_checks(recipe, todo, weights, home), *_prepared(forecasts), *_dev_samples(recipe, forecasts)]


def require(checks: Sequence[Check]) -> None:
    """Raise RecipeError with every problem found."""
    problems = [check.problem for check in checks if check.problem]
    if problems:
        raise RecipeError("\n".join(problems))


def _checks(recipe: Recipe, todo: Sequence[Node], weights: int, home: Path) -> Iterator[Check]:
    stages = {node.stage for node in todo}
    for node in todo:
        if node.stage == "resolve" and "model" in node.files:
            yield _model(node.files["model"])
        if "engine" in node.settings:
            yield _engine(node)
        if node.stage == "generate":
            yield _benchmark(node)
        if node.stage == "lm_eval" and node.model == "base":
            yield _lm_eval(node)
        if node.stage == "judge" and node.files:
            yield _judged_files(node)
        if node.stage == "prepare" and "sources" in node.settings:
            yield from _sources(node)
        if node.stage == "sample" and node.settings["round"] == 1:
            yield _prompts(node)
    if "train" in stages:
        yield _pairs(recipe)
        yield _memory(weights, recipe.train_config())
        yield from _training_packages(recipe.train_config())
    if stages:
        yield _disk(home)


def _model(folder: Path) -> Check:
    name = f"model {folder.name}"
    for file in ("config.json", "tokenizer_config.json"):
        if not (folder / file).is_file():
            return Check(
                name,
                f"model_name_or_path must be a folder with {file}, got {folder} without it; save model and tokenizer there",
            )
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    if "chat_template" not in tokenizer and not (folder / "chat_template.jinja").is_file():
        return Check(name, f"model_name_or_path must have a chat template, got {folder} without one; use an instruct model")
    if not any(folder.glob("*.safetensors")):
        return Check(name, f"model_name_or_path must hold safetensors weights, got {folder} without them; convert the model")
    return Check(name, None, f"{_weights_bytes(folder) / GIB:.2f} GiB of weights, chat template")


def _engine(node: Node) -> Check:
    name = node.settings["engine"]["name"]
    package = {"reward_model": "transformers"}.get(name, name)
    if importlib.util.find_spec(package) is None:
        return Check(
            f"engine {name}",
            f"engine must be installed, got {name} without the package {package}; set evaluation.engine=transformers",
        )
    if name == "openai":
        return _endpoint(node)
    return Check(f"engine {name}", None, str(node.settings["engine"]["version"]))


def _endpoint(node: Node) -> Check:
    """An endpoint must answer before a run spends hours on the way to it, and have a price where there is a cap."""
    import openai

    from evaluation._spending import Meter
    from evaluation.engines.openai import connect

    engine, limits = node.settings["engine"], node.unkeyed.get("spending") or {}
    connection = node.unkeyed.get("connection") or {}
    name = f"endpoint {engine['base_url'] or 'api.openai.com'}"
    if node.unkeyed.get("key_in_block"):
        return Check(name, None, "the key is in a Prefect block; the first call will tell")
    try:
        Meter.of_run(limits.get("prices"), limits.get("max_usd")).price(engine["model"])
        api = engine.get("api", "openai")
        client = connect(
            engine["base_url"], api, connection.get("api_version"), connection.get("api_key_variable"), PROBE_TIMEOUT_S
        )
        # Azure lists models, not the deployments that are asked for.
        served = None if api == "azure" else [model.id for model in client.models.list()]
    except openai.OpenAIError as error:
        return Check(
            name, f"base_url must answer, got {type(error).__name__} ({error}); start the server, and set OPENAI_API_KEY"
        )
    except ValueError as error:
        return Check(name, str(error))
    if served is not None and engine["model"] not in served:
        return Check(
            name, f"model must be served by {engine['base_url']}, got {engine['model']!r}; it serves {', '.join(served[:5])}"
        )
    return Check(name, None, f"serves {engine['model']}" if served is not None else "key, address and version are set")


def _benchmark(node: Node) -> Check:
    settings = node.settings
    name = f"benchmark {settings['benchmark']}"
    if settings["source"] == "hub":
        return Check(name, None, "from the hub, when the stage runs")
    module = importlib.import_module(f"evaluation.benchmarks.{settings['benchmark']}")
    try:
        source = {"file": str(node.files.get("source")), "sample": "sample", "own": None}[settings["source"]]
        items = module.load(source, settings["limit"])
    except (ValueError, OSError) as error:
        return Check(name, f"evaluation.benchmarks.{settings['benchmark']}.source: {error}")
    return Check(name, None, f"{len(items)} items ({settings['source']})")


def _lm_eval(node: Node) -> Check:
    """The task's name must be one; its data come from the hub when the stage runs, unless its definition says otherwise."""
    from evaluation.lm_eval_tasks import unknown_task

    folder = node.unkeyed["include_path"]
    return Check(
        f"lm-eval {node.benchmark}", unknown_task(str(node.benchmark), Path(folder) if folder else None), "known to lm-eval"
    )


def _judged_files(node: Node) -> Check:
    """Recorded answers and references must be readable before anything is generated for them."""
    from evaluation.answers import read_answers
    from evaluation.benchmarks.mt_bench import read_references

    name = f"judge.benchmarks.{node.settings['benchmark']}"
    readers: dict[str, Callable[[Path], str]] = {
        "baseline": lambda path: f"{len(read_answers(path).turns)} recorded answers",
        "references": lambda path: f"{len(read_references(str(path)))} references",
    }
    seen = []
    for role, read in readers.items():
        try:
            seen += [read(node.files[role])] if role in node.files else []
        except (ValueError, OSError) as error:
            return Check(name, f"{name}.{role}: {error}")
    return Check(name, None, ", ".join(seen))


def _sources(node: Node) -> Iterator[Check]:
    """The first rows of each source, at least, must be what the source reads."""
    for number, settings in enumerate(node.settings["sources"]):
        path = node.files.get(f"source{number}")
        given = {name: value for name, value in settings.items() if name != "version"}
        source = DataSource(**(given | {"path": str(path)} if path else given))
        if is_hub_id(source.path):
            yield Check(f"source {source.source}", None, "from the hub, when the stage runs")
        else:
            yield _source(source)


def _prepared(forecasts: Sequence[Forecast]) -> Iterator[Check]:
    """Data that are prepared already must fit what will be done with them."""
    known = {entry.node.id: entry for entry in forecasts}
    for entry in forecasts:
        check = getattr(stage_module(entry.node), "check_data", None)
        if check is None or entry.cached is True:
            continue
        data = known[entry.node.inputs["data"]]
        if data.cached is not True or data.artifact is None or not data.artifact.path.exists():
            continue
        try:
            check(entry.node.settings, data.artifact.path)
        except ValueError as error:
            yield Check(data.node.label, str(error))
        else:
            yield Check(data.node.label, None, "the longest group fits a row")


def _dev_samples(recipe: Recipe, forecasts: Sequence[Forecast]) -> Iterator[Check]:
    """What the evaluations on the way will sample of dev prompts."""
    known = {entry.node.id: entry for entry in forecasts}
    trainings = [entry.node for entry in forecasts if entry.node.stage == "train" and entry.cached is not True]
    if not trainings or recipe.prepare.dev_fraction == 0:
        return
    from bnf.groups import DEV

    config = recipe.train_config()
    data = known[trainings[0].inputs["data"]]
    prepared = data.artifact.path if data.cached is True and data.artifact is not None else None
    num_groups, num_dev = (_num_groups(prepared / part) if prepared else None for part in ("", DEV))
    if prepared and num_dev is None:
        return
    samples = config.num_dev_samples(num_dev) if num_dev is not None else config.dev_prompts
    evaluations = config.num_evaluations(num_groups)
    most = config.num_dev_samples(sys.maxsize)
    number = f"{samples} samples" if samples is not None else f"a sample of each dev prompt, {most} at most,"
    up_to = "" if num_groups is not None else "up to "
    times = f"{up_to}{evaluations} evaluations" if evaluations is not None else f"evaluations every {config.eval_steps:g} steps"
    rounds = f" in each of {len(trainings)} trainings" if len(trainings) > 1 else ""
    total = ""
    if evaluations is not None:
        total = f": at most {(samples or most) * config.dev_max_new_tokens * evaluations * len(trainings):,} tokens"
    yield Check(
        "dev samples",
        None,
        f"{number} of up to {config.dev_max_new_tokens} tokens (train.dev_prompts, train.dev_max_new_tokens) at {times} "
        f"(train.eval_steps){rounds}{total}",
        is_cost=True,
    )


def _num_groups(folder: Path) -> int | None:
    """How many groups a prepared data set holds; None where there is none."""
    from safetensors import safe_open

    from bnf.groups import GROUPS_FILE

    if not (folder / GROUPS_FILE).is_file():
        return None

    with safe_open(folder / GROUPS_FILE, framework="numpy") as file:
        (number,) = file.get_slice("prompt_lengths").get_shape()
    return int(number)


def _prompts(node: Node) -> Check:
    """The pool and the held-out prompts must be there, as far as they don't come from elsewhere when the stage runs."""
    settings, local = node.settings, node.files.get("prompts")
    name, number = f"prompts of {settings['source']}", settings["num_prompts"] + settings["held_out_prompts"]
    makes_its_own = hasattr(importlib.import_module(f"data.sources.{settings['source']}"), "make")
    if local is None and not makes_its_own:
        return Check(name, None, "from elsewhere, when the stage runs")
    try:
        prompts = load_prompts(settings["source"], str(local) if local else None, number, **settings["place"])
    except (ValueError, OSError) as error:
        return Check(name, str(error))
    return Check(name, None, f"{len(prompts)} prompts")


def _source(source: DataSource) -> Check:
    name = f"source {source.source}"
    parse = Parser(source)
    try:
        first = [(raw, parse(raw)[1]) for raw in itertools.islice(Reader(source), _FIRST_ROWS)]
    except (ValueError, OSError) as error:
        return Check(name, f"data.path must be readable by the source {source.source}, got {source.path}: {error}")
    bad = [(raw, row) for raw, row in first if isinstance(row, Bad)]
    if len(bad) == len(first):
        seen = f"line {bad[0][0].where}: {bad[0][1].detail}" if bad else "no row"
        return Check(
            name, f"data.path must hold rows of the source {source.source}, got {source.path}, {seen}; check data.columns"
        )
    return Check(name, None, Path(source.path).name)


def _pairs(recipe: Recipe) -> Check:
    config = recipe.train_config()
    objective = load_objective(config.objective, config.objective_options)
    name = f"objective {config.objective}"
    if objective.needs_pairs and recipe.prepare.pairing == "none":
        return Check(
            name, f"prepare.pairing must be best_worst or all for {config.objective}, got none; set prepare.pairing=best_worst"
        )
    if objective.needs_pairs and recipe.prepare.masked_share > 0:
        return Check(
            name,
            f"prepare.mask_fraction must be 0 for {config.objective}, which needs pairs, got {recipe.prepare.masked_share}",
        )
    return Check(name, None, "needs pairs" if objective.needs_pairs else "takes single completions")


def _memory(weights: int, config: TrainConfig) -> Check:
    """Training on a CPU keeps float32 weights, gradients and two moments: 16 bytes a parameter, 8 times bfloat16 weights; beside
    adapters the weights alone. Each process has its own.
    """
    available = available_memory()
    needed = (2 if config.lora_r else 8) * weights * config.nproc_per_node
    if available is not None and shutil.which("nvidia-smi") is None and needed > available:
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
    """What a training imports beside torch and transformers."""
    asked = {name: f"report_to={name}" for name in config.loggers if name in ("tensorboard", "wandb")}
    if config.lora_r:
        asked["peft"] = f"lora_r={config.lora_r}"
    for package, setting in asked.items():
        missing = importlib.util.find_spec(package) is None
        problem = f"train.{setting} must have the package {package}, got an installation without it; pip install {package}"
        yield Check(f"package {package}", problem if missing else None, "installed")


def available_memory() -> int | None:
    """Memory that can be had without swapping, in bytes; None where the system doesn't say."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return None
    fields = dict(line.split(":", 1) for line in info.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def _disk(home: Path) -> Check:
    existing = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        return Check("disk", f"BNF_HOME must be writable, got {home}; set BNF_HOME to another folder")
    problem = (
        f"the disk of {home} must have 1 GiB free, got {free / GIB:.2f} GiB; free some or move BNF_HOME" if free < GIB else None
    )
    return Check("disk", problem, f"{free / GIB:.0f} GiB free")


def _weights_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
