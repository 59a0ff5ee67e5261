"""The estimate of a training: shapes, memory and work by hand-computed numbers, and against what models really hold."""

import json
import re
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bnf.data.groups import write_groups
from bnf.data.packing import pack
from bnf.data.sizes import assumed_sizes, data_sizes
from bnf.model import logps, segments
from bnf.model.loading import empty_model
from bnf.model.shapes import _meta_shape, _plain_shape, read_shape
from bnf.training import row_memory
from bnf.training.adapters import add_adapter
from bnf.training.config import TrainConfig
from bnf.training.cost import cost
from bnf.training.fitting import remedies
from bnf.training.gpus import GIB, GPUS, find_gpu, of_device
from bnf.training.memory import estimate, trained_parameters
from bnf.training.row_memory import RowSizes
from tests.performance.flops import forward_flops, step_flops
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.models import MODELS, configuration, make

# As published with Llama-3-8B.
LLAMA3_8B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
ROW = RowSizes(4096, 200, (300, 300))


def llama3_8b(folder):
    (folder / "config.json").write_text(json.dumps(LLAMA3_8B))
    return read_shape(folder / "config.json")


def settings(**values):
    return TrainConfig.from_dict({"global_batch_size": 128, **values})


@pytest.mark.parametrize("name", MODELS)
def test_a_shape_is_what_transformers_makes(tmp_path, name):
    configuration(name).save_pretrained(tmp_path)
    shape, model = read_shape(tmp_path / "config.json"), empty_model(tmp_path)
    decoder = model.get_decoder()
    of_layers = [sum(parameter.numel() for parameter in layer.parameters()) for layer in decoder.layers]
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.parameters == shape.root_parameters + sum(of_layers) + shape.unused_parameters
    assert shape.largest_layer == max(of_layers) and shape.layers == len(of_layers)
    assert (shape.unused_parameters > 0) == (name == "gemma3"), "a vision tower"


@pytest.mark.parametrize("name", ["llama", "llama_tied", "llama_biased", "mistral", "qwen2", "qwen3", "olmo2"])
def test_arithmetic_and_transformers_give_the_same_shape(tmp_path, name):
    configuration(name).save_pretrained(tmp_path)
    assert _plain_shape(json.loads((tmp_path / "config.json").read_text())) == _meta_shape(tmp_path)


def test_the_constants_are_those_of_the_computation():
    assert {"cpu": logps._LOGITS, "cuda": logps._LOGITS_ON_ACCELERATOR} == row_memory._LOGITS
    assert (row_memory._WIDE_SHARE, row_memory._WEIGHT_PART) == (logps._WIDE_SHARE, logps._WEIGHT_PART)


def test_llama3_8b_on_a_node_of_eight_by_hand(tmp_path):
    shape = llama3_8b(tmp_path)
    assert shape.parameters == 8_030_261_248
    # Queries and outputs, keys and values, the MLP, two norms.
    assert shape.largest_layer == 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096 == 218_112_000
    assert shape.root_parameters == 2 * 128256 * 4096 + 4096 == 8_030_261_248 - 32 * 218_112_000
    config = settings(sharding="full", nproc_per_node=8, gradient_checkpointing=True)
    found = estimate(shape, config, ROW, "cuda")
    memory = found.device
    # An eighth of 4 bytes a parameter; AdamW's two moments.
    assert memory.weights == memory.gradients == 8_030_261_248 * 4 / 8 == 4_015_130_624
    assert memory.optimizer == 8_030_261_248 * 8 / 8 == 8_030_261_248
    assert memory.buckets == 0
    # Each layer keeps its input. The fullest moment is in the head: its unit's weights and the buffer of its gradient.
    assert memory.activations == 32 * 4096 * 4096 * 4 == 2_147_483_648
    assert memory.root == (128256 * 4096 + 4096) * 4 + 128256 * 4096 * 4 == 4_202_708_992 and memory.gathered == 0
    # Of longer rows it is in the last layer: this one and the next are gathered, and its gradients lie in a buffer too.
    longer = estimate(shape, config, RowSizes(16384, 200, (300, 300)), "cuda").device
    assert longer.gathered == 4 * 218_112_000 * 4 == 3_489_792_000 and longer.root == 0
    assert found.checkpoint == 8_030_261_248 * 12 and found.policy == 8_030_261_248 * 2
    assert found.host == pytest.approx(8_030_261_248 * 2, rel=0.05)
    memory = estimate(shape, settings(sharding="full", nproc_per_node=8), ROW, "cuda").device
    # Each token: the residual stream twice in fp32, queries, output, keys and values, gate and up in bf16.
    assert memory.activations == 32 * 4096 * (2 * 4096 * 4 + 2 * (2 * 4096 + 2 * 1024) + 2 * 2 * 14336)
    whole = estimate(shape, settings(), ROW, "cuda").device
    assert whole.weights + whole.gradients + whole.optimizer == 16 * 8_030_261_248, "128 GB, as every device without sharding"


def test_who_holds_what(tmp_path):
    shape = llama3_8b(tmp_path)

    def held(**values):
        return estimate(shape, settings(**values), ROW, "cuda").device

    nodes = {"nproc_per_node": 8, "num_nodes": 2}
    assert held(sharding="full", **nodes).weights * 16 == held(sharding="hybrid", **nodes).weights * 8 == 4 * 8_030_261_248
    assert held(nproc_per_node=2).buckets == held(nproc_per_node=2).gradients == 4 * 8_030_261_248
    offloaded = estimate(shape, settings(sharding="full", cpu_offload=True, nproc_per_node=4), ROW, "cuda")
    assert offloaded.device.weights == offloaded.device.optimizer == 0 and offloaded.host > 16 * 8_030_261_248 / 4
    assert held(optim="sgd").optimizer == 0 and held(optim="lion").optimizer == 4 * 8_030_261_248
    assert held(optim="adamw_torch_8bit").optimizer == 8_030_261_248 * 2 * (1 + 4 / 256)
    # bitsandbytes' states of the embeddings stay in float32.
    embeddings = 128256 * 4096
    assert held(optim="adamw_8bit").optimizer == (8_030_261_248 - embeddings) * 2 * (1 + 4 / 256) + embeddings * 8
    half = held(weights="bf16", optim="adamw_torch")
    # Two moments, and what rounding takes.
    assert (half.weights, half.gradients, half.optimizer) == tuple(size * 8_030_261_248 for size in (2, 2, 6))
    adapters = settings(lora_r=16)
    layer = 16 * (4 * 4096 + 2 * (4096 + 1024) + 3 * (4096 + 14336))
    assert trained_parameters(shape, adapters) == 32 * layer
    lora = held(lora_r=16)
    assert (lora.gradients, lora.optimizer) == (4 * 32 * layer, 8 * 32 * layer)
    quantized = held(lora_r=16, load_in_4bit=True)
    in_layers = 32 * (218_112_000 - 2 * 4096)
    assert lora.weights - quantized.weights == pytest.approx(in_layers * (4 - 0.516), rel=1e-3)


@pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "down_proj"], r".*\.1\.mlp\.up_proj"])
def test_adapters_are_those_that_peft_makes(tmp_path, modules):
    configuration("llama").save_pretrained(tmp_path)
    config = settings(lora_r=2, lora_target_modules=modules)
    adapted = add_adapter(empty_model(tmp_path), config)
    made = sum(parameter.numel() for name, parameter in adapted.named_parameters() if "lora" in name)
    assert trained_parameters(read_shape(tmp_path / "config.json"), config) == made > 0


class _Live(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, but those in `known`."""

    def __init__(self, known):
        super().__init__()
        self.now, self.seen = 0, {storage._cdata for storage in known}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.seen:
                storage = tensor.untyped_storage()
                self.seen.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return made

    def _gone(self, number, size):
        self.seen.discard(number)
        self.now -= size


@pytest.mark.parametrize("bf16", [True, False], ids=["bf16", "fp32"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gemma3_text", "olmo2", "phi3", "granite", "glm4", "olmoe"])
def test_layers_keep_what_the_estimate_says(tmp_path, name, bf16):
    sizes = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 8, "head_dim": 32, "sliding_window": None}
    if name.startswith("gemma"):
        sizes |= {"layer_types": ["full_attention"] * 8}
        sizes["sliding_window"] = 4096
    if name in ("llama", "qwen3"):
        del sizes["sliding_window"]
    model = make(name, torch.float32, **sizes).train()
    model.config.save_pretrained(tmp_path)
    groups = random_groups(3, prompt=(60, 60), completion=(90, 90), most=2)
    [row] = pack(groups, 720)
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    live = _Live([parameter.untyped_storage() for parameter in parameters])
    with live:
        values = logps.row_logps(model, row, bf16=bf16)
    held = live.now
    assert values.logps.requires_grad
    shape, config = read_shape(tmp_path / "config.json"), settings(bf16=bf16)
    kept = row_memory._kept_of_layer(shape, config)
    # The head keeps its states, one chunk of logits, and its weights in bf16.
    act = 2 if bf16 else 4
    head = act * 540 * (shape.hidden + shape.vocabulary) + (2 * shape.head_parameters if bf16 else 0)
    assert 8 * 720 * kept + head == pytest.approx(held, rel=0.15)


@pytest.mark.parametrize("share_prompts", [True, False])
def test_the_sizes_of_data_are_those_of_their_rows(tmp_path, share_prompts):
    groups = random_groups(20)
    write_groups(tmp_path, groups)
    found = data_sizes(tmp_path, share_prompts=share_prompts)
    rows = pack(groups, 60, share_prompts=share_prompts)
    assert (found.groups, found.tokens) == (20, sum(row.num_tokens for row in rows))
    assert found.completion_tokens == sum(row.num_completion_tokens for row in rows)
    attended = 0
    for row in rows:
        places = torch.arange(row.num_tokens)
        attended += int(segments.SegmentPlan(row.spans).visible(places[:, None], places[None, :], None).sum())
    assert found.attended == attended
    with pytest.raises(FileNotFoundError, match="prepare the data first"):
        data_sizes(tmp_path / "nothing", share_prompts=True)


def test_steps_operations_and_hours_by_hand(tmp_path):
    shape = llama3_8b(tmp_path)
    data = assumed_sizes(1280, 1000, prompt_share=0.3, num_completions=2)
    assert (data.tokens, data.completion_tokens, data.prompt, data.completions) == (1_280_000, 896_000, 300, (350, 350))
    config = settings(num_train_epochs=2)
    found = cost(shape, config, data)
    assert (found.steps, found.tokens) == (20, 2_560_000)
    seen = 300 * 301 / 2 + 2 * 350 * (300 + 351 / 2)
    attention = 4 * 4096 * 32 * seen * 1280
    layers = 2 * 32 * (218_112_000 - 2 * 4096) * 1_280_000 + attention
    head = 2 * 128256 * 4096 * 896_000
    assert found.reference_flops == pytest.approx(layers + head)
    assert found.training_flops == pytest.approx(2 * 3 * (layers + head))
    assert found.hours(find_gpu("h100"), 8) == pytest.approx(7 * (layers + head) / (989e12 * 0.3 * 8) / 3600)
    again = cost(shape, settings(num_train_epochs=2, gradient_checkpointing=True), data)
    assert again.training_flops - found.training_flops == pytest.approx(2 * layers)
    frozen = cost(shape, settings(num_train_epochs=2, lora_r=8), data).training_flops
    assert frozen == pytest.approx(2 * (2 * (layers + head) + attention)), "attention has no weights"
    assert cost(shape, settings(objective="sft"), data).reference_flops == 0
    kto = cost(shape, settings(objective="kto"), data)
    assert kto.reference_flops == pytest.approx(2 * (layers + head))
    assert cost(shape, settings(max_steps=5), data).tokens == 640_000


@pytest.mark.parametrize("lora_r", [0, 4])
@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen3_moe"])
def test_the_operations_are_those_of_the_rows(tmp_path, name, lora_r):
    configuration(name).save_pretrained(tmp_path)
    groups = random_groups(12)
    write_groups(tmp_path / "groups", groups)
    shape, config = read_shape(tmp_path / "config.json"), settings(lora_r=lora_r, max_steps=1)
    found = cost(shape, config, data_sizes(tmp_path / "groups", share_prompts=True))
    of_model, rows = empty_model(tmp_path).config, pack(groups, 80)
    of_rows = sum(step_flops(of_model, row.spans, frozen_weights=lora_r > 0).total for row in rows)
    assert found.training_flops == pytest.approx(of_rows)
    assert found.reference_flops == pytest.approx(sum(forward_flops(of_model, row.spans).total for row in rows))


def test_what_to_change_is_what_fits(tmp_path):
    shape = llama3_8b(tmp_path)
    eight = settings(nproc_per_node=8)
    said = remedies(shape, eight, ROW, "cuda", 76 * GIB)
    # Checkpointing alone doesn't help weights, and 4 bits aren't named where adapters suffice.
    assert said == "set train.sharding=full or train.lora_r=16"
    assert remedies(shape, eight, ROW, "cuda", 38 * GIB) == "set train.sharding=full"
    # Where nothing suffices alone, the settings are added up until they do.
    assert remedies(shape, eight, ROW, "cuda", 12 * GIB) == (
        "set train.sharding=full and train.gradient_checkpointing=true and train.lora_r=16"
    )
    assert remedies(shape, settings(), ROW, "cuda", 1 * GIB) == "take a smaller model, or more devices"
    rows = remedies(shape, settings(sharding="full", nproc_per_node=8), RowSizes(65536, 200, (300, 300)), "cuda", 76 * GIB)
    assert "train.max_tokens_per_row=8192" in rows and "4096" not in rows, "the longest that fits"


def test_what_to_change_is_no_more_than_is_needed_and_rows_hold_the_longest_group(tmp_path):
    shape = llama3_8b(tmp_path)
    row = RowSizes(8192, 210, (245, 245))
    long = settings(max_tokens_per_row=8192)
    one = remedies(shape, long, row, "cuda", 76 * GIB, longest=4096)
    assert one == "set train.gradient_checkpointing=true and train.lora_r=16", "as docs/scaling.md says for one GPU of 80 GB"
    held = settings(sharding="full", nproc_per_node=8, gradient_checkpointing=True)
    assert "train.weights=bf16" in remedies(shape, held, row, "cuda", 22 * GIB, longest=4096)
    for limit in range(8, 76, 4):
        assert not re.search("max_tokens_per_row=(2048|1024)", remedies(shape, long, row, "cuda", limit * GIB, longest=4096))


def test_gpus_are_found_by_name():
    assert find_gpu("rtx-4090").tflops == 165
    with pytest.raises(ValueError, match=r"--gpu must be one of A100-40GB, .* got 'h900'"):
        find_gpu("h900")
    for name, remedy in (
        ("A100", "write A100-40GB or A100-80GB$"),
        ("h100-80gb", "write H100$"),
        ("", "take one with as much"),
    ):
        with pytest.raises(ValueError, match=remedy):
            find_gpu(name)
    for driver, name in (
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("NVIDIA RTX A6000", "A6000"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
    ):
        found = of_device(driver, 5.0)
        assert found is not None and found.tflops == find_gpu(name).tflops and found.memory == 5.0
    assert of_device("Tesla K80", 1.0) is None
    assert all(gpu.source for gpu in GPUS)
