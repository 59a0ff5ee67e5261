"""The on-policy part of the DAG: rounds of sampling, labelling and training, each from the policy of the round before (arXiv 2404.14367).

A round is a training of its own, with its own optimizer and schedule. The reference of all rounds is the model that the first one
starts from (`fixed`), or each round's own starting point (`each_round`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bnf.host import total_memory
from bnf.model.device import attention_counts, device_kind, devices
from bnf.objectives import BaseObjective, load_objective
from bnf.plugins import load
from bnf.training.config import TrainConfig
from bnf.training.fields import AUTO, BOOKKEEPING_FIELDS, MEMORY_FIELDS, PLACEMENT_FIELDS, REFERENCE_FIELDS
from data.labelers import LABELERS
from data.reading.files import as_local
from data.reading.records import is_hub_id
from data.sampling.prompts import check_source
from data.sources import SOURCES
from flows.dag.parts import (
    benchmark_code,
    conversation_settings,
    engine_settings,
    evaluation_engine,
    judge_nodes,
    judge_place,
    judge_settings,
    plugin,
    session,
    url_version,
)
from flows.errors import RecipeError
from flows.recipe.checkpoints import asked_checkpoints
from flows.recipe.config import Recipe
from flows.recipe.judge_sections import Label
from flows.recipe.sections import Sample
from tasks.job import Settings
from tasks.names import TaskName
from tasks.nodes import Node

BASE = TaskName("resolve", role="base").id
REFERENCE_MODEL = TaskName("resolve", role="reference_model").id


def policy_node(recipe: Recipe) -> str:
    """The id of the node whose output is the aligned model."""
    return _of_round("train", recipe.sample.rounds if recipe.sample else 1, recipe.sample)


def data_nodes(recipe: Recipe) -> list[str]:
    """The ids of the nodes whose groups are trained on."""
    rounds = recipe.sample.rounds if recipe.sample else 1
    return [_of_round("prepare", number, recipe.sample) for number in range(1, rounds + 1)]


def rounds(recipe: Recipe, offline: Node | None) -> list[Node]:
    """The nodes of all rounds; `offline` prepares the recipe's `data` where a share of every round comes from there."""
    assert recipe.sample is not None
    nodes = [offline] if offline is not None else []
    for number in range(1, recipe.sample.rounds + 1):
        nodes += _round(recipe, recipe.sample, number, offline)
    return nodes


def training_nodes(recipe: Recipe, round_: int | None, start: str, data: str, *, follows: bool = True) -> list[Node]:
    """The nodes of a reference pass and of the training from the model of the node `start` that reads it.

    A reference of the recipe's choice has the place of that model, or of the base model, in the objective alone: what training changed is
    measured from the base model all the same, whose log-probabilities another pass caches (`base`). Where the objective compares the policy
    with the one that the training starts from, and neither is that, one more pass caches that one's (`old`).

    Args:
        follows: whether the reference is the base model in later rounds too.
    """
    chosen = recipe.chosen_reference()
    reference = BASE if follows else start
    if chosen is not None and chosen.model_name_or_path is not None:
        reference = REFERENCE_MODEL
    inputs = {"model": start} | ({"reference_model": reference} if reference != start else {})
    inputs |= {"base_model": BASE} if chosen is not None and start != BASE else {}
    config = recipe.train_config()
    train, objective = config.to_dict(), _objective(config)
    # Kinds of devices differ in the last bits of a reference.
    settings, unkeyed = without_uncounted({**config.reference_settings(), "device": device_kind()})
    placed = {name: train[name] for name in PLACEMENT_FIELDS}
    found = _budget(config, start, data, round_) if config.max_tokens_per_row == AUTO else None
    reads = {"data": data} if found is None else {"data": data, "budget": found.id}
    process = training_session(round_)
    unkeyed = {**unkeyed, **placed}
    # Who else's ids the data might be read as, is looked at before the pass.
    others = {"tokenizer": BASE} if reference == REFERENCE_MODEL else {}
    divided = {"temperature": chosen.temperature} if chosen is not None and chosen.temperature != 1 else {}
    first = Node(
        "reference",
        {**settings, **divided},
        {"model": reference, **reads, **others},
        unkeyed=unkeyed,
        round=round_,
        session=process,
    )
    # Nothing but ratios and shifts reads the others: no KL pairs.
    plain = {**settings, "mismatched": False}
    made, cached = [first], {"reference": first.id}
    if chosen is not None:
        made.append(replace(first, settings=plain, inputs={"model": BASE, **reads}, role="base"))
        cached["base"] = made[-1].id
    if objective.needs_old and chosen is not None and start == BASE:
        cached["old"] = cached["base"]
    elif objective.needs_old and start != reference:
        made.append(replace(first, settings=plain, inputs={"model": start, **reads}, role="old"))
        cached["old"] = made[-1].id
    settings, unkeyed = without_uncounted(config.identity())
    if TaskName("train", round=round_).id == policy_node(recipe) and (kept := asked_checkpoints(recipe)):
        # Where they are saves, it counts when these are.
        settings = {
            **settings,
            "checkpoints": kept,
            **({"save_steps": config.save_steps} if kept[0].startswith("save") else {}),
        }
    if recipe.system_prompt is not None:
        # Rows that all have a system message of their own are the same with any, but the policy notes the recipe's.
        settings = {**settings, "conversations": recipe.system_settings()}
    return [
        *([] if found is None else [found]),
        *made,
        Node(
            "train",
            settings,
            {**inputs, **reads, **cached},
            [f"bnf.objectives.{train['objective']}"],
            unkeyed={
                **unkeyed,
                **placed,
                **{name: train[name] for name in BOOKKEEPING_FIELDS},
                "conversations": conversation_settings(recipe),
            },
            round=round_,
            session=process,
        ),
    ]


def _objective(config: TrainConfig) -> BaseObjective:
    return load_objective(config.objective, config.objective_options)


def training_session(round_: int | None) -> str:
    """The name of the child process of a training, of the reference pass before it and of the analysis after it."""
    return TaskName("train", round=round_).id


def _budget(config: TrainConfig, model: str, data: str, round_: int | None) -> Node:
    """The node that finds the largest row. Its key has what decides the memory: of the settings, and of the machine."""
    decide = {name: value for name, value in config.to_dict().items() if name in MEMORY_FIELDS}
    # Whatever doesn't matter on this kind of device isn't tried either.
    settings, _ = without_uncounted(decide)
    machine = [[name, memory] for name, memory in devices()] or [["CPU", total_memory()]]
    code = [f"bnf.objectives.{config.objective}"]
    return Node("budget", {"train": settings, "machine": machine}, {"model": model, "data": data}, code, round=round_)


def without_uncounted(settings: Settings) -> tuple[Settings, Settings]:
    """The settings that count for a key, and those that change nothing on this kind of device: attention's kernels on a CPU."""
    if attention_counts(settings["attention"]):
        return settings, {}
    return {name: value for name, value in settings.items() if name != "attention"}, {"attention": settings["attention"]}


def _round(recipe: Recipe, sample: Sample, number: int, offline: Node | None) -> list[Node]:
    round_ = _round_of(number, sample)
    before = BASE if number == 1 else _of_round("train", number - 1, sample)
    samples, labelled, data = (_of_round(stage, number, sample) for stage in ("sample", "label", "prepare"))
    nodes = [_sample(recipe, sample, number, before)]
    objective = _objective(recipe.train_config())
    assert recipe.label is not None
    nodes += _label(recipe, sample, recipe.label, samples, number)
    if sample.rounds > 1:
        config = recipe.train_config().to_dict()
        # Both models are compared as their folders hold them, which nobody quantized.
        shared, unkeyed = without_uncounted({name: config[name] for name in REFERENCE_FIELDS if name != "load_in_4bit"})
        if config["max_tokens_per_row"] == AUTO:
            # There are no rows yet, and a forward pass alone takes little.
            shared = {**shared, "max_tokens_per_row": TrainConfig.max_tokens_per_row}
        reads = {"samples": samples, "policy": before, "model": BASE}
        nodes.append(Node("measure", shared, reads, unkeyed=unkeyed, round=round_))
    prepare = {
        # Samples are token ids: no chat template is applied that could read a date.
        **recipe.prepare.model_dump(exclude={"num_proc"}),
        "seed": recipe.seed,
        # Which offline groups are mixed in depends on the round; a round's samples alone don't.
        **({"offline_mix": sample.offline_mix, "round": number} if offline is not None else {}),
        **({"every_sample": True} if objective.needs_every_sample else {}),
    }
    reads = {"labelled": labelled, "model": BASE} | ({"offline": offline.id} if offline is not None else {})
    nodes.append(Node("prepare", {"prepare": prepare}, reads, unkeyed={"num_proc": recipe.prepare.num_proc}, round=round_))
    return nodes + training_nodes(recipe, round_, before, data, follows=sample.reference == "fixed")


def _round_of(number: int, sample: Sample | None) -> int | None:
    """The round's number in node names; None where there is only one round."""
    return number if sample is not None and sample.rounds > 1 else None


def _of_round(stage: str, number: int, sample: Sample | None) -> str:
    """The id of a stage's node of a round."""
    return TaskName(stage, round=_round_of(number, sample)).id


def _sample(recipe: Recipe, sample: Sample, number: int, model: str) -> Node:
    source = plugin(SOURCES, sample.source, "sample.source")
    try:
        check_source(source, sample.path)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    settings = {
        "source": source,
        "path": None,
        "place": sample.place(),
        "num_prompts": sample.num_prompts,
        "held_out_prompts": sample.held_out_prompts,
        "prompts_per_round": sample.prompts_per_round,
        "samples_per_prompt": sample.samples_per_prompt,
        "temperatures": sample.temperatures(),
        "top_p": sample.top_p,
        "max_new_tokens": sample.max_new_tokens,
        "round": number,
        "seed": recipe.seed,
        "engine": engine_settings(sample.engine, max_model_len=sample.max_model_len),
        "date": recipe.date,
        **recipe.system_settings(),
        **recipe.thought_settings(),
    }
    code = [f"data.sources.{source}", f"evaluation.engines.{sample.engine}"]
    benchmark = verifiable(source)
    if benchmark is not None:
        code.append(benchmark_code(benchmark, "messages", "train_items"))
    files: dict[str, Path] = {}
    if sample.path is not None:
        path = as_local(sample.path)
        try:
            files["prompts"] = recipe.find("sample.path", path)
        except RecipeError:
            if "://" not in path and not is_hub_id(path):
                raise
            settings["path"] = path
            if "://" in path:
                settings["version"] = url_version("sample.path", path)
    round_ = _round_of(number, sample)
    loaded = settings["engine"], sample.placement()
    alike = model == BASE and loaded == (evaluation_engine(recipe), recipe.evaluation.placement())
    return Node(
        "sample",
        settings,
        {"model": model},
        code,
        files=files,
        unkeyed=sample.placement(),
        round=round_,
        # The base model's engine then generates what is evaluated, too.
        session=session("generate", "base") if alike else None,
    )


def verifiable(source: str) -> str | None:
    """The benchmark that can score completions of a source's prompts; None where no benchmark can."""
    return source if load(SOURCES, source).GIVES == "problems" else None


def _label(recipe: Recipe, sample: Sample, label: Label, samples: str, number: int) -> list[Node]:
    """The label stage: by the benchmark's own scorer, by ratings, or by a judge of the recipe's choice."""
    labeler = plugin(LABELERS, label.labeler, "label.labeler")
    code = [f"data.labelers.{labeler}"]
    source = plugin(SOURCES, sample.source, "sample.source")
    benchmark = verifiable(source)
    if labeler == "verifier" and benchmark is None:
        raise RecipeError(
            f"label.labeler must be judge, reward_model or ratings for the prompts of {source}, got verifier; no benchmark can score them"
        )
    if labeler == "ratings" and sample.rounds > 1:
        raise RecipeError(
            f"sample.rounds must be 1 for the labeler ratings, got {sample.rounds}: a round's samples are there to be rated when the round "
            "before is over; run one round after another, or label by a verifier, judge or reward_model"
        )
    # Held-out samples are scored by the benchmark, whoever labels the others.
    scorer = benchmark if labeler == "verifier" or sample.held_out_prompts else None
    if scorer is not None:
        code.append(benchmark_code(scorer, "score"))
    settings: Settings = {"labeler": labeler, "benchmark": scorer}
    round_ = _round_of(number, sample)
    if not load(LABELERS, labeler).ASKS_JUDGE:
        return [Node("label", settings, {"samples": samples}, code, files=_label_file(recipe, label, labeler), round=round_)]
    if label.judge is None:
        raise RecipeError(f"label.judge must name a judge for the labeler {labeler}, got none; add `judge: {{…}}` under label")
    if labeler == "reward_model" and label.judge.engine != "reward_model":
        raise RecipeError(
            f"label.judge.engine must be reward_model for the labeler reward_model, got {label.judge.engine}; "
            "write label.judge.engine=reward_model, or label.labeler=judge"
        )
    if labeler != "reward_model" and label.judge.engine == "reward_model":
        raise RecipeError(
            f"label.judge.engine must be one that generates for the labeler {labeler}, got reward_model; write label.labeler=reward_model, "
            "or another engine"
        )
    resolved, reads = judge_nodes("labeler", label.judge, recipe, "label.judge")
    if label.judge.engine != "reward_model":
        code.append(f"evaluation.engines.{label.judge.engine}")
    settings = {**settings, **judge_settings(label.judge, recipe.date)}
    node = Node("label", settings, {"samples": samples, **reads}, code, unkeyed=judge_place(label.judge, recipe), round=round_)
    return [*(resolved if number == 1 else []), node]


def _label_file(recipe: Recipe, label: Label, labeler: str) -> dict[str, Path]:
    reads = load(LABELERS, labeler).READS_FILE
    if reads != (label.path is not None):
        rule, got = ("name the file with the labels", "none") if reads else ("be left out", label.path)
        raise RecipeError(f"label.path must {rule} for the labeler {labeler}, got {got}; correct the label section")
    return {"file": recipe.find("label.path", label.path)} if label.path is not None else {}
