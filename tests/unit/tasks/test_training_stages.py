"""The reference and train stages, called as the child process calls them, with the settings that their keys hash."""

import contextlib
import json
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

import pytest
import torch

from bnf.data.groups import Completion, PromptGroup, write_groups
from bnf.training.checks import check_groups_dir
from bnf.training.config import BOOKKEEPING_FIELDS, TrainConfig
from tasks.job import Job
from tasks.stages import analyze, reference, train
from tests.unit.bnf.helpers import random_groups


@pytest.mark.parametrize("objective", ["kto", "orpo"])
def test_what_an_objective_needs_comes_with_the_reference(objective: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    write_groups(tmp_path / "data", random_groups(8))
    config = TrainConfig(objective=objective, max_tokens_per_row=64, global_batch_size=4)
    inputs = {"model": tiny_model_dir, "data": tmp_path / "data", "reference": tmp_path / "reference"}

    def job(settings: dict, output: Path) -> Job:
        return Job(settings=settings, inputs=inputs, output=output, progress=lambda done, total, note: None)

    reference.run(job(config.reference_settings(), tmp_path / "reference"))
    index = json.loads((tmp_path / "reference" / "index.json").read_text())
    assert (index["mismatched"] is not None) == (objective == "kto")
    train.run(job({k: v for k, v in config.to_dict().items() if k not in BOOKKEEPING_FIELDS}, tmp_path / "train"))
    assert (tmp_path / "train" / "policy" / "model.safetensors").is_file()
    inputs["policy"] = tmp_path / "train" / "policy"
    analyze.run(job(config.row_settings(), tmp_path / "analyze"))
    assert (tmp_path / "analyze" / "shifts.json").is_file()
    # Every pair has a score, whatever the objective, and what became of it.
    pairs = sum(len(group.pairs) for group in random_groups(8))
    for name in ("reference/ches.jsonl", "analyze/pair_shifts.jsonl"):
        assert len((tmp_path / name).read_text().splitlines()) == pairs


@pytest.mark.parametrize("ends", ["well", "in an error"])
@pytest.mark.parametrize("stage", [reference, train])
def test_the_next_job_of_the_process_has_its_threads_back(stage: ModuleType, ends: str, tmp_path: Path, monkeypatch) -> None:
    before = torch.get_num_threads()

    def compute(*args: object, **kwargs: object) -> None:
        torch.set_num_threads(before + 1)
        if ends != "well":
            raise MemoryError

    monkeypatch.setattr("bnf.training.trainer.train", compute)
    monkeypatch.setattr("bnf.reference.launch.ReferenceCall.launch", compute)
    config = TrainConfig(max_tokens_per_row=64, global_batch_size=4)
    settings = config.reference_settings() if stage is reference else config.to_dict()
    inputs = {name: tmp_path for name in ("model", "data", "reference")}
    job = Job(settings=settings, inputs=inputs, output=tmp_path / "out", progress=lambda done, total, note: None)
    try:
        with contextlib.nullcontext() if ends == "well" else pytest.raises(MemoryError):
            stage.run(job)
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)


def test_the_longest_group_is_named_before_the_pass(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Of all groups, dev groups too, as soon as the data are there."""
    write_groups(tmp_path / "data", random_groups(8))
    long = PromptGroup("pairs.jsonl:41", (5,) * 40, (Completion((6,) * 30, 1), Completion((7,) * 20, -1)), ((0, 1),))
    write_groups(tmp_path / "data" / "dev", [*random_groups(2, seed=1), long])
    inputs = {"model": tiny_model_dir, "data": tmp_path / "data"}
    for share_prompts, num_tokens in ((True, 90), (False, 130)):
        values = {"max_tokens_per_row": num_tokens - 1, "share_prompts": share_prompts, "global_batch_size": 4}
        settings = TrainConfig(**values).reference_settings()
        message = (
            rf"train.max_tokens_per_row must hold every group, got {num_tokens - 1} while the longest group, 'pairs.jsonl:41', has "
            rf"{num_tokens} tokens; raise it to {num_tokens} or more, or lower prepare.max_length"
        )
        with pytest.raises(ValueError, match=message):
            check_groups_dir(TrainConfig(**values), inputs["data"])
        with pytest.raises(ValueError, match=message):
            reference.run(
                Job(settings=settings, inputs=inputs, output=tmp_path / "out", progress=lambda done, total, note: None)
            )
        assert not (tmp_path / "out").exists()
        check_groups_dir(TrainConfig(**values | {"max_tokens_per_row": num_tokens}), inputs["data"])


def test_the_same_reference_pass_gives_the_same_files(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Nothing in what the fingerprint hashes tells when or how fast it was made."""
    write_groups(tmp_path / "data", random_groups(4))
    inputs = {"model": tiny_model_dir, "data": tmp_path / "data"}
    contents = []
    for name in ("first", "second"):
        settings = TrainConfig(max_tokens_per_row=64).reference_settings()
        reference.run(Job(settings=settings, inputs=inputs, output=tmp_path / name, progress=lambda done, total, note: None))
        files = sorted(path for pattern in reference.CONTENT for path in (tmp_path / name).glob(pattern))
        contents.append([(path.name, path.read_bytes()) for path in files])
    assert len(contents[0]) == 3 and contents[0] == contents[1]


def test_dev_groups_go_through_the_stages(tiny_model_dir: Path, tmp_path: Path) -> None:
    write_groups(tmp_path / "data", random_groups(8))
    write_groups(tmp_path / "data" / "dev", random_groups(4, seed=1))
    values = {"max_tokens_per_row": 64, "global_batch_size": 4, "dev_prompts": 2, "dev_max_new_tokens": 2, "lora_r": 2}
    config = TrainConfig(**values, lora_target_modules=["q_proj"])
    inputs = {"model": tiny_model_dir, "data": tmp_path / "data", "reference": tmp_path / "reference"}
    settings = {k: v for k, v in config.to_dict().items() if k not in BOOKKEEPING_FIELDS}
    for stage, given in ((reference, config.reference_settings()), (train, settings)):
        output = tmp_path / stage.__name__.rpartition(".")[2]
        stage.run(Job(settings=given, inputs=inputs, output=output, progress=lambda done, total, note: None))
    # What a changed dev set changes is in the fingerprint of the reference.
    written = {str(path.relative_to(tmp_path / "reference")) for path in (tmp_path / "reference").rglob("*") if path.is_file()}
    assert "dev/index.json" in written
    # What it was computed with isn't: the same values from another machine are the same reference.
    uncounted = {name for name in written if not any(fnmatch(name, pattern) for pattern in reference.CONTENT)}
    assert uncounted == {"numerics.json", "dev/numerics.json"}
    summary = json.loads((tmp_path / "train" / "train_summary.json").read_text())
    assert summary["dev"]["after"]["step"] == summary["steps"]
    # Weights that are not the final policy lie under a name that says so.
    for path in (tmp_path / "train").rglob("*.safetensors"):
        assert path.parent.name == "policy" or "checkpoint" in str(path.relative_to(tmp_path))


def test_a_reference_at_a_temperature_goes_through_the_stages(tiny_model_dir: Path, tmp_path: Path) -> None:
    """The training is told of the base model's values, and the analysis measures from these."""
    write_groups(tmp_path / "data", random_groups(8))
    config = TrainConfig(max_tokens_per_row=64, global_batch_size=4)
    inputs = {"model": tiny_model_dir, "data": tmp_path / "data"}

    def job(settings: dict, output: str, **others: Path) -> Job:
        return Job(settings=settings, inputs=inputs | others, output=tmp_path / output, progress=lambda done, total, note: None)

    reference.run(job(config.reference_settings() | {"temperature": 2.0}, "reference", tokenizer=tiny_model_dir))
    reference.run(job(config.reference_settings() | {"mismatched": False}, "base"))
    assert json.loads((tmp_path / "reference" / "index.json").read_text())["temperature"] == 2
    caches = {"reference": tmp_path / "reference", "base": tmp_path / "base"}
    train.run(job({k: v for k, v in config.to_dict().items() if k not in BOOKKEEPING_FIELDS}, "train", **caches))
    summary = json.loads((tmp_path / "train" / "train_summary.json").read_text())
    assert summary["step0_check_skipped"] == "at temperature 2" and summary["compared_with"] == "the base model"
    first = json.loads((tmp_path / "train" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["weights/chosen"] < 1 and abs(first["logps_shift/chosen"]) < 1e-6
    analyze.run(job(config.row_settings(), "analyze", policy=tiny_model_dir, reference=tmp_path / "base"))
    shifts = json.loads((tmp_path / "analyze" / "shifts.json").read_text())
    means = shifts["preferred"]["logps_per_token"]
    assert means["reference"] == means["policy"], "the start is where it was"
