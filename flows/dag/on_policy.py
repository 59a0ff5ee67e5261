"""The on-policy part of the DAG: rounds of sampling, labelling and training, each from the policy of the round before (arXiv 2404.14367).

A round is a training of its own, with its own optimizer and schedule. The reference of all rounds is the model that the first one
starts from (`fixed`), or each round's own starting point (`each_round`).
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from bnf.model.device import device_kind
from bnf.plugins import load, own_names
from bnf.training.config import BOOKKEEPING_FIELDS, REFERENCE_FIELDS
from data.reading.files import as_local
from data.reading.records import is_hub_id
from data.sampling.prompts import check_source
from evaluation.benchmarks import BENCHMARKS
from flows.dag.parts import endpoint, engine_settings, judge_nodes, judge_settings, plugin, url_version
from flows.errors import RecipeError
from flows.recipe.config import Recipe
from flows.recipe.sections import Label, Sample
from tasks.nodes import Node

BASE = "resolve/base"


def policy_node(recipe: Recipe) -> str:
    """The id of the node whose output is the aligned model."""
    return _of_round("train", recipe.sample.rounds, recipe.sample) if recipe.sample else "train"


def data_nodes(recipe: Recipe) -> list[str]:
    """The ids of the nodes whose groups are trained on."""
    if recipe.sample is None:
        return ["prepare"]
    return [_of_round("prepare", number, recipe.sample) for number in range(1, recipe.sample.rounds + 1)]


def rounds(recipe: Recipe, offline: Node | None) -> list[Node]:
    """The nodes of all rounds; `offline` prepares the recipe's `data` where a share of every round comes from there."""
    assert recipe.sample is not None
    nodes = [offline] if offline is not None else []
    for number in range(1, recipe.sample.rounds + 1):
        nodes += _round(recipe, recipe.sample, number, offline)
    return nodes


def training_nodes(recipe: Recipe, suffix: str | None, inputs: dict[str, str], reference: str, data: str) -> list[Node]:
    """The reference pass and the training on it: `inputs` are the training's model and what else it reads."""
    config = recipe.train_config()
    train = config.to_dict()
    return [
        Node(
            "reference",
            # Kinds of devices compute it in other parts: what one of them made is not the other's to the bit.
            {**config.reference_settings(), "device": device_kind()},
            {"model": reference, "data": data},
            model=suffix,
        ),
        Node(
            "train",
            {name: value for name, value in train.items() if name not in BOOKKEEPING_FIELDS},
            {**inputs, "data": data, "reference": "/".join(filter(None, ("reference", suffix)))},
            [f"bnf.objectives.{train['objective']}"],
            unkeyed={name: train[name] for name in BOOKKEEPING_FIELDS},
            model=suffix,
        ),
    ]


def _round(recipe: Recipe, sample: Sample, number: int, offline: Node | None) -> list[Node]:
    suffix = f"round{number}" if sample.rounds > 1 else None
    before = BASE if number == 1 else _of_round("train", number - 1, sample)
    samples, labelled, data = (_of_round(stage, number, sample) for stage in ("sample", "label", "prepare"))
    nodes = [_sample(recipe, sample, number, before, suffix)]
    assert recipe.label is not None
    nodes += _label(recipe, sample, recipe.label, samples, suffix, first=number == 1)
    if sample.rounds > 1:
        config = recipe.train_config().to_dict()
        shared = {name: config[name] for name in REFERENCE_FIELDS}
        nodes.append(Node("measure", shared, {"samples": samples, "policy": before, "model": BASE}, model=suffix))
    prepare = {
        # Samples come as token ids: nothing is rendered here, and no date has a say.
        **recipe.prepare.model_dump(exclude={"num_proc"}),
        "seed": recipe.seed,
        # Without offline groups a round's data are what its samples are.
        **({"offline_mix": sample.offline_mix, "round": number} if offline is not None else {}),
    }
    reads = {"labelled": labelled, "model": BASE} | ({"offline": offline.id} if offline is not None else {})
    nodes.append(Node("prepare", {"prepare": prepare}, reads, unkeyed={"num_proc": recipe.prepare.num_proc}, model=suffix))
    starts = {"model": before}
    reference = before
    if sample.reference == "fixed" and number > 1:
        reference, starts = BASE, {"model": before, "reference_model": BASE}
    return nodes + training_nodes(recipe, suffix, starts, reference, data)


def _of_round(stage: str, number: int, sample: Sample) -> str:
    return f"{stage}/round{number}" if sample.rounds > 1 else stage


def _sample(recipe: Recipe, sample: Sample, number: int, model: str, suffix: str | None) -> Node:
    source = plugin("data.sources", sample.source, "sample.source")
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
        "engine": engine_settings(sample.engine),
        "date": recipe.date,
    }
    code = [f"data.sources.{source}", f"evaluation.engines.{sample.engine}"]
    benchmark = verifiable(source)
    if benchmark is not None:
        code.append(f"evaluation.benchmarks.{benchmark}:{_prompts_of(benchmark)}")
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
    return Node("sample", settings, {"model": model}, code, files=files, model=suffix)


def verifiable(source: str) -> str | None:
    """The benchmark whose scorer can say which completions of a source's prompts are right; None where there is none."""
    module = importlib.import_module(f"data.sources.{source}")
    return source if hasattr(module, "make") or hasattr(module, "item") else None


def _prompts_of(benchmark: str) -> str:
    return ",".join(own_names(load(BENCHMARKS, benchmark), ["messages", "train_items"]))


def _label(recipe: Recipe, sample: Sample, label: Label, samples: str, suffix: str | None, *, first: bool) -> list[Node]:
    """The label stage: by the benchmark's own scorer, by ratings, or by a judge of the recipe's choice."""
    labeler = plugin("data.labelers", label.labeler, "label.labeler")
    code = [f"data.labelers.{labeler}"]
    source = plugin("data.sources", sample.source, "sample.source")
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
        code.append(f"evaluation.benchmarks.{scorer}:score")
    settings: dict[str, Any] = {"labeler": labeler, "benchmark": scorer}
    if not hasattr(importlib.import_module(f"data.labelers.{labeler}"), "open_judge"):
        return [Node("label", settings, {"samples": samples}, code, files=_label_file(recipe, label, labeler), model=suffix)]
    if label.judge is None:
        raise RecipeError(f"label.judge must name a judge for the labeler {labeler}, got none; add `judge: {{…}}` under label")
    if (labeler == "reward_model") != (label.judge.engine == "reward_model"):
        raise RecipeError(
            f"label.judge.engine must be a reward model for the labeler reward_model alone, got {label.judge.engine} for {labeler}; "
            "change one of them"
        )
    resolved, reads = judge_nodes("labeler", label.judge, recipe, "label.judge")
    if label.judge.engine != "reward_model":
        code.append(f"evaluation.engines.{label.judge.engine}")
    settings |= judge_settings(label.judge, recipe.date)
    node = Node("label", settings, {"samples": samples, **reads}, code, unkeyed=endpoint(label.judge, recipe), model=suffix)
    return [*(resolved if first else []), node]


def _label_file(recipe: Recipe, label: Label, labeler: str) -> dict[str, Path]:
    reads = getattr(importlib.import_module(f"data.labelers.{labeler}"), "READS_FILE", False)
    if reads != (label.path is not None):
        rule, got = ("name the file with the labels", "none") if reads else ("be left out", label.path)
        raise RecipeError(f"label.path must {rule} for the labeler {labeler}, got {got}; correct the label section")
    return {"file": recipe.find("label.path", label.path)} if label.path is not None else {}
