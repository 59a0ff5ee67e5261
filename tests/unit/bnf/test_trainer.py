import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from bnf.data.groups import write_groups
from bnf.model.loading import load_model
from bnf.reference.cache import cache_reference
from bnf.training.arguments import training_arguments
from bnf.training.collapse import TrainingCollapsed
from bnf.training.config import TrainConfig
from bnf.training.own_reference import ReferenceMismatch, cache_for
from bnf.training.preparation import Folders
from bnf.training.trainer import train
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.training import BASE, ignore, metrics, run, run_killed, same, weights


def test_training_leaves_a_policy_metrics_and_a_summary(workplace: Path, tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    summary = run(workplace, tmp_path, lambda done, total, note: reported.append((done, total)), bf16=True, num_train_epochs=3)
    steps = summary["steps"]
    assert reported == [(step, steps) for step in range(1, steps + 1)] and steps > 6
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    first, last = lines[0], lines[-1]
    # Before the first update policy and reference are one.
    assert first["weights/chosen"] == first["weights/rejected"] == 1 and first["weights_below_1/chosen"] == 0
    assert first["rewards/chosen"] == first["rewards/margins"] == 0
    assert last["rewards/margins"] > 0.1 and last["weights/rejected"] < 1 and last["rewards/accuracies"] > 0.5
    for name in ("loss", "grad_norm", "learning_rate", "dtd_loss", "entropy", "logps/chosen", "logps_sum/rejected"):
        assert isinstance(last[name], float), name
    assert summary["final"]["step"] == steps and summary["groups"] == 24 and summary["peak_memory_gb"] > 0
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == steps
    assert not (tmp_path / "checkpoints").exists() and not list(tmp_path.rglob("training_args.bin"))
    # The same call again does nothing.
    assert run(workplace, tmp_path, bf16=True, num_train_epochs=3) == summary


def test_policy_keeps_dtype_tokenizer_and_config(tiny_model_dir: Path, tmp_path: Path) -> None:
    write_groups(tmp_path / "groups", random_groups(4))
    config = TrainConfig(objective="sft", max_tokens_per_row=64, global_batch_size=4, learning_rate=1e-3, warmup_ratio=0.0)
    model_dir, output = tiny_model_dir, tmp_path / "out"
    train(config, Folders(model_dir, tmp_path / "groups", None, output), step0_check=False, progress=ignore)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (output / "policy" / name).read_bytes() == (model_dir / name).read_bytes()
    before, after = load_file(model_dir / "model.safetensors"), weights(output)
    assert {name: tensor.dtype for name, tensor in after.items()} == {name: tensor.dtype for name, tensor in before.items()}
    assert not same(before, after)
    assert load_model(output / "policy").dtype == torch.float32


def test_seed_permutes_rows_and_repeats_exactly(workplace: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(workplace, tmp_path / name, seed=seed)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_one_row_or_several_make_the_same_step(workplace: Path, tmp_path: Path) -> None:
    """All groups in one step: accumulated over many rows, or computed as one, which shares prompts or repeats them."""
    for name, tokens, share_prompts in (("many", 48, True), ("one", 4096, True), ("plain", 4096, False)):
        reference_dir = tmp_path / f"reference_{name}"
        changes = {"max_tokens_per_row": tokens, "share_prompts": share_prompts}
        config = TrainConfig(**(BASE | changes | {"global_batch_size": 24, "optim": "sgd", "warmup_ratio": 0.0}))
        cache_for(config, workplace / "model", workplace / "groups", reference_dir, ignore)
        summary = train(
            config,
            Folders(workplace / "model", workplace / "groups", reference_dir, tmp_path / name),
            step0_check=True,
            progress=ignore,
        )
        assert summary.steps == 1 and (summary.rows_per_step == 1) == (name != "many")
    start, many = load_file(workplace / "model" / "model.safetensors"), weights(tmp_path / "many")
    for other in ("one", "plain"):
        first, second = (metrics(tmp_path / name)[0] for name in ("many", other))
        for key in ("loss", "grad_norm", "dtd_loss", "logps/chosen", "logps_sum/rejected", "rewards/accuracies", "entropy"):
            assert first[key] == pytest.approx(second[key], rel=1e-4), key
        for name, tensor in weights(tmp_path / other).items():
            torch.testing.assert_close(many[name] - start[name], tensor - start[name], rtol=1e-3, atol=1e-7)


@pytest.mark.integration
def test_resume_after_an_exception_is_exact_in_any_epoch(workplace: Path, tmp_path: Path) -> None:
    settings = {"num_train_epochs": 3, "save_steps": 1}
    total = run(workplace, tmp_path / "whole", **settings)["steps"]
    for stop in (1, total // 3, total // 3 + 1, total - 1):

        def interrupt(done: int, of: int, note: str, stop: int = stop) -> None:
            if done == stop + 1:
                raise KeyboardInterrupt

        output = tmp_path / f"stopped_{stop}"
        with pytest.raises(KeyboardInterrupt):
            run(workplace, output, interrupt, **settings)
        assert [path.name for path in (output / "checkpoints").glob("checkpoint-*")] == [f"checkpoint-{stop}"]
        assert not list(output.rglob("training_args.bin"))
        summary = run(workplace, output, **settings)
        assert summary["resumed_from_step"] == stop
        assert same(weights(tmp_path / "whole"), weights(output)), stop
        kept = ("step", "loss", "grad_norm", "learning_rate", "rewards/margins")
        whole, resumed = ([[line[key] for key in kept] for line in metrics(path)] for path in (tmp_path / "whole", output))
        assert whole == resumed


POLICY_GRADIENT = {"objective": "ppo", "objective_options": {"whiten": True, "kl_coef": 0.1, "entropy_coef": 0.1}}


@pytest.mark.integration
@pytest.mark.parametrize("more", [{}, POLICY_GRADIENT], ids=["bnf", "ppo"])
def test_killed_by_signal_9_it_resumes_to_the_same_bits(workplace: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    """A real process, killed while it works on the step after its checkpoint, with the next checkpoint half written."""
    settings = {"num_train_epochs": 2, "save_steps": 2, "bf16": True, **more}
    run(workplace, tmp_path / "whole", **settings)
    run_killed(workplace, tmp_path / "killed", **settings)
    checkpoints = tmp_path / "killed" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["checkpoint-2", "partial"]
    assert run(workplace, tmp_path / "killed", **settings)["resumed_from_step"] == 2
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


def test_gradient_checkpointing_computes_the_same(workplace: Path, tmp_path: Path) -> None:
    for name, checkpointing in (("a", False), ("b", True)):
        run(workplace, tmp_path / name, gradient_checkpointing=checkpointing, bf16=True)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.TrainingArguments.world_size", 2)
    with pytest.raises(ValueError, match=r"the number of processes must be nproc_per_node \(1\), got 2"):
        training_arguments(TrainConfig(**BASE), tmp_path, evaluates=False)


def test_step_0_assertion_sees_another_reference(workplace: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(workplace / "model", dtype=torch.float32)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1.01)
    model.save_pretrained(tmp_path / "other")
    cache_reference(
        tmp_path / "other",
        workplace / "groups",
        tmp_path / "reference_False",
        max_tokens_per_row=48,
        bf16=False,
        progress=ignore,
    )
    for name in ("model", "groups"):
        (tmp_path / name).symlink_to(workplace / name)
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"step 0 must be 1 within 1e-06, got 0\.9.*the reference is of other weights"
        ) as caught:
            run(tmp_path, tmp_path / "checked")
        assert not isinstance(caught.value, ReferenceMismatch), "another try would not help"
    run(tmp_path, tmp_path / "unchecked", check=False)


def test_training_uses_as_many_threads_as_the_reference_pass_did(workplace: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    arguments = {"max_tokens_per_row": 48, "bf16": False, "progress": ignore}
    try:
        torch.set_num_threads(before + 1)
        cache_reference(workplace / "model", workplace / "groups", tmp_path / "reference_False", **arguments)
        torch.set_num_threads(before)
        for name in ("model", "groups"):
            (tmp_path / name).symlink_to(workplace / name)
        run(tmp_path, tmp_path / "out")
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_a_reference_that_does_not_say_what_made_it_is_checked_all_the_same(workplace: Path, tmp_path: Path) -> None:
    for name in ("model", "groups"):
        (tmp_path / name).symlink_to(workplace / name)
    shutil.copytree(workplace / "reference_False", tmp_path / "reference_False")
    (tmp_path / "reference_False" / "numerics.json").unlink()
    run(tmp_path, tmp_path / "out")
    shard = tmp_path / "reference_False" / "reference-00000.safetensors"
    with safe_open(shard, framework="pt") as file:
        metadata = file.metadata()
        values = {name: file.get_tensor(name) + 0.5 for name in file.keys()}  # noqa: SIM118
    save_file(values, shard, metadata=metadata)
    # Such as another machine's: the same weights, other values. The next try computes its own, and trains as if nothing had been.
    with pytest.raises(
        ReferenceMismatch, match=r"mean weight at step 0 must be 1.* started again, training computes the reference"
    ):
        run(tmp_path, tmp_path / "checked")
    summary = run(tmp_path, tmp_path / "checked")
    assert 0 < abs(summary["reference_mismatch"] - 1) < 1
    assert same(weights(tmp_path / "checked"), weights(tmp_path / "out"))
    assert not (tmp_path / "checked" / "own_reference").exists()
    assert run(tmp_path, tmp_path / "out")["reference_mismatch"] is None


def test_a_difference_that_stays_under_its_own_reference_ends_the_training(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model", "groups", "reference_False"):
        (tmp_path / name).symlink_to(workplace / name)
    monkeypatch.setattr("bnf.training.identity.IdentityCheck.mean_weight", lambda self: 0.9)
    with pytest.raises(ReferenceMismatch):
        run(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="computed this reference itself") as caught:
        run(tmp_path, tmp_path / "out")
    assert not isinstance(caught.value, ReferenceMismatch), "what comes back is not tried again"


def test_collapse_stops_with_a_message(workplace: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingCollapsed, match=r"must be finite, got (nan|inf) at step \d+; try a lower learning_rate \(now 1e\+30\)"
    ):
        run(workplace, tmp_path, learning_rate=1e30, num_train_epochs=3)


def test_another_training_is_not_resumed_here(workplace: Path, tmp_path: Path) -> None:
    run(workplace, tmp_path)
    with pytest.raises(ValueError, match=r"output_dir must be new or hold the same training, got .* with another config"):
        run(workplace, tmp_path, learning_rate=2e-3)


def test_what_an_objective_needs_is_checked_first(tiny_model_dir: Path, workplace: Path, tmp_path: Path) -> None:
    unpaired = [type(group)(group.id, group.prompt_ids, group.completions) for group in random_groups(4)]
    write_groups(tmp_path / "groups", unpaired)

    def start(reference_dir: Path | None, **settings: Any) -> None:
        train(
            TrainConfig(**(BASE | settings)),
            Folders(tiny_model_dir, tmp_path / "groups", reference_dir, tmp_path / "out"),
            step0_check=False,
            progress=ignore,
        )

    with pytest.raises(ValueError, match="reference_dir must be given for objective 'bnf', got None"):
        start(None)
    with pytest.raises(ValueError, match=r"groups must hold pairs for objective 'dpo', got none; set prepare.pairing"):
        start(workplace / "reference_False", objective="dpo")
    with pytest.raises(ValueError, match="length_normalization must be own on groups without pairs"):
        start(workplace / "reference_False", length_normalization="pair_min")
