"""What commands say and refuse, without a server."""

from types import SimpleNamespace

import pytest

from flows import commands
from flows.errors import RecipeError
from tests.unit.evaluation.report_folders import scored


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
    folders = {name: scored(tmp_path / name, outcomes)[0] for name, outcomes in {"one": "++--", "two": "+++-"}.items()}
    runs = {name: SimpleNamespace(id=name, artifacts={"score/base/gsm8k": name}, state="done") for name in folders}
    monkeypatch.setattr(commands, "find_run", lambda home, name: runs[name])
    monkeypatch.setattr(commands, "home_folder", lambda: tmp_path)
    monkeypatch.setattr(commands, "open_store", lambda home: SimpleNamespace(fetch=folders.get))
    commands.compare_runs(["one", "two"], as_json=False)
    printed = capsys.readouterr().out
    assert "50.0 → 75.0" in printed and "Intervals are 95 % and cover the choice of items only" in printed
