"""Linear layers whose weights are held in 4 bits, NF4 with doubly quantized scales (QLoRA, https://arxiv.org/abs/2305.14314), by
bitsandbytes.

Such weights have no gradient: adapters are trained beside them. Embeddings and head stay whole, since the chunked head reads the head's
weight itself.
"""

from typing import Protocol, cast

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel


class _Packed(Protocol):
    """bitsandbytes' packed weight."""

    data: Tensor
    quant_state: object


class _Quantized(Protocol):
    """bitsandbytes' linear layer."""

    weight: _Packed
    bias: Tensor | None
    in_features: int
    out_features: int


class _Quantizer(Protocol):
    """What transformers keeps of how it loaded a model."""

    def remove_quantization_config(self, model: PreTrainedModel) -> None: ...


def quantization(model: PreTrainedModel) -> BitsAndBytesConfig:
    """How transformers shall load the weights of this model, which may be on the meta device: the decoder's linear layers in 4 bits,
    all others as they are.

    Raises:
        ValueError: the model has weights that bitsandbytes doesn't quantize, such as those of experts.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim > 2:
            raise ValueError(
                f"load_in_4bit must be false for {type(model).__name__}, got true: its {name} of shape {tuple(parameter.shape)} would "
                "stay whole, as bitsandbytes quantizes linear layers alone; train adapters beside weights in bf16 (train.weights=bf16)"
            )
    decoder = set(model.get_decoder().modules())
    kept = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module not in decoder]
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=kept,
    )


def compute_as_linear(model: PreTrainedModel) -> None:
    """Makes the quantized layers compute what `torch.nn.Linear` of their dequantized weight would, also under autocast.

    bitsandbytes' own forward pass computes in a dtype of its own, casts biases for good, and on a CPU with AVX512-BF16 packs the weights
    of a model in evaluation for a kernel that has no gradient, which the training after it would use too.
    """
    import bitsandbytes

    class AsLinear(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            layer, device = cast(_Quantized, self), x.device.type
            if torch.is_autocast_enabled(device):
                x = x.to(torch.get_autocast_dtype(device))
            bias = None if layer.bias is None else layer.bias.to(x.dtype)
            output: Tensor = bitsandbytes.matmul_4bit(x, layer.weight, bias=bias, quant_state=layer.weight.quant_state)
            return output

    # Under its own name, by which peft and messages know it.
    kind = type("Linear4bit", (AsLinear, bitsandbytes.nn.Linear4bit), {})
    for module in model.modules():
        if type(module) is bitsandbytes.nn.Linear4bit:
            module.__class__ = kind


def is_quantized(model: nn.Module) -> bool:
    """Whether `load_model` loaded this model in 4 bits."""
    return getattr(model, "hf_quantizer", None) is not None


def whole(layer: nn.Module, delta: Tensor | None = None) -> nn.Linear:
    """A quantized layer as an ordinary one on the CPU: what its 4 bits stand for, plus `delta` (out, in), summed in float32."""
    import bitsandbytes

    quantized = cast(_Quantized, layer)
    weight: Tensor = bitsandbytes.functional.dequantize_4bit(quantized.weight.data, quantized.weight.quant_state)
    dtype, weight = weight.dtype, weight.float()
    if delta is not None:
        weight += delta.detach().float()
    linear = nn.Linear(quantized.in_features, quantized.out_features, bias=quantized.bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.to("cpu", dtype), requires_grad=False)
    if quantized.bias is not None:
        linear.bias = nn.Parameter(quantized.bias.detach().cpu(), requires_grad=False)
    return linear


def make_whole(model: PreTrainedModel) -> None:
    """Makes a quantized model an ordinary one again: `whole` replaces the layers that are still quantized."""
    import bitsandbytes

    for name, module in list(model.named_modules()):
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            model.set_submodule(name, whole(module))
    cast(_Quantizer, model.hf_quantizer).remove_quantization_config(model)
