"""KTO from the reference pass to the policy: its extra values in the cache, its one number a step, its resume."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from bnf.data.groups import write_groups
from bnf.data.packing import pack
from bnf.model.loading import load_model
from bnf.reference.cache import cache_reference, read_reference
from bnf.reference.kl_pairs import kl_pair_rows, mean_logratio
from bnf.training.config import TrainConfig
from bnf.training.preparation import Folders
from bnf.training.trainer import train
from tests.unit.bnf.helpers import padded_logps, random_groups

ROWS = {"max_tokens_per_row": 64, "bf16": True}


def ignore(done: int, total: int, note: str) -> None:
    pass


@pytest.fixture(scope="module")
def float32_model(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("float32")
    AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_model_dir / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def workplace(tiny_model_dir: Path, float32_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 24 groups, and their reference: in bfloat16 with and without mismatched completions, in float32 with."""
    folder = tmp_path_factory.mktemp("kto")
    write_groups(folder / "groups", random_groups(24))

    def cache(name: str, model_dir: Path, **settings: Any) -> None:
        cache_reference(model_dir, folder / "groups", folder / name, **(ROWS | settings), progress=ignore)

    cache("reference_True", tiny_model_dir, kl_pairs=True)
    cache("reference_without", tiny_model_dir)
    cache("reference_False", float32_model, kl_pairs=True, bf16=False)
    return folder


def run(
    model_dir: Path,
    workplace: Path,
    output: Path,
    progress: Callable[[int, int, str], None] = ignore,
    reference: str | None = None,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Trains, and gives what was logged."""
    config = TrainConfig(objective="kto", **(ROWS | {"learning_rate": 1e-3, "global_batch_size": 6} | settings))
    folders = Folders(model_dir, workplace / "groups", workplace / (reference or f"reference_{config.bf16}"), output)
    train(config, folders, step0_check=True, progress=progress)
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_the_cache_holds_the_references_own_values(tiny_model_dir: Path, workplace: Path) -> None:
    """To the bit: the mean log-ratio of a policy that is the reference is exactly zero."""
    rows = pack(random_groups(24), 64)
    references = read_reference(workplace / "reference_True", rows, **ROWS, kl_pairs=kl_pair_rows(rows))
    assert len(rows) > 3
    assert float(mean_logratio(load_model(tiny_model_dir), references, bf16=True)) == 0
    for reference, row in zip(references, kl_pair_rows(rows), strict=True):
        assert reference.kl_pairs is not None and reference.kl_pairs.logps.dtype == torch.float32
        assert len(reference.kl_pairs.logps) == row.num_completion_tokens


def test_other_objectives_references_are_as_if_there_were_no_kto(workplace: Path) -> None:
    """The same values, and no others."""
    (plain,), (more,) = ((workplace / f"reference_{each}").glob("*.safetensors") for each in ("without", "True"))
    without, with_others = load_file(plain), load_file(more)
    assert set(without) == {"logps", "log_odds"} and set(with_others) == {"logps", "log_odds", "mismatched_logps"}
    assert all(torch.equal(with_others[name], tensor) for name, tensor in without.items())
    assert TrainConfig(objective="kto").reference_settings() != TrainConfig(objective="dpo").reference_settings()
    assert TrainConfig(objective="sft").reference_settings() == TrainConfig(objective="dpo").reference_settings()


def test_a_cache_without_them_is_refused(tiny_model_dir: Path, workplace: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"reference_dir's mismatched must be '\w+', got None: .* run the reference stage again"
    ):
        run(tiny_model_dir, workplace, tmp_path, reference="reference_without")


def test_one_number_for_all_rows_of_a_step(float32_model: Path, workplace: Path, tmp_path: Path) -> None:
    """All groups in one step over several rows: zero in the first step, and in the second what the policy after the first gives
    on all mismatched completions in one padded batch.
    """
    settings: dict[str, Any] = {"global_batch_size": 24, "bf16": False, "warmup_ratio": 0.0, "lr_scheduler_type": "constant"}
    settings |= {"learning_rate": 0.1, "label_weighting": {"preferred": 1, "dispreferred": 0}}
    run(float32_model, workplace, tmp_path / "one", max_steps=1, **settings)
    first, second = run(float32_model, workplace, tmp_path / "two", max_steps=2, **settings)
    assert first["mismatched_logratio"] == 0
    # Nothing gained or lost anywhere: 1 − σ(0) for every preferred completion, and nothing for the others.
    labels = [completion.label for group in random_groups(24) for completion in group.completions]
    assert first["loss"] == pytest.approx(0.5 * labels.count(1) / len(labels))

    rows = kl_pair_rows(pack(random_groups(24), 64))
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (tmp_path / "one" / "policy", float32_model)]
    groups = [group for row in rows for group in row.groups]
    with torch.no_grad():
        policy, reference = (padded_logps(model, groups).sum() for model in models)
    expected = float(policy - reference) / sum(len(group.completions) for group in groups)
    assert len(rows) > 3 and abs(expected) > 0.1
    assert second["mismatched_logratio"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.integration
def test_a_resumed_training_ends_with_the_same_bits(tiny_model_dir: Path, workplace: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"num_train_epochs": 2, "save_steps": 1, "label_weighting": "balanced"}
    whole = run(tiny_model_dir, workplace, tmp_path / "whole", **settings)
    assert len(whole) > 4 and any(line["mismatched_logratio"] > 0 for line in whole)

    def interrupt(done: int, of: int, note: str) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_model_dir, workplace, tmp_path / "stopped", interrupt, **settings)
    resumed = run(tiny_model_dir, workplace, tmp_path / "stopped", **settings)
    for name in ("mismatched_logratio", "loss", "rewards/accuracies"):
        assert [line[name] for line in resumed] == [line[name] for line in whole]
    first, second = (load_file(tmp_path / name / "policy" / "model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(first[name], second[name]) for name in first)
