"""What commands say and refuse, without a server."""

import pytest

from flows import commands
from flows.comparison import compare_runs
from flows.errors import RecipeError
from tests.unit.flows.run_folders import run_of


@pytest.mark.parametrize(
    "score",
    [
        lambda folder: commands.score_file("gsm8k", folder, "native", lm_eval=False, as_json=True),
        lambda folder: commands.score_judgments("arena-hard", [folder], None, None, as_json=True),
    ],
)
def test_a_folder_is_no_file_to_score(tmp_path, score):
    with pytest.raises(RecipeError, match=r"FILE must be a file, got the folder .*; give the path of"):
        score(tmp_path)
    with pytest.raises(FileNotFoundError, match="FILE must exist, got"):
        score(tmp_path / "nothing")


def test_compare_prints_its_table_and_what_intervals_cover(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BNF_HOME", str(tmp_path))
    runs = [
        run_of(tmp_path, name, number, scores=marks)
        for number, (name, marks) in enumerate({"one": "++--", "two": "+++-"}.items())
    ]
    compare_runs([run.id for run in runs], as_json=False)
    printed = capsys.readouterr().out
    assert "50.0 → 75.0" in printed and "Intervals are 95 % and cover the choice of items only" in printed
