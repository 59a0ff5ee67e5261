"""What commands say and refuse, without a server."""

import json

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.commands import scoring, upkeep
from flows.commands.comparing import compare_runs
from flows.errors import RecipeError
from flows.runs.home import open_store
from tests.unit.flows.run_folders import make, run_of


@pytest.mark.parametrize(
    "score",
    [
        lambda folder: scoring.score_file("gsm8k", folder, "native", lm_eval=False, as_json=True),
        lambda folder: scoring.score_judgments("arena-hard", [folder], None, None, as_json=True),
    ],
)
def test_a_folder_is_no_file_to_score(tmp_path, score):
    with pytest.raises(RecipeError, match=r"FILE must be a file, got the folder .*; give the path of"):
        score(tmp_path)
    with pytest.raises(FileNotFoundError, match="FILE must exist, got"):
        score(tmp_path / "nothing")


def test_files_of_answers_must_be_there_and_their_table_is_printed(tmp_path, capsys):
    row = {"uid": "u", "category": "hard_prompt", "judge": "j", "model": "m", "baseline": "o3-mini-2025-01-31"}
    file, questions = tmp_path / "judgments.jsonl", tmp_path / "question.jsonl"
    file.write_text(json.dumps({**row, "games": [{"score": "B>A"}, {"score": "A=B"}]}) + "\n")
    questions.write_text(
        "".join(json.dumps({"uid": uid, "category": "hard_prompt", "prompt": "?"}) + "\n" for uid in ("u", "v"))
    )
    with pytest.raises(FileNotFoundError, match="--answers must exist, got"):
        scoring.score_judgments("arena-hard", [file], None, None, answers=[tmp_path / "nothing"], as_json=True)
    scoring.score_judgments("arena-hard", [file], None, str(questions), as_json=False)
    printed = capsys.readouterr().out
    assert "arena-hard v2.0, hard_prompt, against o3-mini-2025-01-31" in printed and "75.00" in printed
    assert "m, hard_prompt: 1 questions have no judgment: v" in printed


def test_compare_prints_its_table_and_what_intervals_cover(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BNF_HOME", str(tmp_path))
    runs = [
        run_of(tmp_path, name, number, scores=marks)
        for number, (name, marks) in enumerate({"one": "++--", "two": "+++-"}.items())
    ]
    compare_runs([run.id for run in runs], as_json=False)
    printed = capsys.readouterr().out
    assert "50.0 → 75.0" in printed and "Intervals are 95 % and cover the choice of items only" in printed


def test_join_looks_for_launches_in_the_unfinished_work_of_the_home(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BNF_HOME", str(tmp_path))
    store = open_store(tmp_path, verify=False)
    works = [store.work_folder(stage, "key") for stage in ("reference", "train")]
    for folder in (*works, works[1] / "reference"):
        folder.mkdir(exist_ok=True)
        (folder / "launch.json").touch()
    make(tmp_path, "train", "done")
    found = []

    def join(find, *, stay):
        found.extend(file for file in find() if file.is_file())
        return 7 if stay else 0

    monkeypatch.setattr("bnf.parallel.join.join", join)
    assert (upkeep.join_training(stay=True), upkeep.join_training(stay=False)) == (7, 0)
    assert sorted(found[:3]) == sorted(folder / "launch.json" for folder in (*works, works[1] / "reference"))
    assert f"waiting for a training in {tmp_path / 'artifacts'}; Ctrl-C ends it" in capsys.readouterr().err


def test_scores_are_printed_to_two_places(tmp_path, capsys):
    items = [{"id": str(number), "question": "q", "answer": "1"} for number in range(7)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    answers = [
        {"id": str(number), "completion": '{"answer": "1"}' if number < 4 else "2", "finish_reason": "stop"}
        for number in range(7)
    ]
    (tmp_path / "completions.jsonl").write_text(
        "".join(json.dumps({**answer, "num_completion_tokens": 1}) + "\n" for answer in answers)
    )
    scoring.score_file("gsm8k", tmp_path / "completions.jsonl", "native", lm_eval=False, as_json=False)
    printed = capsys.readouterr().out
    assert "57.14 " in printed and "57.142" not in printed
    scoring.score_file("gsm8k", tmp_path / "completions.jsonl", "native", lm_eval=False, as_json=True)
    assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(400 / 7)


def test_a_file_is_scored_with_a_models_own_markers(tmp_path):
    """Right after a thought; unfinished with the right answer in it; without a thought; with a start of the answer of its own."""
    replies = [
        '[THINK]{"answer": "2"}[/THINK]{"answer": "1"}',
        '[THINK]{"answer": "1"}',
        '{"answer": "1"}',
        '2 {"answer": "1"}',
    ]
    (tmp_path / "items.jsonl").write_text(
        "".join(json.dumps({"id": str(number), "question": f"q{number}", "answer": "1"}) + "\n" for number in range(4))
    )
    records = [{"id": str(number), "completion": reply} for number, reply in enumerate(replies)]
    records[3]["answer_start"] = None
    file = tmp_path / "completions.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))

    def accuracy(*options):
        result = CliRunner().invoke(app, ["score", "gsm8k", str(file), "--json", *options])
        return json.loads(result.stdout) if result.exit_code == 0 else str(result.exception)

    # Without its markers a thought is read like the rest: the first JSON object counts.
    assert accuracy()["accuracy"] == 50 and accuracy()["rules"]["unfinished_thought"] == 1
    own = accuracy("--think-tokens", "[THINK]", "[/THINK]")
    assert own["accuracy"] == 50 and own["rules"] == {"json": 2, "unfinished_thought": 2}
    for options, message in (
        (("[THINK]", "[THINK]"), "--think-tokens must hold two different texts"),
        (("[THINK]", "[/THINK]", "--read-thoughts"), "--think-tokens must be left out with --read-thoughts"),
    ):
        assert message in " ".join(str(accuracy("--think-tokens", *options)).split())
