"""Models whose weights, gradients and optimizer states are spread over processes, by PyTorch's FSDP2.

Every process holds a share of each parameter. A decoder layer's parameters are gathered before they are used and given back afterwards;
the embeddings, the final norm and the head likewise, in units of their own. A sharded model must be called as a whole
(`model(row=…)`, which `row_logps` does): only its own forward gathers. Each of its calls needs all processes.

The weights are read by the first process alone and handed out parameter by parameter. No other process ever holds all of them.
Buffers, which are small, lie whole in every process.
"""

import gc
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils import swap_tensors
from transformers import PreTrainedModel

from bnf.model.attention import ATTENTION
from bnf.model.loading import Weights, empty_model, load_values, saved_buffers
from bnf.model.logps import accept_rows
from bnf.parallel.group import is_first, wait_for_all
from bnf.parallel.placement import Placement

# Makes adapters, say, in a model that has no weights yet; returns the model that holds them.
Adapt = Callable[[PreTrainedModel], PreTrainedModel]


def load_sharded(
    model_dir: Path,
    placement: Placement,
    *,
    gradient_checkpointing: bool = False,
    weights: Weights = "fp32",
    attention: str = ATTENTION,
    adapt: Adapt | None = None,
) -> PreTrainedModel:
    """`bnf.model.loading.load_model` for a model that the processes of `placement` share. All of them must call it. `adapt` adds
    adapters first.

    Raises:
        FileNotFoundError, ValueError: as `load_model`.
    """
    # The units of a model that was sharded before hold one another: without this it would still take memory.
    gc.collect()
    model = empty_model(model_dir, gradient_checkpointing=gradient_checkpointing, weights=weights, attention=attention)
    stored_names = {parameter: name for name, parameter in model.named_parameters()}
    if adapt is None:
        adapted, made = model, dict[str, Tensor]()
    else:
        adapted, made = _adapted(model, adapt, stored_names)
    names = {name: stored_names.get(parameter) for name, parameter in adapted.named_parameters()}
    _shard(model, placement)
    _allocate(model, cpu_offload=placement.cpu_offload)
    stored = load_values(model_dir) if is_first() else None
    # The others wait here as long as it takes: the groups of a mesh have shorter limits of their own.
    wait_for_all()
    for name, buffer in saved_buffers(model):
        if stored is not None:
            buffer.copy_(stored.pop(name))
        dist.broadcast(buffer, src=0)
    for name, parameter in adapted.named_parameters():
        source = names[name]
        if source is None:
            _hand_out(made[name], parameter)
        else:
            _hand_out(None if stored is None else stored.pop(source), parameter)
    return adapted


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether `load_sharded` made this model; without a wrapper of adapters around it."""
    return isinstance(model, FSDPModule)


def give_back(model: nn.Module) -> None:
    """Gives back what a forward pass without a backward pass left gathered: the parameters are shares afterwards."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole_parameters(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Each parameter's name and all of its values, on the CPU of the first process; empty elsewhere. All processes must take part."""
    give_back(model)
    for name, parameter in model.named_parameters():
        share = _share(parameter)
        mesh = share.device_mesh
        local = share.to_local().to(mesh.device_type)
        whole = DTensor.from_local(local, mesh, share.placements, shape=share.shape, stride=share.stride()).full_tensor()
        yield name, whole.cpu() if is_first() else whole.new_empty(0)


def _adapted(
    model: PreTrainedModel, adapt: Adapt, stored: Mapping[nn.Parameter, str]
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """The model with adapters, without values, and the first values of the adapters, which are the same in every process."""
    # peft gives adapters values only where the weight beside them has some. These zeros take no memory.
    for parameter in stored:
        swap_tensors(parameter, _like(parameter, torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)))
    adapted = adapt(model)
    made = {name: parameter.detach() for name, parameter in adapted.named_parameters() if parameter not in stored}
    for parameter in adapted.parameters():
        swap_tensors(parameter, _like(parameter, torch.empty_like(parameter, device="meta")))
    return adapted, made


def _like(parameter: nn.Parameter, data: Tensor) -> nn.Parameter:
    return nn.Parameter(data, requires_grad=parameter.requires_grad)


@cache
def _mesh(placement: Placement) -> DeviceMesh:
    """The processes, as FSDP2 takes them: one dimension of shares, or (copies, shares). Made once, as its groups stay open."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if placement.sharding == "hybrid":
        return init_device_mesh(device, (placement.num_nodes, placement.nproc_per_node), mesh_dim_names=("copies", "shares"))
    return init_device_mesh(device, (placement.num_nodes * placement.nproc_per_node,), mesh_dim_names=("shares",))


def _shard(model: PreTrainedModel, placement: Placement) -> None:
    """Splits the parameters, which lie on the meta device. Units are gathered whole: the layers, the embeddings, norm and head."""
    accept_rows(model)
    mesh = _mesh(placement)
    policy = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if placement.cpu_offload else OffloadPolicy()
    decoder = model.get_decoder()
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh, offload_policy=policy)
    last = [decoder.norm, head]
    if embeddings.weight is head.weight:
        # A parameter that two modules share belongs to one unit.
        last.append(embeddings)
    else:
        fully_shard(embeddings, mesh=mesh, offload_policy=policy)
    # The forward pass ends with them, and the backward pass begins with them.
    fully_shard(last, mesh=mesh, reshard_after_forward=False, offload_policy=policy)
    fully_shard(model, mesh=mesh, offload_policy=policy)


def _allocate(model: PreTrainedModel, *, cpu_offload: bool) -> None:
    """Gives each process memory for its share, and puts the buffers, which have their values, beside it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers(remove_duplicate=False)}
    model.to_empty(device="cpu" if cpu_offload else device)
    for name, values in buffers.items():
        place, _, own = name.rpartition(".")
        setattr(model.get_submodule(place), own, values.to(device))


def _hand_out(whole: Tensor | None, parameter: nn.Parameter) -> None:
    """Gives each process its share of the first process's `whole` values."""
    share = _share(parameter)
    device = share.device_mesh.device_type
    if whole is None:
        whole = torch.empty(share.shape, dtype=share.dtype, device=device)
    values = distribute_tensor(whole.to(device, share.dtype), share.device_mesh, share.placements)
    share.to_local().copy_(values.to_local())


def _share(parameter: nn.Parameter) -> DTensor:
    share = parameter.detach()
    assert isinstance(share, DTensor)
    return share
