"""What a training would refuse is found without weights and before a pass; and what is found is what training refuses."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bnf.data.groups import DEV, Completion, PromptGroup, write_groups
from bnf.model.loading import empty_model, load_model
from bnf.objectives import OBJECTIVES, load_objective
from bnf.plugins import names
from bnf.training.checks import check_data, check_groups_dir, check_machine, check_model_dir
from bnf.training.config import READ_BY_SOME, TrainConfig
from tests.unit.bnf.helpers import random_groups, row_of
from tests.unit.bnf.models import MODELS, configuration
from tests.unit.bnf.training import run


def thumbs(*labels: int, scores: tuple[float, ...] = ()) -> list[PromptGroup]:
    """A group of one completion for each label."""
    return [
        PromptGroup(f"g{place}", (3, 4 + place), (Completion((5, 2), label, scores[place] if scores else None),))
        for place, label in enumerate(labels)
    ]


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ({"objective": "sft"}, (-1, -1)),
        ({"label_weighting": {"preferred": 1, "dispreferred": 0}}, (-1, -1)),
        ({"label_weighting": {"preferred": 0, "dispreferred": 1}}, (1, 1)),
        ({"objective": "nll_signed", "label_weighting": {"preferred": 1, "dispreferred": 0}}, (-1, -1)),
        ({"objective": "kto", "label_weighting": {"preferred": 1, "dispreferred": 0}}, (-1, -1)),
        ({"objective": "kto", "objective_options": {"undesirable_weight": 0}}, (-1, -1)),
        ({"objective": "kto", "objective_options": {"desirable_weight": 0}}, (1, 1)),
        # Each side has a weight of 0, one by the objective and one by the labels.
        (
            {
                **{"objective": "kto", "objective_options": {"desirable_weight": 0}},
                "label_weighting": {"preferred": 1, "dispreferred": 0},
            },
            (1, -1),
        ),
        ({"objective": "rrhf"}, (-1, -1)),
    ],
)
def test_weights_that_leave_nothing_to_learn_are_refused(settings: dict[str, Any], labels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"groups must hold something for objective .* got {labels.count(1)} preferred"):
        check_data(TrainConfig(**settings), thumbs(*labels))


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ({}, (-1, -1)),
        ({"label_weighting": "balanced"}, (-1, -1)),
        ({"label_weighting": {"preferred": 1, "dispreferred": 0}}, (1, -1)),
        ({"objective": "sft"}, (1, -1)),
        ({"objective": "kto", "objective_options": {"undesirable_weight": 0}}, (1, -1)),
        ({"objective": "kto"}, (-1, -1)),
    ],
)
def test_weights_that_leave_something_are_not(settings: dict[str, Any], labels: tuple[int, ...]) -> None:
    check_data(TrainConfig(**settings), thumbs(*labels))


def test_rewards_so_low_that_every_weight_is_0_are_refused() -> None:
    groups = thumbs(-1, -1, scores=(-200.0, -300.0))
    assert torch.tensor(-200.0).exp() == 0
    with pytest.raises(ValueError, match="groups must hold something for objective 'rwr' to learn from"):
        check_data(TrainConfig(objective="rwr"), groups)
    check_data(TrainConfig(objective="rwr", objective_options={"temperature": 10}), groups)
    check_data(TrainConfig(objective="rwr", objective_options={"baseline": "prompt_mean"}), groups)


def test_nothing_to_learn_is_refused_by_training_itself(workplace: Path, tmp_path: Path) -> None:
    write_groups(tmp_path / "groups", thumbs(-1, -1, -1))
    for name in ("model", "reference_False"):
        (tmp_path / name).symlink_to(workplace / name)
    with pytest.raises(ValueError, match="got 0 preferred completions of weight 1 and 3 dispreferred ones of weight 0"):
        run(tmp_path, tmp_path / "out", label_weighting={"preferred": 1, "dispreferred": 0})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_without_weights_is_the_same_model(name: str, tmp_path: Path) -> None:
    configuration(name).save_pretrained(tmp_path)
    model = empty_model(tmp_path)
    assert model.device.type == "meta"
    check_model_dir(TrainConfig(lora_r=2, gradient_checkpointing=True), tmp_path, evaluates=False)


def test_a_model_without_weights_has_the_parameters_of_the_whole_one(workplace: Path) -> None:
    shapes = [
        {name: value.shape for name, value in make(workplace / "model").named_parameters()}
        for make in (empty_model, load_model)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("modules", [["q_porj"], ["q_proj", "q_porj"], "q_proj", "(q", ["mlp"], ["lm_head"], ["all-linear"]])
def test_wrong_modules_are_found_without_weights(workplace: Path, tmp_path: Path, modules: Any) -> None:
    folder = tmp_path / "model"
    shutil.copytree(workplace / "model", folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"^lora_target_modules must [^\n]*$"):
        check_model_dir(TrainConfig(lora_r=2, lora_target_modules=modules), folder, evaluates=False)
    check_model_dir(TrainConfig(lora_r=2, lora_target_modules=["q_proj", "mlp.up_proj"]), folder, evaluates=False)
    check_model_dir(TrainConfig(lora_r=2, lora_target_modules=r".*\.(q|v)_proj"), folder, evaluates=False)


def test_a_misspelt_module_beside_a_right_one_ends_a_training(workplace: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"must name modules of the model, got \['q_proj', 'v_porj'\] \(no module is called v_porj\)"
    ):
        run(workplace, tmp_path, lora_r=2, lora_target_modules=["q_proj", "v_porj"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "model_name_or_path must be of the family"),
        ({"model_type": "nothing_known"}, "model_name_or_path must be a model that transformers knows by itself"),
        ({"attention_dropout": 0.1}, "attention_dropout must be 0"),
        ({"dtype": "float9"}, "float9"),
        ({"eos_token_id": None}, "eos_token_id must be in the model's generation_config.json or config.json"),
    ],
)
def test_what_a_folder_says_is_enough(workplace: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    values = json.loads((workplace / "model" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | change))
    with pytest.raises(ValueError, match=message):
        check_model_dir(TrainConfig(), tmp_path, evaluates=True)


@pytest.mark.parametrize("optim", ["adamw", "adamw_8bit", "galore_adamw", "lomo", "adamw_torch_npu_fused", "schedule_free_sgd"])
def test_optimizers_that_are_not_here_are_refused(optim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.trainer_optimizer.is_bitsandbytes_available", lambda: False)
    with pytest.raises(ValueError, match=f"optim must be an optimizer of transformers that is installed here, got '{optim}'"):
        check_machine(TrainConfig(optim=optim))


@pytest.mark.parametrize(
    ("optim", "remedy"),
    [
        ("adamw8bit", r"did you mean .*adamw_8bit.*\?"),
        ("AdamW_Torch", r"did you mean adamw_torch\?$"),
        ("muonish", "adamw_torch_fused"),
    ],
)
def test_an_unknown_optimizer_names_the_nearest_and_not_all(optim: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy) as caught:
        check_machine(TrainConfig(optim=optim))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch", "sgd", "adafactor", "rmsprop", "adagrad"])
def test_optimizers_that_are_here_pass(optim: str) -> None:
    check_machine(TrainConfig(optim=optim))


def test_weights_in_bf16_need_torch_optimi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optimi", None)
    with pytest.raises(
        ValueError, match=r"optim must be .* \(weights in bf16 need the package torch-optimi: pip install torch-opt"
    ):
        check_machine(TrainConfig(weights="bf16"))
    check_machine(TrainConfig(weights="bf16", lora_r=2))


def test_4_bits_need_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.import_utils.is_bitsandbytes_available", lambda: False)
    with pytest.raises(ValueError, match="load_in_4bit must be false without bitsandbytes, got true; pip install bitsandbytes"):
        check_machine(TrainConfig(load_in_4bit=True, lora_r=2))


@pytest.mark.parametrize(
    ("optim", "instead"),
    [("paged_adamw_8bit", "adamw_8bit"), ("paged_adamw_32bit", "adamw_torch_fused"), ("paged_lion_8bit", "lion_8bit")],
)
def test_paged_optimizers_need_cuda(optim: str, instead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnf.training.checks.device_kind", lambda: "cpu")
    with pytest.raises(ValueError, match=rf"optim must not be paged on a CPU, got '{optim}'.*write train\.optim={instead}, or"):
        check_machine(TrainConfig(optim=optim))


def test_8_bits_take_no_shards() -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    check_machine(TrainConfig(optim="adamw_8bit"))
    with pytest.raises(
        ValueError, match=r"'adamw_8bit' is bitsandbytes's, which can't update sharded weights: write train\.sharding=n"
    ):
        check_machine(TrainConfig(optim="adamw_8bit", sharding="full"))


@pytest.mark.parametrize("optim", ["adafactor", "stable_adamw"])
def test_optimizers_that_fail_on_shards_are_refused(optim: str) -> None:
    """Adafactor's row and column moments are no shares, and stable_adamw's states can't be saved."""
    if optim == "stable_adamw":
        pytest.importorskip("optimi", reason="torch-optimi is not installed")
    check_machine(TrainConfig(optim=optim))
    with pytest.raises(ValueError, match=rf"got '{optim}' .*can't update sharded weights: .* take one of adamw_torch_fused, "):
        check_machine(TrainConfig(optim=optim, sharding="full"))
    check_machine(TrainConfig(optim="rmsprop", sharding="full"))


def test_optimizers_that_are_compiled_need_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnf.training.checks.device_kind", lambda: "cpu")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ValueError, match="that this machine can compile, got 'adamw_torch_8bit' without the C\\+\\+ compiler no-such"
    ):
        check_machine(TrainConfig(optim="adamw_torch_8bit"))


def test_devices_and_their_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnf.training.checks.device_kind", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    rule = r"nproc_per_node must be at most the 1 devices of this machine, got 2; write train\.nproc_per_node=1"
    with pytest.raises(ValueError, match=rule):
        check_machine(TrainConfig(nproc_per_node=2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    with pytest.raises(ValueError, match=r"bf16 must be false on a device without bfloat16, got true; write train\.bf16=false"):
        check_machine(TrainConfig())
    check_machine(TrainConfig(bf16=False))


def test_rows_and_processes(tmp_path: Path) -> None:
    write_groups(tmp_path, random_groups(8))
    check_groups_dir(TrainConfig(max_tokens_per_row=48, global_batch_size=8), tmp_path)
    with pytest.raises(ValueError, match=r"nproc_per_node must be at most the 8 rows that the data make, got 64"):
        check_groups_dir(TrainConfig(max_tokens_per_row=48, global_batch_size=64, nproc_per_node=64), tmp_path)
    with pytest.raises(ValueError, match="max_tokens_per_row must hold every group, got 8 while the longest group"):
        check_groups_dir(TrainConfig(max_tokens_per_row=8), tmp_path)


def test_dev_groups_must_fit_rows_too(tmp_path: Path) -> None:
    write_groups(tmp_path, random_groups(8))
    write_groups(tmp_path / DEV, random_groups(2, seed=1, prompt=(60, 70)))
    with pytest.raises(ValueError, match="max_tokens_per_row must hold every group, got 48 while the longest group"):
        check_groups_dir(TrainConfig(max_tokens_per_row=48, global_batch_size=8), tmp_path)


def test_one_prompt_alone_has_nothing_to_mismatch(tmp_path: Path) -> None:
    write_groups(tmp_path, random_groups(1))
    with pytest.raises(ValueError, match="groups must hold at least 2 different prompts"):
        check_groups_dir(TrainConfig(objective="kto"), tmp_path)


@pytest.mark.parametrize("name", names(OBJECTIVES))
def test_lengths_are_normalized_where_an_objective_says_so(name: str) -> None:
    values = {"reference": [[-2.0, -1.5], [-0.7]], "scores": [1.0, 0.0], "prompts": [[-1.0]], "kl_pair_logratio": 0.1}
    row = row_of([[-1.0, -2.5], [-0.5]], [1, -1], pairs=[(0, 1)], **values)
    objective = load_objective(name)

    def loss(normalizers: list[float]) -> float:
        losses = objective.losses(replace(row, normalizers=torch.tensor(normalizers).double()))
        return float(sum(part.detach().sum() for part in (losses.completions, losses.pairs) if part is not None))

    assert (loss([2.0, 1.0]) != loss([1.0, 1.0])) == ("length_normalization" in objective.reads)
    assert set(objective.reads) <= set(READ_BY_SOME)


def test_several_nodes_need_a_place_to_meet_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PET_RDZV_ENDPOINT", "MASTER_ADDR", "PET_MASTER_ADDR", "SLURM_JOB_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        ValueError, match=r"rdzv_endpoint must be given where num_nodes is 2 .* write train.rdzv_endpoint=HOST:29500"
    ):
        check_machine(TrainConfig(num_nodes=2))
    check_machine(TrainConfig(num_nodes=2, rdzv_endpoint="node1:29500"))
