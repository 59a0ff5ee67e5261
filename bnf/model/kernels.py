"""Which kernels compute a model's attention on CUDA: `train.attention`, and what this card can do.

A kernel may fail on a card: it doesn't compile, it needs more shared memory than there is, it takes no heads of that size, or it gives
other values. So each one is tried before anything costly, on small tensors in the shapes of the model's own layers, forward and
backward, and compared with the blocks. With `auto` the next one takes the place of one that fails, for all layers and all rows, with a
warning that names the error. What a row meets later is no failure of a kernel, and is raised.

On a CPU there is nothing to choose: blocks serve.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bnf.data.packing import Span
from bnf.model.attention import ATTENTION, FASTEST, KERNELS, segment_attention, serving
from bnf.model.loading import empty_model
from bnf.model.segments import SegmentPlan

_logger = logging.getLogger(__name__)

# Rows of two lengths: for the second one FlexAttention is compiled for any length, as it then serves all rows.
_SHARED_ROWS = ((Span(0, 150, (60, 45)), Span(255, 30, (20, 9, 1))), (Span(0, 90, (50, 70)), Span(210, 160, (33, 3))))
_PLAIN_ROWS = ((Span(0, 150, (60,)), Span(210, 1, (1,)), Span(212, 30, (50,))),)

# FlashAttention's kernels for windows are others: this one is shorter than the sequences that it is tried on.
_SHORT_WINDOW = 16

# Relative errors against blocks in float32, of the output or a gradient, that only a wrong kernel has. Rounding gives some 1e-2 in half
# precision, and in float32 some 1e-3 where the card multiplies in TF32.
_TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.1, torch.float32: 0.02}


class KernelError(ValueError):
    """A kernel that was asked for by name doesn't serve here."""


@dataclass(frozen=True)
class Shape:
    """What a layer gives to attention: numbers of heads, their size, how scores are scaled, windowed and soft-capped, and whether there
    are sinks.
    """

    num_heads: int
    num_key_heads: int
    head_dim: int
    scaling: float
    window: int | None
    softcap: float | None
    sinks: bool = False


def implementation(model_dir: Path, attention: str, *, bf16: bool, made: str | None = None) -> str:
    """The name of the attention implementation (`bnf.model.attention`) by which this machine computes the model's rows.

    Args:
        attention: `train.attention`.
        bf16: whether rows are computed in bfloat16.
        made: the implementation that computed the reference, which `auto` follows: where it did without a kernel, so does this.

    Raises:
        KernelError: a kernel that is asked for by name can't serve.
        torch.OutOfMemoryError: the device has no memory left.
    """
    if not there_is_a_choice():
        if attention == "flex":
            raise KernelError(
                "attention must not be flex on a CPU, got 'flex': torch's FlexAttention has no backward pass there; "
                "write train.attention=auto, or leave it out"
            )
        return ATTENTION
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return chosen(layer_shapes(empty_model(model_dir)), attention, torch.bfloat16 if bf16 else torch.float32, device, made)


def there_is_a_choice() -> bool:
    """Whether this device has more kernels than blocks."""
    return torch.cuda.is_available()


def in_common(names: Sequence[str]) -> str:
    """The implementation of the kernels that all of these have; blocks are everywhere."""
    if len(set(names)) == 1:
        return names[0]
    shared = [kernel for kernel in KERNELS[names[0]] if all(kernel in KERNELS[name] for name in names)]
    return _named(*shared, *(() if "flex" in shared or "blocks" in shared else ("blocks",)))


def could_have_made(made: str, attention: str) -> bool:
    """Whether a pass with this `train.attention` on this kind of device could have served by the implementation `made`."""
    if not there_is_a_choice():
        return made == ATTENTION
    return made in KERNELS and (attention == "auto" or KERNELS[made] == (attention,))


def layer_shapes(model: PreTrainedModel) -> frozenset[Shape]:
    """What the model's layers give to attention; a model on the meta device shows it too."""
    shapes = set()
    for module in model.get_decoder().modules():
        if not hasattr(module, "num_key_value_groups"):
            continue
        config = module.config
        num_heads = config.num_attention_heads
        window = getattr(module, "sliding_window", getattr(config, "sliding_window", None)) or None
        softcap = getattr(config, "attn_logit_softcapping", None)
        # A row whose sequences are all shorter than the window is computed without one.
        for each in {None, window}:
            key_heads = num_heads // module.num_key_value_groups
            sinks = getattr(module, "sinks", None) is not None
            shapes.add(Shape(num_heads, key_heads, module.head_dim, module.scaling, each, softcap, sinks))
    assert shapes, f"{type(model).__name__} must have attention layers"
    return frozenset(shapes)


def chosen(shapes: frozenset[Shape], attention: str, dtype: torch.dtype, device: str, made: str | None) -> str:
    """The implementation of the kernels that serve all these shapes."""
    if attention == "blocks":
        return _named("blocks")
    if attention != "auto":
        _require(attention, shapes, dtype, device)
        return _named(attention)
    if made in KERNELS:
        wanted: Sequence[str] = KERNELS[made]
        if wanted != FASTEST:
            _logger.warning("attention on this device is computed by %s, as the reference was", " and ".join(wanted))
    else:
        wanted = FASTEST
    kernels = [kernel for kernel in wanted if kernel == "blocks" or _is_served(kernel, shapes, dtype, device)]
    if "flex" not in kernels and "blocks" not in kernels:
        kernels.append("blocks")
    return _named(*kernels)


def _named(*kernels: str) -> str:
    return next(name for name, known in KERNELS.items() if known == kernels)


def _is_served(kernel: str, shapes: frozenset[Shape], dtype: torch.dtype, device: str) -> bool:
    """Whether `auto` takes the kernel. That varlen can't serve a dtype or a soft cap is known, and no failure."""
    return not _rule_against(kernel, shapes, dtype) and failure(kernel, shapes, dtype, device) is None


def _require(kernel: str, shapes: frozenset[Shape], dtype: torch.dtype, device: str) -> None:
    reason = _rule_against(kernel, shapes, dtype) or failure(kernel, shapes, dtype, device)
    if reason:
        raise KernelError(
            f"attention must be a kernel that serves on {_device_name(device)}, got {kernel!r}, which doesn't: {reason}; "
            "write train.attention=auto, which takes the next one, or train.attention=blocks"
        )


def _rule_against(kernel: str, shapes: frozenset[Shape], dtype: torch.dtype) -> str | None:
    if kernel != "varlen":
        return None
    plan = SegmentPlan(_PLAIN_ROWS[0])
    for shape in shapes:
        try:
            serving(torch.device("cuda"), dtype, plan, shape.softcap, ("varlen",), torch.empty(0) if shape.sinks else None)
        except ValueError as error:
            return str(error)
    return None


@cache
def failure(kernel: str, shapes: frozenset[Shape], dtype: torch.dtype, device: str) -> str | None:
    """How the kernel fails on these shapes, in words; None where it serves. It is tried, and warned of, once in a process.

    Raises:
        torch.OutOfMemoryError: the device has no memory left, which says nothing of the kernel.
        RuntimeError: the device computes nothing any more after the failure.
    """
    try:
        for shape in sorted(shapes, key=str):
            _try(kernel, shape, dtype, device)
    # Compilers and drivers raise what they like.
    except Exception as error:
        out_of_memory = next((each for each in _causes(error) if isinstance(each, torch.OutOfMemoryError)), None)
        if out_of_memory is not None:
            raise out_of_memory from error
        reason = f"{type(error).__name__}: {_first_lines(str(error))}"
    else:
        return None
    try:
        _compute(device)
    except Exception as error:
        raise RuntimeError(
            f"attention must leave the device working, got {kernel!r}, after which it computes nothing any more ({reason}); "
            "write train.attention=blocks, and start again"
        ) from error
    _logger.warning("the attention kernel %s does not serve on %s: %s", kernel, _device_name(device), reason)
    return reason


def _compute(device: str) -> None:
    """Anything: after an illegal access CUDA refuses all that follows."""
    torch.ones(1, device=device).sum().item()


def _try(kernel: str, shape: Shape, dtype: torch.dtype, device: str) -> None:
    """Computes small rows by the kernel, forward and backward, and compares them with blocks in float32.

    Raises:
        ArithmeticError: the values differ.
    """
    # FlexAttention is compiled with the window that rows will have.
    window = shape.window if kernel == "flex" or shape.window is None else min(shape.window, _SHORT_WINDOW)
    for spans in _SHARED_ROWS if kernel == "flex" else _PLAIN_ROWS:
        plan = SegmentPlan(spans)
        leaves, grad = _leaves(shape, plan, dtype, device)
        results = []
        for name, inner in ((kernel, dtype), ("blocks", torch.float32)):
            own = [leaf.detach().to(inner).requires_grad_() for leaf in leaves]
            with torch.enable_grad(), torch.autocast(torch.device(device).type, enabled=False):
                output = attend(name, shape, window, plan, *own)
                results.append([output.detach(), *torch.autograd.grad(output, own, grad.to(inner))])
        names = ("output", "gradient by the query", "gradient by the key", "gradient by the value", "gradient by the sinks")
        for name, ours, theirs in zip(names[: len(results[0])], *results, strict=True):
            error = float((ours.float() - theirs).norm() / theirs.norm())
            # NaN is no small error either.
            if not error <= _TOLERANCE[dtype]:
                raise ArithmeticError(f"its {name} differs from that of blocks by {error:.2g} of the norm, for {shape}")


def attend(
    kernel: str,
    shape: Shape,
    window: int | None,
    plan: SegmentPlan,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attention by this kernel, from query, key and value (1, T, H, D) as layers project them, and sinks (H,); (1, T, H, D)."""
    from bnf.model import cuda_attention

    module = torch.nn.Module()
    # As layers give them: heads are moved forward.
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    if kernel == "varlen":
        return cuda_attention.varlen(query, key, value, plan, shape.scaling, window)
    if kernel == "flex":
        return cuda_attention.flex(module, query, key, value, plan, shape.scaling, window, shape.softcap, sinks)
    options = {"segments": plan, "scaling": shape.scaling, "sliding_window": window, "softcap": shape.softcap, "s_aux": sinks}
    output, _ = segment_attention(module, query, key, value, None, kernels=("blocks",), **options)  # type: ignore[arg-type]
    return output


def _leaves(shape: Shape, plan: SegmentPlan, dtype: torch.dtype, device: str) -> tuple[list[Tensor], Tensor]:
    """Query, key and value (1, T, H, D), the sinks (H,) where there are some, and a gradient of the output."""
    generator = torch.Generator().manual_seed(0)

    def drawn(num_heads: int) -> Tensor:
        return torch.randn(1, plan.num_tokens, num_heads, shape.head_dim, generator=generator).to(device, dtype)

    # Scores of about 1, whatever the scaling.
    query = drawn(shape.num_heads) / (shape.scaling * shape.head_dim**0.5)
    leaves = [query, drawn(shape.num_key_heads), drawn(shape.num_key_heads)]
    if shape.sinks:
        leaves.append(torch.randn(shape.num_heads, generator=generator).to(device, dtype))
    return leaves, drawn(shape.num_heads)


def _causes(error: BaseException) -> list[BaseException]:
    """The error, and those that it was raised from; compilers keep theirs in `inner_exception`."""
    found: list[BaseException] = []
    left: list[object] = [error]
    while left:
        each = left.pop()
        if isinstance(each, BaseException) and each not in found:
            found.append(each)
            left += [each.__cause__, each.__context__, getattr(each, "inner_exception", None)]
    return found


def _first_lines(text: str) -> str:
    """The beginning of a message: compilers add their commands and sources to it."""
    shown = " ".join(text.split())
    return shown if len(shown) <= 300 else f"{shown[:300]} …"


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device
