"""The sizes of a model, from its config.json alone: parameters, matrix products, and what decides the memory of its layers.

The usual models are counted by arithmetic, within a millisecond and without torch. For all others transformers makes the model without
weights, which takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bnf.model.plain_models import is_plain

if TYPE_CHECKING:
    # It takes seconds.
    from torch import nn


@dataclass(frozen=True)
class Linear:
    """A matrix product of the decoder's layers, by the module's full name: `inputs` → `outputs` features.

    `share` is the part of its weights that a token meets: below 1 for experts, of which it is routed to some. Adapters and 4 bits are for
    modules of their own alone, `is_module`.
    """

    name: str
    inputs: int
    outputs: int
    share: float = 1.0
    is_module: bool = True

    @property
    def parameters(self) -> int:
        """Its weights, without a bias."""
        return self.inputs * self.outputs


@dataclass(frozen=True)
class ModelShape:
    """What decides a model's memory and arithmetic.

    Attributes:
        parameters: of the whole model, shared ones once.
        root_parameters: of the embeddings, the head and the last norm, which sharding keeps together.
        largest_layer: the parameters of the largest decoder layer.
        unused_parameters: of parts that text doesn't pass through, such as a vision tower: they get no gradient.
        query: features of all heads' queries in a layer; key: of all its key heads.
        intermediate: features that the MLP of a layer keeps of a token: what the first of its projections give.
        kept_by_norms: over all layers, features that norms keep beside the residual stream, such as those of queries and keys.
        begins_with_norm: whether attention and MLP read the output of a norm, and not the residual stream itself.
        stored_bytes: bytes of a parameter in the model's files, by the dtype that config.json names.
    """

    family: str
    hidden: int
    layers: int
    vocabulary: int
    query: int
    key: int
    intermediate: int
    tied: bool
    parameters: int
    root_parameters: int
    largest_layer: int
    linears: tuple[Linear, ...]
    unused_parameters: int = 0
    kept_by_norms: int = 0
    begins_with_norm: bool = True
    stored_bytes: int = 2

    @property
    def head_parameters(self) -> int:
        """The head's weights, which are also those of the embeddings where they are tied."""
        return self.vocabulary * self.hidden

    @property
    def linear_parameters(self) -> int:
        """The weights of all matrix products in the layers."""
        return sum(linear.parameters for linear in self.linears)

    @property
    def met_parameters(self) -> float:
        """Those of them that a token meets."""
        return sum(linear.parameters * linear.share for linear in self.linears)


def read_shape(config_file: Path) -> ModelShape:
    """The shape of the model that a config.json describes; nothing else has to be in its folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the model isn't supported, or transformers doesn't know it.
    """
    folder = config_file.parent
    if config_file.name == "config.json" and is_plain(folder, evaluates=False):
        return _plain_shape(json.loads(config_file.read_text(encoding="utf-8")))
    return _meta_shape(folder)


def _plain_shape(config: Mapping[str, object]) -> ModelShape:
    """Of Llama, Mistral, Qwen2, Qwen3 and OLMo 2 (`bnf.model.plain_models`), by arithmetic."""

    def size(name: str) -> int:
        return cast(int, config[name])

    family, hidden, inner = str(config["model_type"]), size("hidden_size"), size("intermediate_size")
    layers, vocabulary, heads = size("num_hidden_layers"), size("vocab_size"), size("num_attention_heads")
    # Qwen3's heads have 128 features where its configuration says nothing.
    head = cast(int, config.get("head_dim") or (128 if family == "qwen3" else hidden // heads))
    query, key = heads * head, size("num_key_value_heads") * head
    products = (
        ("self_attn.q_proj", hidden, query),
        ("self_attn.k_proj", hidden, key),
        ("self_attn.v_proj", hidden, key),
        ("self_attn.o_proj", query, hidden),
        ("mlp.gate_proj", hidden, inner),
        ("mlp.up_proj", hidden, inner),
        ("mlp.down_proj", inner, hidden),
    )
    linears = tuple(
        Linear(f"model.layers.{layer}.{name}", inputs, outputs) for layer in range(layers) for name, inputs, outputs in products
    )
    biases = 0
    if family == "qwen2" or config.get("attention_bias"):
        biases += query + 2 * key
        if family != "qwen2":
            biases += hidden  # the output projection's
    if config.get("mlp_bias"):
        biases += 2 * inner + hidden
    # Each layer's two norms, and those of queries and keys: Qwen3's heads share one, OLMo 2's have their own.
    norms = 2 * hidden + {"qwen3": 2 * head, "olmo2": query + key}.get(family, 0)
    # OLMo 2's other norms come after attention and MLP.
    kept = {"qwen3": query + key, "olmo2": query + key + 2 * hidden}.get(family, 0)
    layer = sum(inputs * outputs for _, inputs, outputs in products) + biases + norms
    tied = bool(config.get("tie_word_embeddings", False))
    root = vocabulary * hidden * (1 if tied else 2) + hidden
    return ModelShape(
        family=family,
        hidden=hidden,
        layers=layers,
        vocabulary=vocabulary,
        query=query,
        key=key,
        intermediate=2 * inner,
        tied=tied,
        parameters=root + layers * layer,
        root_parameters=root,
        largest_layer=layer,
        linears=linears,
        kept_by_norms=layers * kept,
        begins_with_norm=family != "olmo2",
        stored_bytes=4 if (config.get("dtype") or config.get("torch_dtype") or "float32") == "float32" else 2,
    )


def _meta_shape(folder: Path) -> ModelShape:
    """Of any supported model, from transformers' model without weights."""
    from torch import nn

    from bnf.model import lean
    from bnf.model.loading import empty_model, stored_dtype

    model = empty_model(folder)
    decoder, config = model.get_decoder(), model.config.get_text_config()
    weights = dict(model.named_parameters(remove_duplicate=False))
    named = {id(module): name for name, module in model.named_modules()}
    embeddings, head = (
        weights[f"{named[id(module)]}.weight"] for module in (model.get_input_embeddings(), model.get_output_embeddings())
    )
    tied = embeddings is head
    whole = {id(parameter): parameter.numel() for parameter in model.parameters()}
    in_layers = [{id(parameter): parameter.numel() for parameter in layer.parameters()} for layer in decoder.layers]
    layer_ids = {number for layer in in_layers for number in layer}
    root = {id(parameter): parameter.numel() for parameter in decoder.parameters() if id(parameter) not in layer_ids}
    root |= {id(embeddings): embeddings.numel(), id(head): head.numel()}
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    chosen = getattr(config, "num_experts_per_tok", None) or 1
    routed = chosen / experts if experts else 1.0
    linears: list[Linear] = []
    for name, module in decoder.layers.named_modules(prefix=f"{prefix}.layers"):
        if isinstance(module, nn.Linear):
            linears.append(Linear(name, module.in_features, module.out_features))
            continue
        for own, weight in module.named_parameters(recurse=False):
            # Experts are one tensor for all of them, (experts, …, …); a router, (experts, …), is met by every token.
            if weight.ndim > 1 and not own.endswith("bias"):
                share = routed if weight.ndim == 3 else 1.0
                linears.append(Linear(f"{name}.{own}", weight[..., 0].numel(), weight.shape[-1], share, is_module=False))
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    between = sum(linear.outputs for linear in linears if linear.is_module and _is_first_of_mlp(linear.name))
    if experts:
        # What experts read, and of each that a token is routed to gate and up, and what it gives.
        width = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
        between += len(decoder.layers) * (config.hidden_size + chosen * (2 * width + config.hidden_size))
    return ModelShape(
        family=model.config.model_type,
        hidden=config.hidden_size,
        layers=len(decoder.layers),
        vocabulary=head.shape[0],
        query=config.num_attention_heads * head_size,
        key=config.num_key_value_heads * head_size,
        intermediate=round(between / len(decoder.layers)),
        tied=tied,
        parameters=sum(whole.values()),
        root_parameters=sum(root.values()),
        largest_layer=max(sum(layer.values()) for layer in in_layers),
        linears=tuple(linears),
        unused_parameters=sum(size for number, size in whole.items() if number not in layer_ids and number not in root),
        kept_by_norms=sum(
            _kept_by_norms(
                layer, config.hidden_size, config.num_attention_heads * head_size, config.num_key_value_heads * head_size
            )
            for layer in decoder.layers
        ),
        begins_with_norm=lean.has_modules(decoder.layers[0], *lean.BEFORE_ATTENTION),
        stored_bytes=stored_dtype(folder).itemsize,
    )


def _is_first_of_mlp(name: str) -> bool:
    """Whether a projection of a layer gives what its MLP keeps, by its name."""
    return ".self_attn." not in name and not name.endswith(".down_proj")


def _kept_by_norms(layer: nn.Module, hidden: int, query: int, key: int) -> int:
    """Features of the inputs of a layer's norms that aren't the residual stream (`bnf.model.lean`)."""
    from bnf.model import lean

    attention = getattr(layer, "self_attn", layer)
    kept = sum(
        width for name, width in zip(lean.OF_QUERIES_AND_KEYS, (query, key), strict=True) if lean.has_modules(attention, name)
    )
    begins_with_norm = lean.has_modules(layer, *lean.BEFORE_ATTENTION)
    kept += hidden * sum(lean.has_modules(layer, name) for name in lean.AFTER)
    if lean.has_modules(layer, lean.EITHER) and (not begins_with_norm or lean.has_modules(layer, *lean.BEFORE_MLP)):
        kept += hidden
    # Values that are a part of a larger product keep all of it.
    return kept + (query + key if lean.has_modules(attention, "qkv_proj") else 0)
