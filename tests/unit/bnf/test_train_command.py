import json
from pathlib import Path

import pytest

from bnf.groups import write_groups
from bnf.train import main
from tests.unit.bnf.helpers import random_groups


@pytest.mark.parametrize(
    ("objective", "has_reference"),
    [("bnf", True), ("kto\n  objective_options: {beta: 0.5}", True), ("orpo\n  objective_options: {nll_scope: all}", False)],
    ids=["bnf", "kto", "orpo"],
)
def test_trains_from_a_recipes_section_on_its_own(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], objective: str, has_reference: bool
) -> None:
    write_groups(tmp_path / "groups", random_groups(8))
    config = tmp_path / "recipe.yaml"
    config.write_text(
        "train:\n  learning_rate: 1.0e-3\n  max_tokens_per_row: 64\n  global_batch_size: 4\n  label_weighting: balanced\n"
        f"  objective: {objective}\n"
    )
    arguments = ["--model", str(tiny_model_dir), "--groups", str(tmp_path / "groups"), "--output", str(tmp_path / "out")]
    assert main([str(config), *arguments]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["groups"] == 8 and (tmp_path / "out" / "policy" / "config.json").is_file()
    assert (tmp_path / "out" / "reference" / "index.json").is_file() == has_reference


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
