"""Whether a reference of the recipe's choice can be one, where its files are on this machine: its tokenizer, its layers, its memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bnf.host import available_memory
from bnf.model.device import device_kind, devices
from bnf.training.config import TrainConfig
from bnf.training.gpus import GIB
from bnf.training.row_memory import weight_bytes
from flows.dag import hub
from flows.dag.checks import Check
from flows.dag.on_policy import BASE, REFERENCE_MODEL
from flows.dag.trainable import resolved_folder
from flows.recipe.config import Recipe
from tasks.nodes import Forecast

_KEY = "reference.model_name_or_path"


def reference_checks(recipe: Recipe, forecasts: Sequence[Forecast]) -> Iterator[Check]:
    """The checks of a reference that is another model than the base model; none where the recipe names none, or where its files are still
    to be fetched: then the reference pass makes them.
    """
    known = {entry.node.id: entry for entry in forecasts}
    if REFERENCE_MODEL not in known:
        return
    reference, base = (resolved_folder(known[name]) for name in (REFERENCE_MODEL, BASE))
    if reference is None:
        return
    problem = _computing_problem(recipe, reference)
    if problem is None and base is not None:
        problem = _tokenizer_problem(base, reference)
    yield Check(
        f"reference {reference.name}", problem, "the policy's tokenizer" if base is not None else "can be computed with"
    )
    yield _memory(recipe.train_config(), reference)


def _computing_problem(recipe: Recipe, folder: Path) -> str | None:
    """Why the model can't be computed with as the policy is; None where it can."""
    from bnf.training.checks import check_lengths, check_model_dir

    try:
        check_model_dir(replace(recipe.train_config(), lora_r=0), folder, evaluates=False)
        check_lengths(folder, recipe.prepare.max_length)
    except (ValueError, OSError) as error:
        return f"{_KEY} must be a model that a reference pass computes with, got {folder}: {error}"
    return None


def _tokenizer_problem(base: Path, reference: Path) -> str | None:
    from bnf.data.same_tokenizer import check_same_tokenizer

    try:
        check_same_tokenizer(base, reference)
    except (ValueError, OSError) as error:
        return str(error)
    return None


def _memory(config: TrainConfig, folder: Path) -> Check:
    """Its pass holds its weights alone, each process all of them or a share. The training loads the base model, and never this one."""
    # It imports torch, and most recipes need no such check.
    from bnf.model.loading import stored_dtype

    width = 0.5 if config.load_in_4bit else weight_bytes(config)
    needed = width * hub.weights_bytes(folder) / stored_dtype(folder).itemsize
    if device_kind() == "cuda":
        needed /= config.num_processes if config.sharded else 1
        there, where = min((memory for _, memory in devices()), default=None), "on a device"
    else:
        needed *= 1 if config.sharded else config.nproc_per_node
        there, where = available_memory(), "free"
    seen = f"{needed / GIB:.1f} GiB for the reference's weights"
    if there is None or needed <= there:
        return Check("memory of the reference", None, seen)
    return Check(
        "memory of the reference",
        f"{_KEY} must be a model whose weights memory holds, {needed / GIB:.1f} GiB, got {there / GIB:.1f} GiB {where}; take a smaller one",
    )
