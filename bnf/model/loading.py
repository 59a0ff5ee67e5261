"""Loading a model to train or to score: weights in float32, bf16 or 4 bits, attention over packed rows, nothing from outside the folder."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypedDict, cast

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from bnf.model.attention import ATTENTION
from bnf.model.experts import EXPERTS
from bnf.model.families import check_model
from bnf.model.lean import keep_less
from bnf.model.quantized import compute_as_linear, quantization
from bnf.model_folders import open_config, open_weights

# What weights are held in.
Weights = Literal["fp32", "bf16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Dtypes narrower than float32, by their names in safetensors' files.
_STORED = {"BF16": torch.bfloat16, "F16": torch.float16}


class _Found(TypedDict):
    """What transformers says of a folder's files: the weights they lack, and those of another shape (name, held, wanted)."""

    missing_keys: set[str]
    mismatched_keys: set[tuple[str, tuple[int, ...], tuple[int, ...]]]


def load_model(
    model_dir: Path,
    *,
    gradient_checkpointing: bool = False,
    weights: Weights = "fp32",
    load_in_4bit: bool = False,
    attention: str = ATTENTION,
) -> PreTrainedModel:
    """The model of a folder with `bnf.model.attention`, on the accelerator where there is one, its weights in float32 or bf16. With
    `load_in_4bit` the decoder's linear layers are held in 4 bits, and have no gradient.

    `attention` is the name of the implementation that computes its rows; `bnf.model.kernels` chooses it.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the model is of a family, or has a part, that packed rows or 4 bits do not support.
    """
    model = _read(model_dir, _DTYPES[weights], quantization(empty_model(model_dir)) if load_in_4bit else None, attention)
    _set_up(model, model_dir, gradient_checkpointing)
    if load_in_4bit:
        compute_as_linear(model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device)  # type: ignore[arg-type]


def load_values(model_dir: Path) -> dict[str, Tensor]:
    """The model's parameters and saved buffers by name, on the CPU and with the very values of its files; tied ones once.

    Raises:
        FileNotFoundError, ValueError: as `load_model`.
    """
    model = _read(model_dir, None)
    return {name: value.detach() for name, value in (*model.named_parameters(), *saved_buffers(model))}


def saved_buffers(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The buffers that a model's files hold, by name. All others are what the configuration makes them."""
    saved = model.state_dict().keys()
    return [(name, buffer) for name, buffer in model.named_buffers() if name in saved]


def _dtype_of_files(model_dir: Path) -> torch.dtype:
    """The dtype of the files' floating-point tensors, which config.json need not name; float32 where there are several."""
    held = set()
    for path in model_dir.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            held |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  (the handle is no mapping)
    return _STORED[held.pop()] if len(held) == 1 and held <= _STORED.keys() else torch.float32


def empty_model(
    model_dir: Path, *, gradient_checkpointing: bool = False, weights: Weights = "fp32", attention: str = ATTENTION
) -> PreTrainedModel:
    """The same model without weights: its parameters lie on the meta device. It shows the layers at once, and can't compute.

    Raises:
        FileNotFoundError, ValueError: as `load_model`.
    """
    # Buffers, such as the frequencies of rotary embeddings, are in no file: they are made here.
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            _config(model_dir),
            dtype=_DTYPES[weights],
            attn_implementation=attention,
            experts_implementation=EXPERTS,
            trust_remote_code=False,
        )
    model.tie_weights()
    if (model_dir / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(model_dir, local_files_only=True)
    _set_up(model, model_dir, gradient_checkpointing)
    return model


def _read(
    model_dir: Path,
    dtype: torch.dtype | None,
    quantization_config: BitsAndBytesConfig | None = None,
    attention: str = ATTENTION,
) -> PreTrainedModel:
    """The model of a folder, with weights in `dtype`; None stands for one that keeps the values of the files."""
    config = _config(model_dir)
    try:
        loaded: object = open_weights(
            AutoModelForCausalLM.from_pretrained,
            model_dir,
            config=config,
            dtype=_dtype_of_files(model_dir) if dtype is None else dtype,
            quantization_config=quantization_config,
            attn_implementation=attention,
            experts_implementation=EXPERTS,
            # What doesn't fit is refused below.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(
            f"model_name_or_path must be a folder with whole files, got {model_dir} ({error}); fetch the model again"
        ) from error
    model, found = cast(tuple[PreTrainedModel, _Found], loaded)
    _check_weights(model, model_dir, found)
    return model


def _check_weights(model: PreTrainedModel, model_dir: Path, found: _Found) -> None:
    """transformers gives weights that the files lack, or hold in another shape, random values."""
    wrong = [f"without {name}" for name in sorted(found["missing_keys"])]
    wrong += [
        f"with {name} of shape {tuple(held)}, not {tuple(wanted)}" for name, held, wanted in sorted(found["mismatched_keys"])
    ]
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = bool(model._tied_weights_keys) and getattr(model.config, "tie_word_embeddings", False)
    if tied and embeddings.weight is not head.weight:
        wrong.append("with a head beside the embeddings, which config.json ties (tie_word_embeddings)")
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ValueError(
            f"model_name_or_path must be a folder whose files hold the weights that config.json says, got {model_dir} {wrong[0]}{more}; "
            "fetch the model again, or correct config.json"
        )


def _config(model_dir: Path) -> PretrainedConfig:
    if not (model_dir / "config.json").is_file():
        raise FileNotFoundError(
            f"model_name_or_path must be a folder with config.json, got {model_dir}; download or convert the model"
        )
    stored_dtype(model_dir)
    config = open_config(model_dir)
    check_model(config)
    return config


def _set_up(model: PreTrainedModel, model_dir: Path, gradient_checkpointing: bool) -> None:
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise ValueError(f"the model's output head must have no bias, got one in {model_dir}; use a model without it")
    if gradient_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise ValueError(
                f"gradient_checkpointing must be false for {type(model).__name__}, got true; lower max_tokens_per_row to save memory"
            )
        model.gradient_checkpointing_enable({"use_reentrant": False})
    for parameter in unread_parameters(model):
        # Processes would wait for its gradient, and a checkpoint for its optimizer's state.
        parameter.requires_grad_(False)
    keep_less(model)


def unread_parameters(model: PreTrainedModel) -> list[nn.Parameter]:
    """The parameters of parts that text doesn't pass through, such as a vision tower: they get no gradient."""
    parts = (model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings())
    read = {parameter for part in parts for parameter in part.parameters()}
    return [parameter for parameter in model.parameters() if parameter not in read]


def stored_dtype(model_dir: Path) -> torch.dtype:
    """The dtype that a model folder's config names: what its weights are saved in."""
    config = json.loads((model_dir / "config.json").read_text())
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype in {model_dir}/config.json must name a torch dtype, got {name!r}; use bfloat16 or float32")
    return dtype


@dataclass(frozen=True)
class Numerics:
    """What the bits of a forward pass depend on besides weights, rows and dtype.

    On CPU the number of threads counts: it decides how matrix products are split, and so the order of their sums. AMX counts too:
    the kernel grants it to each process, or doesn't.
    """

    torch: str
    device: str
    num_threads: int | None

    def to_json(self) -> dict[str, str | int | None]:
        """The fields as numerics.json holds them."""
        return asdict(self)


def numerics() -> Numerics:
    """The numerics of this process."""
    if torch.cuda.is_available():
        return Numerics(torch.__version__, torch.cuda.get_device_name(), None)
    kernels = torch.backends.cpu.get_cpu_capability() + (" and AMX" if torch.cpu._init_amx() else "")
    return Numerics(torch.__version__, f"CPU with {kernels}", torch.get_num_threads())
