import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bnf.data.groups import write_groups
from bnf.train import main
from bnf.training.collapse import TrainingCollapsed
from bnf.training.config import TrainConfig
from tests.unit.bnf.helpers import random_groups


@pytest.mark.parametrize(
    ("objective", "has_reference"),
    [
        ("bnf\n  label_weighting: balanced", True),
        ("kto\n  label_weighting: balanced\n  objective_options: {beta: 5e-1}", True),
        ("orpo\n  objective_options: {nll_scope: all}", False),
    ],
    ids=["bnf", "kto", "orpo"],
)
def test_trains_from_a_recipes_section_on_its_own(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], objective: str, has_reference: bool
) -> None:
    write_groups(tmp_path / "groups", random_groups(8))
    config = tmp_path / "recipe.yaml"
    config.write_text(
        f"train:\n  learning_rate: 1e-3\n  max_tokens_per_row: 64\n  global_batch_size: 4\n  objective: {objective}\n"
    )
    arguments = ["--model", str(tiny_model_dir), "--groups", str(tmp_path / "groups"), "--output", str(tmp_path / "out")]
    assert main([str(config), *arguments]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["groups"] == 8 and (tmp_path / "out" / "policy" / "config.json").is_file()
    assert (tmp_path / "out" / "reference" / "index.json").is_file() == has_reference


def test_adapters_dev_groups_and_event_files_from_the_command(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_groups(tmp_path / "groups", random_groups(8))
    write_groups(tmp_path / "groups" / "dev", random_groups(4, seed=1))
    config = tmp_path / "recipe.yaml"
    config.write_text(
        "train: {learning_rate: 1.0e-2, max_tokens_per_row: 64, global_batch_size: 4, lora_r: 2, dev_prompts: 4, "
        "dev_max_new_tokens: 4, report_to: [tensorboard]}\n"
    )
    output = tmp_path / "out"
    arguments = ["--model", str(tiny_model_dir), "--groups", str(tmp_path / "groups"), "--output", str(output)]
    assert main([str(config), *arguments]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["dev"]["groups"] == 4 and summary["dev"]["after"]["step"] == summary["steps"]
    assert (output / "adapter_checkpoint" / "adapter_model.safetensors").is_file()
    assert main([str(config), *arguments, "--reference", str(output / "reference"), "--output", str(tmp_path / "again")]) == 0
    again, first = (tmp_path / name / "policy" / "model.safetensors" for name in ("again", "out"))
    assert again.read_bytes() == first.read_bytes()

    events = EventAccumulator(str(output / "tensorboard")).Reload()
    found = set(events.Tags()["scalars"])
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    trained = {f"train/{name}" for name in lines[-2] if name not in ("step", "epoch")}
    evaluated = {f"eval/{name.removeprefix('eval_')}" for name in lines[-1] if name.startswith("eval_")}
    assert trained | evaluated <= found and "train/weights/chosen" in trained and "eval/samples/kl" in evaluated
    losses = {event.step: event.value for event in events.Scalars("train/loss")}
    assert losses == pytest.approx({line["step"]: line["loss"] for line in lines if "loss" in line})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train: {objective: bnf", "error: config must be YAML, got"),
        ("- bnf", "error: config must be a mapping of settings, got list"),
        (
            "learning_rate: 1e-3\nlearning_rate: 1e-5",
            "error: learning_rate must be given once, got it in the lines 1 and 2 of config",
        ),
        ("seed: 1\ntrain: {seed: 2}", "error: seed must be given once, got it in train and beside it"),
        ("train: 5", "error: config must be a mapping of settings, got int in train in"),
        ("bf16: no", "error: bf16 must be true or false, got 'no'"),
        ("report_to: wand", "report_to must be none or among"),
        ("report_to: clearml", "error: report_to=clearml must have the package clearml, got an installation without clearml"),
    ],
)
def test_a_wrong_setting_is_one_message(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    write_groups(tmp_path / "groups", random_groups(4))
    (tmp_path / "c.yaml").write_text(text)
    arguments = ["--model", str(tiny_model_dir), "--groups", str(tmp_path / "groups"), "--output", str(tmp_path / "out")]
    assert main([str(tmp_path / "c.yaml"), *arguments]) == 2
    printed = capsys.readouterr().err
    assert told in printed and "Traceback" not in printed


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"learning_rate": 1e-3, "learning_rate": 1e-5}', "error: learning_rate must be given once, got it twice; remove one"),
        ('{"objective_options": {"beta": 1, "beta": 2}}', "error: beta must be given once"),
        ('{"bf16": true,}', "error: config must be JSON, got"),
        ('{"learning_rate": NaN}', "error: learning_rate must be a number, got nan"),
    ],
)
def test_a_wrong_json_file_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str) -> None:
    (tmp_path / "c.json").write_text(text)
    assert main([str(tmp_path / "c.json"), *("--model", "m", "--groups", "g", "--output", "o")]) == 2
    assert told in capsys.readouterr().err


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the command gives to the training, in place of one."""
    found: list[Any] = []

    def take(*args: object, **kwargs: object) -> SimpleNamespace:
        found.extend([*args, kwargs["reference_model_dir"]])
        return SimpleNamespace(to_json=dict)

    monkeypatch.setattr("bnf.train.run", take)
    return found


def test_the_file_is_read_as_a_recipe_is(tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[Any]) -> None:
    """Numbers are such, and of a whole recipe what stands beside the training counts or is named."""
    config = tmp_path / "recipe.yaml"
    config.write_text("seed: 7\ndata: {source: pairs}\ntrain: {learning_rate: 1e-5, max_tokens_per_row: 2_048}\n")
    assert main([str(config), *("--model", "m", "--groups", "g", "--output", "o")]) == 0
    assert given[0] == TrainConfig(learning_rate=1e-5, max_tokens_per_row=2048, seed=7)
    assert f"config: of {config} train and seed are read, and not data\n" in capsys.readouterr().err


def test_a_tilde_in_a_path_is_the_persons_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[Any]) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("")
    names = ("model", "groups", "reference", "output", "reference-model")
    assert main(["~/c.yaml", *(f"--{name}=~/{name}" for name in names)]) == 0
    assert given[1:] == [tmp_path / name for name in names]


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (TrainingCollapsed("loss must be finite, got nan at step 1"), 1, "error: loss must be finite, got nan at step 1"),
        (PermissionError(13, "Permission denied", "x"), 2, "Permission denied: 'x'"),
        (KeyError("x"), 1, "error: KeyError: 'x'; --debug shows where"),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on from the last checkpoint"),
    ],
)
def test_however_it_ends_there_is_no_traceback_unless_it_is_asked_for(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    told: str,
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("bnf.train.run", fail)
    (tmp_path / "c.yaml").write_text("{}")
    arguments = [str(tmp_path / "c.yaml"), *("--model", "m", "--groups", "g", "--output", "o")]
    assert main(arguments) == code
    printed = capsys.readouterr().err
    assert told in printed and "Traceback" not in printed
    assert main([*arguments, "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.integration
def test_the_library_needs_torch_and_transformers_alone(tiny_model_dir: Path, tmp_path: Path) -> None:
    write_groups(tmp_path / "groups", random_groups(6))
    write_groups(tmp_path / "groups" / "dev", random_groups(4, seed=1))
    (tmp_path / "train.json").write_text(json.dumps({"max_tokens_per_row": 64, "dev_prompts": 2, "dev_max_new_tokens": 2}))
    others = [
        "prefect",
        "vllm",
        "datasets",
        "pydantic",
        "peft",
        "trl",
        "tensorboard",
        "pandas",
        "flows",
        "tasks",
        "data",
        "evaluation",
    ]
    code = (
        f"import sys\nsys.modules.update(dict.fromkeys({others!r}))\nfrom bnf.train import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    arguments = ["--model", tiny_model_dir, "--groups", tmp_path / "groups", "--output", tmp_path / "out"]
    command = [sys.executable, "-c", code, str(tmp_path / "train.json"), *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["groups"] == 6


def test_wrong_settings_and_paths_are_usage_errors(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "train.json"
    config.write_text(json.dumps({"learning_rate": -1}))
    arguments = ["--model", str(tiny_model_dir), "--groups", str(tmp_path / "none"), "--output", str(tmp_path / "out")]
    assert main([str(config), *arguments]) == 2
    assert "learning_rate must be positive, got -1" in capsys.readouterr().err
    config.write_text("{}")
    assert main([str(config), *arguments]) == 2
    assert "groups_dir must hold groups.safetensors" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere.yaml"), *arguments]) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("lora_r: 2\nlora_target_modules: [q_porj]", "lora_target_modules must name modules of the model"),
        ("optim: adam", "optim must be an optimizer of transformers that is installed here, got 'adam'"),
        ("nproc_per_node: 9", "nproc_per_node must be at most the 8 rows that the data make, got 9"),
        ("dev_prompts: 4", "dev_prompts must be left out where there are no dev groups"),
        ("objective: dpo\nlabel_weighting: balanced", "label_weighting must be left at none for objective 'dpo'"),
        ("learning_rate: [", "config must be YAML, got"),
    ],
)
def test_what_training_would_refuse_is_refused_before_the_pass(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: str, message: str
) -> None:
    write_groups(tmp_path / "groups", random_groups(8))
    (tmp_path / "train.yaml").write_text(f"max_tokens_per_row: 64\nglobal_batch_size: 16\n{settings}\n")
    arguments = ["--model", str(tiny_model_dir), "--groups", str(tmp_path / "groups"), "--output", str(tmp_path / "out")]
    assert main([str(tmp_path / "train.yaml"), *arguments]) == 2
    assert f"error: {message}" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_another_node_joins_a_training_that_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first node of one that is done launches nothing: the others would wait for it without end."""
    joined: list[list[Path]] = []
    monkeypatch.setattr("bnf.train.join", lambda find: joined.append(list(find())) or 1)
    monkeypatch.setenv("PET_NODE_RANK", "1")
    (tmp_path / "train.json").write_text(json.dumps({"num_nodes": 2}))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "launch.json").touch()
    command = [
        str(tmp_path / "train.json"),
        "--model",
        str(tmp_path),
        "--groups",
        str(tmp_path),
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(command) == 1 and joined == [[tmp_path / "out" / "launch.json"]]
    (tmp_path / "out" / "train_summary.json").touch()
    assert main(command) == 0 and len(joined) == 1
