"""`bnf judge-score`: recorded judgments in the published formats give the published figures."""

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.judging.aggregates.wildbench import MARGINS
from evaluation.judging.recorded.score import judge_score
from evaluation.judging.recorded.tables import judgment_rows
from tests.unit.evaluation.fake_engine import FakeEngine
from tests.unit.evaluation.judgment_files import (
    RECORDED,
    REFERENCE,
    arena_file,
    comparison,
    needs_data,
    notes,
    scores_file,
    tags_file,
    wildbench_file,
)
from tests.unit.evaluation.test_judging import fair, play


@needs_data
def test_the_recorded_arena_hard_example():
    (path,) = (RECORDED / "arena_hard").iterdir()
    result = judge_score("arena_hard", [path])["models"]["Pythia-12B-DPO-UltraFeedback"]
    # 18 much worse, 5 slightly worse and a tie, counted in the file: ½ of 54 + 4 … battles.
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    verdicts = [(number, game["score"]) for row in rows for number, game in enumerate(row["games"])]
    assert len(verdicts) == 24
    won = {(0, "A=B"): (0.5, 1), (0, "A>>B"): (0, 3), (0, "A>B"): (0, 1), (1, "B>A"): (0, 1), (1, "B>>A"): (0, 3)}
    got, battles = (sum(part) for part in zip(*[won[verdict] for verdict in verdicts], strict=True))
    assert result["score"] == pytest.approx(100 * got / battles) and 0 < result["score"] < 1
    assert result["n_questions"] == 12 and result["n_expected"] == 500 and result["partial"] and result["n_null"] == 0
    assert abs(result["position_bias"]) < 0.1 and result["trusted"] and result["judge"] == "gpt-4-1106-preview"
    assert result["style_controlled"]["score"] is not None and result["lengths"]["candidate"]["mean"] > 100


@needs_data
def test_the_recorded_wildbench_example():
    (path,) = (RECORDED / "wildbench").iterdir()
    result = judge_score("wildbench", [path])["models"]["google/gemma-7b-it"]
    assert result["wb_score"] == pytest.approx(10.17578125) and result["mean_score"] == 5.5087890625
    assert result["n"] == 1024 and not result["partial"] and result["trusted"] and result["n_empty"] == 1
    assert result["judge"] == "gpt-4o-2024-05-13"
    low, high = result["ci"]
    assert low < 10.18 < high and 3 < high - low < 6


def test_an_always_a_judge_is_50_and_flagged(tmp_path):
    result = judge_score("arena_hard", [arena_file(tmp_path / "f.jsonl", [("A>>B", "A>>B")] * 500)])["models"]["m"]
    assert result["score"] == 50.0 and result["position_bias"] == 1.0 and not result["trusted"] and not result["partial"]
    assert "position bias +1.00" in result["untrusted_reason"]


def test_missing_second_games_are_partial(tmp_path):
    for pair in (("B>A",), ("B>A", "A>B")):
        path = arena_file(tmp_path / "f.jsonl", [pair] * 500)
        assert judge_score("arena_hard", [path])["models"]["m"]["partial"] is (len(pair) == 1)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[7]["games"][1] = None
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = judge_score("arena_hard", [path])["models"]["m"]
    assert result["partial"] and result["n_games"] == 999 and result["n_null"] == 0


def test_a_label_that_the_protocol_does_not_know_is_a_null_that_counts_as_a_game(tmp_path):
    path = arena_file(tmp_path / "f.jsonl", [("B>A", "A>B")] * 490 + [("A<B", None), ("", "A>B")] * 5)
    result = judge_score("arena_hard", [path])["models"]["m"]
    assert result["n_null"] == 15 and result["n_games"] == 1000 and result["score"] == 100.0 and result["trusted"]


def test_at_least_a_thousand_resamples_and_the_same_interval_every_time(tmp_path):
    rng = random.Random(5)
    verdicts = [tuple(rng.choices(["A>B", "B>A", "A=B", "B>>A"], k=2)) for _ in range(100)]
    path = arena_file(tmp_path / "f.jsonl", verdicts)
    first, second = (judge_score("arena_hard", [path])["models"]["m"] for _ in range(2))
    assert first == second and first["ci"][0] < first["score"] < first["ci"][1]
    from evaluation.judging.aggregates.win_rate import NUM_RESAMPLES

    assert NUM_RESAMPLES >= 1000


def test_several_models_judges_and_repeated_questions(tmp_path):
    good = arena_file(tmp_path / "a.jsonl", [("B>A", "A>B")] * 4, model="good")
    other = arena_file(tmp_path / "b.jsonl", [("B>A", "A>B")] * 2 + [("A>B", "B>A")] * 2, model="good", judge="k")
    third = arena_file(tmp_path / "c.jsonl", [("A>B", "B>A")] * 4, model="poor")
    result = judge_score("arena_hard", [good, third])
    assert {name: found["score"] for name, found in result["models"].items()} == {"good": 100.0, "poor": 0.0}
    assert result["agreement"] == []
    both = judge_score("arena_hard", [good, other, third])
    assert set(both["models"]) == {"good (j)", "good (k)", "poor"}
    (agreement,) = both["agreement"]
    assert agreement["judges"] == ["j", "k"] and agreement["n_games"] == 8 and agreement["same_verdict"] == 0.5
    # There twice: upstream's code counts every row.
    good.write_text(
        good.read_text() + good.read_text().splitlines()[0].replace('"A>B"', '"B>A"').replace('"B>A"', '"A>B"', 1) + "\n"
    )
    again = judge_score("arena_hard", [good])["models"]["good"]
    assert again["n_games"] == 10 and again["n_repeated"] == 1 and again["score"] == 80 and again["n_questions"] == 4
    tables = judgment_rows(both)
    titles = ["arena-hard", "what the scores rest on", "agreement of judges"]
    assert [title for title, _ in tables] == titles and len(tables[0][1]) == 3


def test_wildbench_scores_follow_upstream(tmp_path):
    outputs = ["a" * 10, "b" * 20, "", "word... (truncated)"]
    path = scores_file(tmp_path / "eval=judge-x" / "m.json", ["7", 4, "1", "N/A"], outputs=outputs)
    result = judge_score("wildbench", [path])["models"]["org/m"]
    assert result["wb_score"] == pytest.approx((12 / 3 - 5) * 20) and result["n"] == 4 and result["n_null"] == 1
    assert result["partial"] and result["missing"] == 1020 and result["judge"] == "judge-x"
    assert result["mean_characters"] == 15 and result["n_empty"] == 1 and result["n_cut"] == 1 and not result["trusted"]


def test_wildbench_task_means_leave_out_cut_and_empty_outputs(tmp_path):
    tags = [("Creative Writing", ["Planning"]), ("Math", []), ("Editing", ["Creative Writing"]), ("Coding & Debugging", [])]
    questions = tmp_path / "q.jsonl"
    rows = [
        {
            "id": f"s{n}",
            "conversation_input": [{"role": "user", "content": "?"}],
            "checklist": [],
            "primary_tag": primary,
            "secondary_tags": secondary,
        }
        for n, (primary, secondary) in enumerate(tags)
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = scores_file(tmp_path / "m.json", [8, 6, 4, 9], outputs=["x", "x", "x", ""])
    result = judge_score("wildbench", [path], questions=str(questions))["models"]["org/m"]
    # Creative: 8 and 4 (once, though both tags of s2 are creative); the empty output is no Coding.
    assert result["wb_score_by_task"] == {"Creative Tasks": 20.0, "Planning & Reasoning": 60.0, "Math & Data Analysis": 20.0}
    assert result["wb_score_macro"] == pytest.approx((0.5 * 20 + 1.25 * 60 + 20) / 4.75)
    assert result["wb_score"] == pytest.approx((27 / 4 - 5) * 20), "and counts for the plain mean"


def test_wildbench_rewards_and_their_length_margin(tmp_path):
    long, short = "x" * 700, "y" * 100
    rows = [
        comparison(0, "m", 2, candidate=long, reference=short),  # much better: no margin
        comparison(1, "m", 1, candidate=long, reference=short),  # slightly better and 600 longer
        comparison(2, REFERENCE, 1, candidate=short, reference=long),  # slightly worse than one that is 600 longer
        comparison(3, REFERENCE, 1, candidate=long, reference=short, first=REFERENCE),
        comparison(4, "tie", 0, first=REFERENCE),
        comparison(5, "m", 2, candidate="cut... (truncated)", first=REFERENCE),
        comparison(6, "m", 2, reference="[This model response is empty.]", first=REFERENCE),
        comparison(7, "m", 1, candidate=long, reference=short, first=REFERENCE),
    ]
    path = wildbench_file(tmp_path / f"ref={REFERENCE}" / "m.json", rows)
    result = judge_score("wildbench", [path])["models"]["m"]
    assert result["wb_reward"] == pytest.approx(100 * (1 + 0.5 - 0.5 - 0.5 + 0.5) / 8)
    # K=500: the slight wins of the longer side (1, 2 and 7) are ties; K=1000: none is.
    assert result["wb_reward_by_margin"]["500"] == pytest.approx(100 * (1 - 0.5) / 8)
    assert result["wb_reward_by_margin"]["1000"] == result["wb_reward_by_margin"]["-1"] == result["wb_reward"]
    assert set(result["wb_reward_by_margin"]) == {str(margin) for margin in MARGINS}
    assert result["n_left_out"] == 2 and result["n"] == 8 and result["partial"]
    assert result["references"][REFERENCE]["wb_reward"] == result["wb_reward"]


def test_a_reward_judge_that_always_says_a_is_flagged(tmp_path):
    rows = [comparison(n, "m" if n % 2 else REFERENCE, 1, first="m" if n % 2 else REFERENCE) for n in range(1024)]
    result = judge_score("wildbench", [wildbench_file(tmp_path / "m.json", rows)])["models"]["m"]
    assert result["wb_reward"] == 0.0 and result["position_bias"] == 1.0 and not result["trusted"] and not result["partial"]


def test_the_mix_is_the_mean_over_the_references(tmp_path):
    files = []
    for name, extent in ((REFERENCE, 2), ("claude-3-haiku-20240307", 1), ("Llama-2-70b-chat-hf", 1)):
        text = json.dumps([comparison(n, "m", extent, first="m" if n % 2 else REFERENCE) for n in range(4)])
        path = tmp_path / f"ref={name}" / "m.json"
        path.parent.mkdir()
        path.write_text(text.replace(REFERENCE, name))
        files.append(path)
    result = judge_score("wildbench", files)["models"]["m"]
    assert result["wb_reward"] == pytest.approx((100 + 50 + 50) / 3) and len(result["references"]) == 3
    assert result["n"] == 4 and result["n_games"] == 12
    with_score = judge_score("wildbench", [*files, scores_file(tmp_path / "score.json", ["6"] * 3 + ["8"], model="m")])[
        "models"
    ]["m"]
    assert with_score["wb_score"] == pytest.approx(30) and with_score["wb_reward"] == pytest.approx(200 / 3)


def test_our_own_games_aggregate_to_the_stages_own_result(tmp_path):
    summary = play(FakeEngine(fair), tmp_path)
    found = judge_score("arena_hard", [tmp_path / "games.jsonl"], file_format="native")["models"]["new"]
    expected = summary["models"]["new"]
    assert found["partial"], "twelve of 500"
    same = ("score", "ci", "ci_clustered", "n_games", "position_bias", "lengths")
    assert {key: found[key] for key in same} == {key: expected[key] for key in same}
    with pytest.raises(ValueError, match="must be in the format upstream, got native in record 1"):
        judge_score("arena_hard", [tmp_path / "games.jsonl"], file_format="upstream")


def test_one_model_is_one_entry_that_is_as_good_as_its_worst_part(tmp_path):
    """The protocol's own judges, one for each form: the score is whole and fair, the rewards' judge always says A, of 300 questions."""
    scores = scores_file(tmp_path / "score" / "eval=gpt-4o" / "m.json", ["5", "7"] * 512, model="m")
    rows = [comparison(n, "m" if n % 2 else REFERENCE, 1, first="m" if n % 2 else REFERENCE) for n in range(300)]
    rewards = wildbench_file(tmp_path / "pair" / "eval=gpt-4-turbo" / f"ref={REFERENCE}" / "m.json", rows)
    result = judge_score("wildbench", [scores, rewards])
    assert list(result["models"]) == ["m"] and result["agreement"] == []
    found = result["models"]["m"]
    assert found["wb_score"] == 20.0 and found["wb_reward"] == 0.0
    assert found["partial"] and found["n"] == 300 and found["missing"] == 724 and found["n_games"] == 1324
    assert not found["trusted"] and found["untrusted_reason"] == "WB-Reward: position bias +1.00 (at most 0.25 either way)"
    assert found["position_bias"] == 1.0 and found["judge"] == "gpt-4o (WB-Score), gpt-4-turbo (WB-Reward)"
    assert found["checklist_score"]["trusted"] and not found["checklist_score"]["partial"]
    third = scores_file(tmp_path / "score" / "eval=sonnet" / "m.json", ["5", "7"] * 512, model="m")
    models = judge_score("wildbench", [scores, rewards, third])["models"]
    assert list(models) == ["m (gpt-4o)", "m (gpt-4-turbo)", "m (sonnet)"], "two judges of one form"


def test_the_mix_has_what_its_parts_have(tmp_path):
    rng = random.Random(2)
    questions = tags_file(tmp_path / "q.jsonl", [("Math", ["Planning"]), ("Editing", [])] * 32)
    files = []
    for name in (REFERENCE, "claude-3-haiku-20240307"):
        rows = [
            comparison(n, rng.choice(["m", REFERENCE]), 1, candidate="x" * 700, first="m" if n % 2 else REFERENCE)
            for n in range(64)
        ]
        files.append(wildbench_file(tmp_path / f"ref={name}" / "m.json", json.loads(json.dumps(rows).replace(REFERENCE, name))))
    found = judge_score("wildbench", files, questions=str(questions))["models"]["m"]
    first, second = found["references"].values()
    for key in ("wb_reward", "wb_reward_macro"):
        assert found[key] == pytest.approx((first[key] + second[key]) / 2)
    for margin, value in found["wb_reward_by_margin"].items():
        assert value == pytest.approx((first["wb_reward_by_margin"][margin] + second["wb_reward_by_margin"][margin]) / 2)
    assert set(found["wb_reward_by_task"]) == {"Math & Data Analysis", "Planning & Reasoning", "Creative Tasks"}
    low, high = found["ci"]
    assert found["wb_reward_ci"] == [low, high] and low < found["wb_reward"] < high
    # Two independent halves: the mean's interval is √2 narrower than that of one.
    assert (high - low) == pytest.approx((first["ci"][1] - first["ci"][0]) / 2**0.5, rel=0.2)
    assert found["lengths"]["candidate"]["mean"] == 700 and found["lengths"]["baseline"]["mean"] == 4
    assert found["lengths"]["unit"] == "characters" and 0 < found["lengths"]["longer_won"] < 1


def test_an_empty_answers_stand_in_counts_for_the_task_mean_of_scores(tmp_path):
    """Upstream leaves out what is cut and what has no characters; the words for an empty answer stand in comparisons alone."""
    questions = tags_file(tmp_path / "q.jsonl", [("Math", [])] * 4)
    outputs = ["x", "[This model response is empty.]", "", "x... (truncated)"]
    path = scores_file(tmp_path / "m.json", ["9", "1", "1", "1"], outputs=outputs)
    result = judge_score("wildbench", [path], questions=str(questions))["models"]["org/m"]
    assert result["wb_score_by_task"] == {"Math & Data Analysis": 0.0} and result["n_empty"] == 1


def test_tables_fit_a_hundred_columns_with_the_reasons_below(tmp_path):
    name = "a-model-with-a-name-longer-than-anybody-would-wish-7B-instruct"
    pairs = [("A>>B", "A>>B")] * 10 + [("A>>B", None)] * 30 + [(None, None)] * 10
    path = arena_file(tmp_path / "f.jsonl", pairs, model=name, judge="gpt-4-1106-preview-of-someone", prompts=True)
    other = arena_file(tmp_path / "g.jsonl", pairs, model=name, judge="k", prompts=True)
    result = judge_score("arena_hard", [path, other])
    assert result["models"][f"{name} (k)"]["untrusted_reason"].count(";") == 2
    tables = judgment_rows(result)
    for _, rows in tables:
        widths = [max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]]
        assert sum(widths) + 2 * (len(widths) - 1) <= 100
    assert tables[0][1][0]["score"] == "20.00" and tables[0][1][0]["trusted"] == "no, partial"
    assert "".join(row["model"] for row in tables[0][1][:3]).replace(" ", "").startswith(name)
    assert "position bias +1.00 (at most 0.25 either way)" in notes(result)
    (lengths,) = [rows for title, rows in tables if title == "lengths"]
    assert lengths[0]["mean"] == "5" and lengths[0]["baseline"] == "2" and lengths[0]["unit"] == "words and marks"


def bnf(*words, folder):
    command = [str(Path(sys.executable).parent / "bnf"), "judge-score", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.integration
def test_the_command(tmp_path):
    path = arena_file(tmp_path / "f.jsonl", [("B>A", "A>B")] * 3)
    packed = tmp_path / "f.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    done = bnf("arena-hard", str(packed), "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"]["m"]["score"] == 100.0
    (tmp_path / "bad").write_text("{")
    for words, code, message in (
        (("arena-hard", "none.jsonl", "--json"), 2, "none.jsonl"),
        (("arena-hard", "bad", "--json"), 1, "bad must hold a JSON object per line"),
        (("gsm8k", str(path), "--json"), 2, "arena-hard or wildbench"),
    ):
        done = bnf(*words, folder=tmp_path)
        assert (done.returncode, done.stdout) == (code, "") and message in done.stderr and "Traceback" not in done.stderr
