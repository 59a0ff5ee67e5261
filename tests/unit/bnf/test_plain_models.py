"""What is said to be trainable without torch is what transformers says is; and a plan of it imports neither."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bnf.data.groups import DEV, write_groups
from bnf.model.plain_models import is_plain
from bnf.training.checks import _TORCH_OPTIMIZERS, _ask_transformers, _check_optimizer
from bnf.training.config import TrainConfig
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.models import MODELS, configuration

SIZES = {
    **{"vocab_size": 99, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2},
}
# As such models are published, but for their sizes.
PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "smollm2": (
        {
            **{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0},
            **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "hidden_act": "silu", "initializer_range": 0.02},
            **{"max_position_embeddings": 8192, "mlp_bias": False, "pretraining_tp": 1, "rms_norm_eps": 1e-5},
            **{"rope_scaling": None, "rope_theta": 130000, "tie_word_embeddings": True, "torch_dtype": "bfloat16"},
        },
        {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "transformers_version": "4.42.3"},
    ),
    "mistral": (
        {
            **{"model_type": "mistral", "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu"},
            **{"rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False},
        },
        {},
    ),
    "qwen2.5": (
        {
            **{"model_type": "qwen2", "attention_dropout": 0.0, "bos_token_id": 43, "eos_token_id": 45, "hidden_act": "silu"},
            **{"max_window_layers": 21, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": None},
            **{"tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True, "use_sliding_window": False},
        },
        {
            **{"bos_token_id": 43, "pad_token_id": 43, "do_sample": True, "eos_token_id": [45, 43], "temperature": 0.7},
            **{"repetition_penalty": 1.1, "top_p": 0.8, "top_k": 20, "transformers_version": "4.37.0"},
        },
    ),
    "qwen3": (
        {
            **{"model_type": "qwen3", "attention_bias": False, "attention_dropout": 0.0, "eos_token_id": 45, "head_dim": 8},
            **{"rope_parameters": {"rope_theta": 1000000, "rope_type": "default"}, "max_window_layers": 28},
        },
        {},
    ),
    "olmo2": (
        {
            **{
                "model_type": "olmo2",
                "attention_bias": False,
                "attention_dropout": 0.0,
                "eos_token_id": 45,
                "pad_token_id": 46,
            },
            **{"hidden_act": "silu", "max_position_embeddings": 4096, "rms_norm_eps": 1e-06, "rope_scaling": None},
            **{"rope_theta": 500000, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": False},
        },
        {"_from_model_config": True, "eos_token_id": 45, "pad_token_id": 46},
    ),
}


def folder_of(path: Path, config: dict[str, Any], generation: dict[str, Any]) -> Path:
    (path / "config.json").write_text(json.dumps(SIZES | config))
    if generation:
        (path / "generation_config.json").write_text(json.dumps(generation))
    return path


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_known_and_transformers_agrees(name: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *PUBLISHED[name])
    assert is_plain(folder, evaluates=True)
    _ask_transformers(TrainConfig(gradient_checkpointing=True), folder, True)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_that_is_known_passes_transformers_own_check(name: str, tmp_path: Path) -> None:
    configuration(name).save_pretrained(tmp_path)
    if is_plain(tmp_path, evaluates=False):
        _ask_transformers(TrainConfig(gradient_checkpointing=True), tmp_path, False)
    assert not is_plain(tmp_path, evaluates=False) or ("gemma" not in name and "window" not in name)
    if name in ("phi3", "olmo", "olmo3", "smollm3", "granite", "glm4", "ministral3", "cohere", "exaone4", "seed_oss"):
        assert not is_plain(tmp_path, evaluates=False), "it has choices that only transformers' own check knows"


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "mamba"},
        {"model_type": "gemma2"},
        {"attention_dropout": 0.1},
        {"dtype": "float9"},
        {"quantization_config": {"bits": 4}},
        {"num_local_experts": 8},
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
        {"rope_scaling": {"type": "longrope"}},
        {"sliding_window": 8},
        {"layer_types": ["chunked_attention"] * 2},
        {"hidden_act": "nothing"},
        {"hidden_size": "32"},
        {"hidden_size": 30},
        {"num_attention_heads": 0},
        {"pad_token_id": 99},
        {"eos_token_id": None},
        {"vocab_size": None},
        {"auto_map": {"AutoConfig": "code.Config"}},
        {"a_key_of_tomorrow": 1},
    ],
)
def test_whatever_else_a_config_says_is_left_to_transformers(tmp_path: Path, change: dict[str, Any]) -> None:
    config, _ = PUBLISHED["qwen3"]
    assert is_plain(folder_of(tmp_path, config, {}), evaluates=True)
    assert not is_plain(folder_of(tmp_path, config | change, {}), evaluates=True)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"eos_token_id": []}', '{"num_beams": -1}', '{"top_p": 2.0}'])
def test_so_is_what_its_generation_config_says(tmp_path: Path, text: str) -> None:
    folder = folder_of(tmp_path, *PUBLISHED["smollm2"])
    (folder / "generation_config.json").write_text(text)
    assert not is_plain(folder, evaluates=False)


def test_a_folder_without_a_config_is_not_known(tmp_path: Path) -> None:
    assert not is_plain(tmp_path, evaluates=False) and not is_plain(tmp_path / "none", evaluates=False)


@pytest.mark.parametrize("name", _TORCH_OPTIMIZERS)
def test_torchs_own_optimizers_are_everywhere(name: str) -> None:
    _check_optimizer(TrainConfig(optim=name))


@pytest.mark.integration
def test_what_a_plan_asks_imports_no_transformers_and_without_groups_no_torch(tmp_path: Path) -> None:
    folder_of(tmp_path, *PUBLISHED["smollm2"])
    write_groups(tmp_path / "groups", random_groups(8))
    write_groups(tmp_path / "groups" / DEV, random_groups(4, seed=1))
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from bnf.training.checks import check_groups_dir, check_machine, check_model_dir\nfrom bnf.training.config import TrainConfig\n"
        "folder, config = Path(sys.argv[1]), TrainConfig()\n"
        "check_model_dir(config, folder, evaluates=True)\n"
        "assert 'torch' not in sys.modules\n"
        "check_groups_dir(config, folder / 'groups')\n"
        "assert 'transformers' not in sys.modules\n"
        "check_machine(config)\n"
        "assert 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).parents[3])
