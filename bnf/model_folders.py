"""Opening a model folder with transformers. Everything in the project that does so does it here: a folder's own code is never run, nothing
comes from outside the folder, and weights are read from safetensors alone. And whether a folder's files are its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

T = TypeVar("T")

KEY = "model_name_or_path"
# The weights that transformers reads, in one file or by the index of several.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_ADAPTER = "adapter_config.json"
# What transformers says where a folder can't be opened without code of its own.
_OWN_CODE = "custom code"


def open_config(folder: Path, *, key: str = KEY) -> PretrainedConfig:
    """The configuration of a model folder.

    Raises:
        ValueError: the model is none that transformers knows by itself; the message begins with the key.
    """
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = _opened(AutoConfig.from_pretrained, folder, key)
    except _OwnCodeError:
        raise
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{key} must be a model that transformers knows by itself, got {folder} ({error}); use another model"
        ) from error
    return config


def open_tokenizer(folder: Path, *, key: str = KEY) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder.

    Raises:
        ValueError: it needs code of its own; the message begins with the key. OSError, ValueError: as transformers, for what can't be read.
    """
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = _opened(AutoTokenizer.from_pretrained, folder, key)
    return tokenizer


def open_weights(model_class: Callable[..., T], folder: Path, *, key: str = KEY, **options: object) -> T:
    """A model with the weights of a folder.

    Args:
        model_class: What opens it: the `from_pretrained` of one of transformers' classes.
        options: Further ones of `from_pretrained`.

    Raises:
        ValueError: it needs code of its own, or as `refuse_other_weights`; the message begins with the key. OSError, SafetensorError: as
            transformers, for files that can't be read.
    """
    refuse_other_weights(folder, key)
    return _opened(model_class, folder, key, use_safetensors=True, **options)


def refuse_other_weights(folder: Path, key: str = KEY) -> None:
    """Refuses a folder in which transformers would read other weights than those that a key of the cache is made of.

    Pickled weights may hold code. An index may name files of other folders. An adapter beside the weights is put on by transformers, and
    not by vLLM.

    Raises:
        ValueError: naming the key, the folder, and what lies there.
    """
    # A policy's own adapter lies in a folder inside its folder.
    if (folder / _ADAPTER).exists():
        raise ValueError(
            f"{key} must be a folder of whole weights, got {folder} with {_ADAPTER}, an adapter that not every engine puts on; merge it "
            "into the weights, or remove it"
        )
    pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin*"))
    if pickled and not any((folder / name).exists() for name in _WEIGHTS):
        raise ValueError(
            f"{key} must hold its weights in {_WEIGHTS[0]}, or shards of it with {_WEIGHTS[1]}, got {folder} with {pickled[0]} alone, "
            "which is pickled and never read; convert the weights to safetensors"
        )
    index = folder / _WEIGHTS[1]
    shards = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values() if index.is_file() else ()
    if outside := sorted({name for name in map(str, shards) if Path(name).name != name}):
        raise ValueError(
            f"{key} must have all of its weights in its folder, got {outside[0]!r} in {index}; move the file there, and name it so in the "
            "index"
        )


def refuse_foreign_links(folder: Path, files: Iterable[Path], key: str = KEY) -> None:
    """Refuses links by which a model folder would carry other files of this machine into policies, exports, a shared store and the hub.

    Raises:
        ValueError: naming the key, the link, and where it leads.
    """
    for file in files:
        if not is_own(file, folder):
            raise ValueError(
                f"{key} must be a folder of files of its own, which policies and exports get copies of, got {file}, which leads to "
                f"{file.resolve()}; put a copy of that file in the link's place, or remove the link"
            )


def is_own(file: Path, folder: Path) -> bool:
    """Whether a file is the model folder's own: it lies there, among the same model's blobs in the hub's cache, or under its name in the
    folder to which all of the files lead, config.json too."""
    real, root = file.resolve(), folder.resolve()
    if real.is_relative_to(root):
        return True
    if root.parent.name == "snapshots" and real.parent == root.parent.parent / "blobs":
        return True
    config = folder / "config.json"
    if not config.is_symlink():
        return False
    origin = (folder / config.readlink()).parent
    same = origin / file.relative_to(folder)
    leads_there = config.readlink().name == config.name and origin.resolve() != root
    return leads_there and same.resolve() == real and is_own(same, origin)


class _OwnCodeError(ValueError):
    """A model folder that can't be opened without code of its own."""


def _opened(opening: Callable[..., T], folder: Path, key: str, **options: object) -> T:
    try:
        return opening(folder, local_files_only=True, trust_remote_code=False, **options)
    except ValueError as error:
        if _OWN_CODE not in str(error):
            raise
        # Without its cause, which advises to let the code run.
        raise _OwnCodeError(
            f"{key} must be a model that transformers knows by itself, got {folder}, which names code of its own (auto_map in its JSON "
            "files); code of a model folder is never run: use another model"
        ) from None
