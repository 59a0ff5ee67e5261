"""LoRA (arXiv 2106.09685) through peft: low-rank adapters are trained beside frozen weights.

The frozen weights are the reference as long as the training starts from them: with the adapter disabled the model is the
reference, and no second copy of the weights is needed.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from bnf.files import open_to_readers
from bnf.training.config import TrainConfig


def add_adapter(model: PreTrainedModel, config: TrainConfig) -> Any:
    """The model with adapters of rank `lora_r`, which alone are trained; they add exactly zero before the first step.

    The adapters' first values depend on the seed alone.

    Raises:
        ValueError: where peft is not installed, or the target modules are not in the model, or are its embeddings or head.
    """
    try:
        from peft import LoraConfig, get_peft_model
        from peft.tuners.lora import LoraLayer
    except ImportError as error:
        raise ValueError(f"lora_r must be 0 without peft, got {config.lora_r}; pip install peft") from error
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.lora_target_modules,
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        try:
            adapted = get_peft_model(model, lora)
        except (ValueError, re.error) as error:
            raise _wrong_modules(config, str(error).splitlines()[0]) from error
    tuner: Any = adapted.base_model
    for name in config.lora_target_modules if isinstance(config.lora_target_modules, list) else []:
        # peft passes over a name that no module has, where another one has some.
        if not any(f".{module}".endswith(f".{name}") for module in tuner.targeted_module_names):
            raise _wrong_modules(config, f"no module is called {name}")
    # The chunked head reads the head's weight itself, and tied embeddings are the head.
    if any(isinstance(module, LoraLayer) for module in (model.get_input_embeddings(), model.get_output_embeddings())):
        raise ValueError(
            f"lora_target_modules must leave out embeddings and head, got {config.lora_target_modules!r}; use all-linear"
        )
    return adapted


def _wrong_modules(config: TrainConfig, why: str) -> ValueError:
    return ValueError(
        f"lora_target_modules must name modules of the model, got {config.lora_target_modules!r} ({why}); all-linear takes every "
        "linear layer but the head, a list takes names such as q_proj, and any other text is a regular expression of whole names"
    )


def is_adapted(model: torch.nn.Module) -> bool:
    """Whether `add_adapter` made this model."""
    return hasattr(model, "peft_config")


def transformers_model(model: Any) -> PreTrainedModel:
    """The transformers model itself, in whose layers the adapters lie where there are some."""
    inner: PreTrainedModel = model.get_base_model() if is_adapted(model) else model
    return inner


@contextmanager
def without_adapter(model: Any) -> Iterator[Any]:
    """The frozen weights alone: the model that the training started from."""
    with model.disable_adapter():
        yield model


def save_adapter(model: Any, folder: Path) -> None:
    """Writes the adapters and their configuration as peft reads them."""
    model.save_pretrained(folder)
    # A template of a model card, with nothing filled in.
    (folder / "README.md").unlink(missing_ok=True)
    open_to_readers(folder)


def merge(model: Any) -> PreTrainedModel:
    """The model with the adapters added to its weights: the same function, as a plain transformers model."""
    merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    return merged
