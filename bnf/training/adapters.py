"""LoRA (arXiv 2106.09685) through peft: low-rank adapters are trained beside frozen weights.

Where the training starts from the reference, the frozen weights are the reference: the model with its adapters disabled. So no second
copy of the weights is needed.

An adapted model is peft's wrapper, which passes on what it doesn't define itself. It is typed as the model that it stands for.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, cast

import torch
from transformers import PreTrainedModel

from bnf.files import open_to_readers
from bnf.model.families import is_mixture
from bnf.model.loading import unread_parameters
from bnf.model.quantized import is_quantized, make_whole, whole
from bnf.training.config import TrainConfig

_logger = logging.getLogger(__name__)


def add_adapter(model: PreTrainedModel, config: TrainConfig) -> PreTrainedModel:
    """The model with adapters of rank `lora_r`, the only weights that are trained. Before the first step they add exactly zero.

    The seed alone decides their first values.

    Raises:
        ValueError: peft is not installed, or the target modules are not in the model, or are its embeddings or head.
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
        exclude_modules=_unread_modules(model),
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        try:
            adapted = get_peft_model(model, lora)
        except (ValueError, re.error) as error:
            if config.lora_dropout and "lora_dropout" in str(error):
                raise ValueError(
                    f"lora_dropout must be 0 for adapters of experts, got {config.lora_dropout}; set it to 0, or name modules of "
                    "attention alone in lora_target_modules"
                ) from error
            raise _wrong_modules(config, str(error).splitlines()[0]) from error
    targeted = cast(list[str], adapted.base_model.targeted_module_names)
    for name in config.lora_target_modules if isinstance(config.lora_target_modules, list) else []:
        # peft passes over a name that no module has, as long as another name has some.
        if not any(f".{module}".endswith(f".{name}") for module in targeted):
            raise _wrong_modules(config, f"no module is called {name}")
    # peft reaches experts, whose weights lie in one tensor for all of them, in the families that it knows.
    reaches_experts = bool(adapted.base_model.targeted_parameter_names)
    if config.lora_target_modules == "all-linear" and is_mixture(model.config) and not reaches_experts:
        _logger.warning(
            "lora_target_modules all-linear reaches no experts of the family %s: they and their routers stay as they are",
            model.config.model_type,
        )
    # The chunked head reads the head's weight itself, and tied embeddings are the head.
    if any(isinstance(module, LoraLayer) for module in (model.get_input_embeddings(), model.get_output_embeddings())):
        raise ValueError(
            f"lora_target_modules must leave out embeddings and head, got {config.lora_target_modules!r}; use all-linear"
        )
    return cast(PreTrainedModel, adapted)


def _unread_modules(model: PreTrainedModel) -> str | None:
    """A regular expression of the modules beside a model's decoder, where some are parts that text doesn't pass through, else None."""
    if not unread_parameters(model):
        return None
    decoder = model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    return rf"(?!{re.escape(prefix)}\.).*"


def _wrong_modules(config: TrainConfig, why: str) -> ValueError:
    return ValueError(
        f"lora_target_modules must name modules of the model, got {config.lora_target_modules!r} ({why}); all-linear takes every "
        "linear layer but the head, a list takes names such as q_proj, and any other text is a regular expression of whole names"
    )


def is_adapted(model: torch.nn.Module) -> bool:
    """Whether `add_adapter` made this model."""
    return hasattr(model, "peft_config")


def transformers_model(model: PreTrainedModel) -> PreTrainedModel:
    """The transformers model itself, without peft's wrapper; adapters, where there are some, lie in its layers."""
    return _peft(model).get_base_model() if is_adapted(model) else model


@contextmanager
def without_adapter(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """The frozen weights alone: the model that the training started from."""
    with _peft(model).disable_adapter():
        yield transformers_model(model)


def save_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Writes the adapters and their configuration as peft reads them."""
    model.save_pretrained(folder)
    # A template of a model card, with nothing filled in.
    (folder / "README.md").unlink(missing_ok=True)
    open_to_readers(folder)


def load_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Gives the adapters of a model the values that `save_adapter` wrote.

    Raises:
        ValueError: they are of other modules.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    found = cast(_Loaded, set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors")))
    if found.unexpected_keys:
        raise ValueError(f"{folder} must hold adapters of this model, got {found.unexpected_keys[0]}; delete the folder")


def merge(model: PreTrainedModel) -> PreTrainedModel:
    """The model with the adapters added to its weights: the same function, as a plain transformers model.

    Weights in 4 bits become what those 4 bits stand for, which is what the adapters were trained beside.
    """
    plain = transformers_model(model)
    return _merge_quantized(plain) if is_quantized(plain) else _peft(model).merge_and_unload(safe_merge=True)


def _merge_quantized(model: PreTrainedModel) -> PreTrainedModel:
    """peft would quantize the sum again."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            layer = cast(_Adapted, module)
            (adapter,) = layer.active_adapters
            model.set_submodule(name, whole(layer.get_base_layer(), layer.get_delta_weight(adapter)))
    make_whole(model)
    return model


class _Peft(Protocol):
    """What peft's wrapper gives beside what a model has."""

    def get_base_model(self) -> PreTrainedModel: ...

    def disable_adapter(self) -> AbstractContextManager[None]: ...

    def merge_and_unload(self, *, safe_merge: bool) -> PreTrainedModel: ...


class _Loaded(Protocol):
    """What torch says of the tensors that a model was given."""

    unexpected_keys: list[str]


class _Adapted(Protocol):
    """What peft's layer gives beside what a module has."""

    active_adapters: list[str]

    def get_base_layer(self) -> torch.nn.Module: ...

    def get_delta_weight(self, adapter: str) -> torch.Tensor: ...


def _peft(model: PreTrainedModel) -> _Peft:
    return cast(_Peft, model)
