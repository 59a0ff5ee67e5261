"""What a run will cost besides the time of its stages, as the plan shows it before the run: samples of dev prompts, and money."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bnf.data.system_prompt import with_system_prompt
from bnf.plugins import load
from bnf.training.choosing import num_kept
from bnf.training.config import MOST_DEV_SAMPLES
from bnf.training.gpus import GIB
from evaluation.benchmarks import BENCHMARKS, Benchmark
from evaluation.engines import is_remote
from evaluation.judging.client import instructions
from evaluation.judging.protocols import PROTOCOLS
from evaluation.spending import BYTES_PER_TOKEN, Meter, Price, prompt_tokens
from evaluation.types import Item
from flows.dag.checks import Check
from flows.dag.on_policy import BASE
from flows.dag.trainable import resolved_folder
from flows.recipe.checkpoints import asked_checkpoints
from flows.recipe.config import Recipe
from tasks.nodes import Forecast, Node


def dev_samples(recipe: Recipe, forecasts: Sequence[Forecast]) -> Iterator[Check]:
    """How many samples of dev prompts the evaluations during training will cost."""
    known = {entry.node.id: entry for entry in forecasts}
    trainings = [entry.node for entry in forecasts if entry.node.stage == "train" and entry.cached is not True]
    if not trainings or recipe.prepare.dev_fraction == 0:
        return
    from bnf.data.groups import DEV

    config = recipe.train_config()
    if not config.draws_dev_samples:
        if config.dev_prompts is None:
            unasked = (
                f"none, as train.keep_best needs none; train.dev_prompts={MOST_DEV_SAMPLES} draws some, for KL, entropy and the check that "
                "they end"
            )
            yield Check("dev samples", None, unasked, is_cost=True)
        return
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
        f"(train.eval_steps){rounds}{total}; train.dev_prompts=0 draws none",
        is_cost=True,
    )


def kept_policies(recipe: Recipe, forecasts: Sequence[Forecast], home: Path) -> Iterator[Check]:
    """How much disk the policies take that a training keeps beside the last one."""
    if not any(entry.node.stage == "train" and entry.cached is not True for entry in forecasts):
        return
    config = recipe.train_config()
    number = num_kept(asked_checkpoints(recipe), config.keep_best)
    base = next(entry for entry in forecasts if entry.node.id == BASE)
    folder = resolved_folder(base)
    if not number or folder is None:
        return
    # With adapters those of the way are small until the training ends; those that are asked for are whole models then.
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    there = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(there).free
    given = {"evaluation.checkpoints": recipe.evaluation.checkpoints, "train.keep_best": config.keep_best != "none"}
    keys = " and ".join(key for key, is_set in given.items() if is_set)
    problem = None
    if free < number * size:
        problem = (
            f"the disk of {home} must have {number * size / GIB:.2f} GiB free for the {number} policies of {keys}, got "
            f"{free / GIB:.2f} GiB; free some, move BNF_HOME, or ask for fewer"
        )
    yield Check("kept policies", problem, f"up to {number} of {size / GIB:.2f} GiB beside the last one ({keys})", is_cost=True)


def _num_groups(folder: Path) -> int | None:
    """The number of groups in a prepared folder; None where it has none."""
    from safetensors import safe_open

    from bnf.data.groups import GROUPS_FILE

    if not (folder / GROUPS_FILE).is_file():
        return None

    with safe_open(folder / GROUPS_FILE, framework="numpy") as file:
        (number,) = file.get_slice("prompt_lengths").get_shape()
    return int(number)


@dataclass(frozen=True)
class Money:
    """US dollars for requests that aren't made yet: of what is known of their prompts alone, and with every text as long as it may be.

    Both are estimates: an endpoint counts tokens by its own tokenizer. Replies on file are counted too, though nobody pays for them again.
    """

    num_requests: int
    least: float
    most: float


def endpoint_cost(node: Node, nodes: Mapping[str, Node], recipe: Recipe) -> Money | None:
    """What a task's requests to a paid endpoint will cost; None where it asks none, where the model there has no price, or where the
    benchmark's items aren't on this machine.
    """
    engine = node.settings.get("engine") or {}
    if node.stage not in ("generate", "judge") or not is_remote(engine.get("name", "")):
        return None
    meter = Meter({name: Price(price.input, price.output) for name, price in recipe.spending.prices.items()})
    price = meter.price(engine["model"])
    if price is None:
        return None
    benchmark = load(BENCHMARKS, node.settings["benchmark"])
    generated = next((nodes[name] for role, name in node.inputs.items() if role.startswith("answers_")), node)
    items = items_here(benchmark, generated)
    if items is None:
        return None
    longest = generated.settings["max_new_tokens"]
    if node.stage == "generate":
        return _of_answers(benchmark, items, longest, price, node)
    return _of_judgments(benchmark, items, longest, node, price)


def items_here(benchmark: Benchmark, generated: Node) -> list[Item] | None:
    """The items that are answered, where they are a file, the project's own or made; None where a hub has them, or they can't be read."""
    source = generated.settings["source"]
    if source == "hub":
        return None
    path = str(generated.files["source"]) if source == "file" else "sample" if source == "sample" else None
    try:
        return benchmark.load(path, generated.settings["limit"])
    except (OSError, ValueError):
        # The preflight says what is wrong with them.
        return None


def _of_answers(benchmark: Benchmark, items: Sequence[Item], longest: int, price: Price, node: Node) -> Money:
    asked = (with_system_prompt(benchmark.messages(item), node.settings.get("system_prompt")) for item in items)
    prompts, turns = sum(map(prompt_tokens, asked)), benchmark.NUM_TURNS
    # Each turn is asked with the answers to those before it, and each sample by a request of its own.
    read = turns * prompts + len(items) * longest * turns * (turns - 1) // 2
    times = node.settings.get("sampling", {}).get("num_samples", 1)
    requests = times * turns * len(items)
    return Money(requests, price.cost(times * turns * prompts, 0), price.cost(times * read, requests * longest))


def _of_judgments(benchmark: Benchmark, items: Sequence[Item], longest: int, node: Node, price: Price) -> Money:
    settings, protocol = node.settings, load(PROTOCOLS, node.settings["form"])
    turns = 1 if protocol.COMPARES else benchmark.NUM_TURNS
    times = len(settings["models"]) * (2 if protocol.COMPARES and settings["orders"] == "both" else 1)
    requests = times * turns * len(items)
    texts = [text for item in items for turn in range(1, turns + 1) for part in protocol.texts(item, turn) for text in part]
    # A later turn is rated with the questions and answers before it.
    texts += [text for item in items for turn in range(1, turns + 1) for text in item.get("turns", [])[:turn]]
    known = requests * _tokens(instructions(protocol, settings["verdict"])) + times * sum(map(_tokens, texts))
    num_answers = times * len(items) * (2 if protocol.COMPARES else turns * (turns + 1) // 2)
    answers = num_answers * longest
    # A judge whose free text has no verdict is asked once more, with what it said.
    tries = 2 if settings["verdict"] == "text" and protocol.ASK_AGAIN is not None else 1
    said = requests * settings["max_judgment_tokens"]
    return Money(
        requests,
        price.cost(known, 0),
        price.cost(tries * (known + answers) + (tries - 1) * said, tries * said),
    )


def _tokens(text: str) -> int:
    return len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN
