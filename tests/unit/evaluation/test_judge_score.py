"""`bnf judge-score`: recorded judgments in the published formats give the published figures."""

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.judge_score import judge_score, judgment_rows
from evaluation.judges._wildbench_score import MARGINS
from tests.unit.evaluation.fake_engine import FakeEngine
from tests.unit.evaluation.test_judging import fair, play

needs_data = pytest.mark.skipif("BNF_TEST_DATA" not in os.environ, reason="BNF_TEST_DATA names no folder of upstream data")
RECORDED = Path(os.environ.get("BNF_TEST_DATA", "")) / "recorded_examples"
REFERENCE = "gpt-4-turbo-2024-04-09"
PROMPT = (
    "<|User Prompt|>\nQ\n\n<|The Start of Assistant A's Answer|>\n{}\n<|The End of Assistant A's Answer|>\n\n"
    "<|The Start of Assistant B's Answer|>\n{}\n<|The End of Assistant B's Answer|>"
)


def arena_file(path, verdicts, *, model="m", judge="j", prompts=False):
    """One (game 1, game 2) pair per question; a pair of one is a file without second games."""
    rows = []
    for number, pair in enumerate(verdicts):
        games = [{"judgment": "…", "score": verdict} for verdict in pair]
        if prompts:
            games[0]["user_prompt"], games[1]["user_prompt"] = (
                PROMPT.format("base line", "**mine**"),
                PROMPT.format("**mine**", "base line"),
            )
        rows.append({"question_id": f"q{number}", "model": model, "judge": judge, "games": games})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scores_file(path, scores, *, model="org/m", outputs=None):
    texts = outputs or ["text"] * len(scores)
    rows = [
        {"session_id": f"s{n}", "parsed_result": {"score": score}, "model_test": model, "score": score, "model_output": text}
        for n, (score, text) in enumerate(zip(scores, texts, strict=True))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    return path


def comparison(number, winner, extent, *, candidate="text", reference="text", first="m"):
    second = REFERENCE if first == "m" else "m"
    return {
        "session_id": f"s{number}",
        "model_A": first,
        "model_B": second,
        "winner": winner,
        "extent": extent,
        "model_outputs": {"m": candidate, REFERENCE: reference},
    }


def wildbench_file(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    return path


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
    from evaluation.judges._pairwise_score import NUM_RESAMPLES

    assert NUM_RESAMPLES >= 1000


def test_both_answers_style_is_read_from_the_judges_prompt(tmp_path):
    path = arena_file(tmp_path / "f.jsonl", [("B>A", "A>B")] * 3, prompts=True)
    result = judge_score("arena_hard", [path])["models"]["m"]
    assert result["lengths"]["candidate"]["mean"] == 5 and result["lengths"]["baseline"]["mean"] == 2
    assert result["lengths"]["longer_won"] == 1.0 and result["style_controlled"]["coefficients"]["bold"] == 0.0


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


def test_the_reference_is_told_by_path_name_or_not_at_all(tmp_path):
    swapped = json.dumps([comparison(n, "m", 2, first="m" if n % 2 else REFERENCE) for n in range(4)])
    for path, fits in (
        (tmp_path / "pairwise.v2.eval=judge.ref=other-7b.m.json", True),
        (tmp_path / "m.json", True),
        (tmp_path / "unnamed.json", False),
    ):
        path.write_text(swapped.replace(REFERENCE, "org/other-7b"))
        if fits:
            assert judge_score("wildbench", [path])["models"]["m"]["wb_reward"] == 100.0
        else:
            with pytest.raises(ValueError, match="must tell which model is the reference, got m, org/other-7b"):
                judge_score("wildbench", [path])


def test_our_own_games_aggregate_to_the_stages_own_result(tmp_path):
    summary = play(FakeEngine(fair), tmp_path)
    found = judge_score("arena_hard", [tmp_path / "games.jsonl"], file_format="native")["models"]["new"]
    expected = summary["models"]["new"]
    assert found["partial"], "twelve of 500"
    same = ("score", "ci", "ci_clustered", "n_games", "position_bias", "lengths")
    assert {key: found[key] for key in same} == {key: expected[key] for key in same}
    with pytest.raises(ValueError, match="must be in the format upstream, got native in record 1"):
        judge_score("arena_hard", [tmp_path / "games.jsonl"], file_format="upstream")


def test_every_row_of_upstreams_files_counts(tmp_path):
    """As in upstream's code, which divides by the rows; the questions are counted as what they are."""
    rows = [comparison(n, "m", 2, first="m" if n % 2 else REFERENCE) for n in range(4)] + [comparison(0, "tie", 0)] * 2
    path = wildbench_file(tmp_path / f"ref={REFERENCE}" / "m.json", rows)
    result = judge_score("wildbench", [path])["models"]["m"]
    assert result["wb_reward"] == pytest.approx(100 * 4 / 6) and result["n"] == 4 and result["n_games"] == 6
    assert result["n_repeated"] == 1, "the other order of s0 first, then that again"
    scores = scores_file(tmp_path / "scores.json", ["5", "5", "8"])
    scores.write_text(json.dumps(json.loads(scores.read_text()) + json.loads(scores.read_text())[2:]))
    scored = judge_score("wildbench", [scores])["models"]["org/m"]
    assert scored["mean_score"] == 6.5 and scored["n"] == 3 and scored["n_repeated"] == 1
    assert "1 × a question that was there before; every one counts" in notes(judge_score("wildbench", [scores]))
    assert judge_score("wildbench", [scores, scores])["models"]["org/m"] == scored, "a path that is given twice is one file"


def notes(result):
    """The text below the tables."""
    return " ".join(row["notes"] for title, rows in judgment_rows(result) if not title for row in rows)


def test_repeats_in_two_files_count_and_our_own_games_replace_each_other(tmp_path):
    first, second = (arena_file(tmp_path / name, [pair] * 4) for name, pair in (("a", ("B>A", "A>B")), ("b", ("A>B", "B>A"))))
    result = judge_score("arena_hard", [first, second])["models"]["m"]
    assert result["score"] == 50.0 and result["n_repeated"] == 4 and result["repeated_rows"] == "counted"
    play(FakeEngine(fair), tmp_path)
    games = tmp_path / "games.jsonl"
    once = judge_score("arena_hard", [games])["models"]["new"]
    games.write_text(games.read_text() * 2)
    again = judge_score("arena_hard", [games])["models"]["new"]
    assert again["n_repeated"] == once["n_games"] and again["repeated_rows"] == "replaced"
    assert {**again, "n_repeated": 0} == once


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


def tags_file(path, tags):
    """Questions with tags alone: no checklist, no conversation."""
    rows = [{"id": f"s{n}", "primary_tag": primary, "secondary_tags": others} for n, (primary, others) in enumerate(tags)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_an_empty_answers_stand_in_counts_for_the_task_mean_of_scores(tmp_path):
    """Upstream leaves out what is cut and what has no characters; the words for an empty answer stand in comparisons alone."""
    questions = tags_file(tmp_path / "q.jsonl", [("Math", [])] * 4)
    outputs = ["x", "[This model response is empty.]", "", "x... (truncated)"]
    path = scores_file(tmp_path / "m.json", ["9", "1", "1", "1"], outputs=outputs)
    result = judge_score("wildbench", [path], questions=str(questions))["models"]["org/m"]
    assert result["wb_score_by_task"] == {"Math & Data Analysis": 0.0} and result["n_empty"] == 1


def evaluated(number, choice, first="m", **more):
    sides = ("m", REFERENCE) if first == "m" else (REFERENCE, "m")
    return {
        "session_id": f"s{number}",
        "generator": "m",
        "ref_generator": REFERENCE,
        "assignment": dict(zip("AB", sides, strict=True)),
        "parsed_result": {"choice": choice},
        "winner": choice,
        "model_output": ["one two three"],
        "ref_output": "one",
        **more,
    }


def test_what_evaluation_scripts_write_is_read_as_the_comparison_that_it_is(tmp_path):
    config = {"mode": "pairwise", "gpt": "gpt-4-turbo", "max_words": 2}
    rows = [
        evaluated(0, "A++"),
        evaluated(1, "B+", first=REFERENCE),
        evaluated(2, "A=B"),
        evaluated(3, "A+", first=REFERENCE, model_output="one two", eval_config=config),
    ]
    path = wildbench_file(tmp_path / "m.json", rows[:3])
    found = judge_score("wildbench", [path])["models"]["m"]
    assert found["wb_reward"] == pytest.approx(100 * 1.5 / 3) and found["baseline"] == REFERENCE and found["n_null"] == 0
    path = wildbench_file(tmp_path / "m.json", [{**row, "eval_config": config} for row in rows])
    found = judge_score("wildbench", [path])["models"]["m"]
    assert found["judge"] == "gpt-4-turbo" and found["n_cut"] == 3 and found["wb_reward"] == pytest.approx(100 * -0.5 / 4)
    wildbench_file(path, [evaluated(0, "A"), evaluated(1, "B")])
    with pytest.raises(
        ValueError, match=r"must have a choice of WildBench v2 .*, got A, whose extent nobody knows in record 1"
    ):
        judge_score("wildbench", [path])
    rows = [{"session_id": "s", "generator": "m", "criteria": "c", "score": 7, "model_output": "x"}]
    with pytest.raises(ValueError, match="must be the score of a whole answer"):
        judge_score("wildbench", [wildbench_file(path, rows)])


def test_two_files_that_dont_name_their_judges_are_refused(tmp_path):
    files = [scores_file(tmp_path / name / "m.json", [score] * 2) for name, score in (("a", "9"), ("b", "2"))]
    with pytest.raises(ValueError, match=r"must name their judges .*a/m\.json and .*b/m\.json for org/m; .*eval=<judge>"):
        judge_score("wildbench", files)
    other = scores_file(tmp_path / "c" / "m.json", ["9"] * 2, model="org/other")
    assert set(judge_score("wildbench", [files[0], other])["models"]) == {"org/m", "org/other"}
    arena = [arena_file(tmp_path / name, [("B>A", "A>B")], judge=None) for name in ("d", "e")]
    with pytest.raises(ValueError, match="give each row its `judge`"):
        judge_score("arena_hard", arena)
    (tmp_path / "model_judgment" / "k").mkdir(parents=True)
    path = arena_file(tmp_path / "model_judgment" / "k" / "m.jsonl", [("B>A", "A>B")], judge=None)
    assert judge_score("arena_hard", [path])["models"]["m"]["judge"] == "k"


def test_folders_name_judge_and_reference_also_from_inside(tmp_path, monkeypatch):
    folder = tmp_path / "eval=judge-2024-05-13" / "ref=other"
    swapped = json.dumps([comparison(n, "m", 2, first="m" if n % 2 else REFERENCE) for n in range(4)])
    wildbench_file(folder / "result.json", json.loads(swapped.replace(REFERENCE, "org/other")))
    monkeypatch.chdir(folder)
    found = judge_score("wildbench", [Path("result.json")])["models"]["m"]
    assert found["baseline"] == "org/other" and found["judge"] == "judge-2024-05-13"


@pytest.mark.parametrize(
    ("name", "judge"),
    [
        ("score.v2.eval=gpt-4o-2024-05-13.deepseekv2-chat.json", "gpt-4o-2024-05-13"),
        ("score.v2.eval=gpt-4o-2024-05-13.01-model.json.gz", "gpt-4o-2024-05-13"),
        ("eval=claude-3-5-sonnet-20240620.7b.json", "claude-3-5-sonnet-20240620"),
        ("eval=gpt-3.5-turbo.M.json", "gpt-3.5-turbo"),
        ("eval=gpt-3.5-turbo.json", "gpt-3.5-turbo"),
        ("eval=gpt-3.5-turbo.Qwen2.5-7B.json", "gpt-3.5-turbo"),
        ("eval=judge-v0.1.m.json", "judge-v0.1"),
        ("eval=gpt-4o.mini/Qwen.json", "gpt-4o.mini"),
        ("m.json", None),
    ],
)
def test_the_judge_by_the_path(tmp_path, name, judge):
    assert judge_score("wildbench", [scores_file(tmp_path / name, ["5", "6"])])["models"]["org/m"]["judge"] == judge


@pytest.mark.parametrize(
    ("change", "num_games", "num_null"),
    [
        ({"games": None}, 198, 0),
        ({"games": []}, 198, 0),
        ({"games": [{"score": "B>A"}, {"score": "A>B"}, {"score": "A>B"}]}, 200, 0),
        ({"games": [{"score": float("nan")}, {"score": "A>B"}]}, 200, 1),
        ({"games": [{"score": ["A>B"]}, "none"]}, 200, 2),
        ({"model": None}, 198, 0),
        ({"question_id": None}, 198, 0),
        (None, 198, 0),
        ("no json", 198, 0),
    ],
)
def test_a_bad_row_of_arena_hard_is_null_or_missing(tmp_path, change, num_games, num_null):
    path = arena_file(tmp_path / "f.jsonl", [("B>A", "A>B")] * 100)
    lines = path.read_text().splitlines()
    bad = json.dumps({**json.loads(lines[7]), **change} if isinstance(change, dict) else change)
    path.write_text("\n".join([*lines[:7], bad if change != "no json" else "{", *lines[8:]]))
    result = judge_score("arena_hard", [path])
    found = result["models"]["m"]
    assert (found["n_games"], found["n_null"], found["n_faulty"]) == (num_games, num_null, 1) and found["score"] == 100.0
    assert "in record 8" in found["first_fault"] and "1 × a row with faults" in notes(result)
    path.write_text(bad + "\n")
    if "first two count" not in found["first_fault"] and num_null != 1:
        with pytest.raises(ValueError, match="in record 1; give a file of arena_hard's judgments"):
            judge_score("arena_hard", [path])


@pytest.mark.parametrize(
    ("change", "num_games", "num_null"),
    [({"model_output": None}, 20, 1), ({"model_output": []}, 20, 1), ({"session_id": None}, 19, 0), (None, 19, 0)],
)
def test_a_bad_row_of_wildbench_is_null_or_missing(tmp_path, change, num_games, num_null):
    path = scores_file(tmp_path / "m.json", ["5", "6"] * 10)
    rows = json.loads(path.read_text())
    rows[0] = {**rows[0], **change} if change else None
    path.write_text(json.dumps(rows))
    found = judge_score("wildbench", [path])["models"]["org/m"]
    assert (found["n_games"], found["n_null"], found["n_faulty"]) == (num_games, num_null, 1) and found["n_empty"] == 0
    assert found["mean_characters"] == 4


def test_a_bad_row_of_our_own_is_null_or_missing(tmp_path):
    play(FakeEngine(fair), tmp_path)
    path = tmp_path / "games.jsonl"
    whole = judge_score("arena_hard", [path])["models"]["new"]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    ours = next(n for n, row in enumerate(rows) if row["candidate"] == "new")
    rows[ours]["verdict"] = ["A>B"]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[ours], "candidate": ["new"]}]))
    found = judge_score("arena_hard", [path])["models"]["new"]
    assert found["n_faulty"] == 2 and found["n_null"] == 1 and found["n_games"] == whole["n_games"]
    with pytest.raises(ValueError, match="must hold games of the form checklist_score or checklist_pairwise"):
        judge_score("wildbench", [path])
    game = {"form": "checklist_score", "verdict": 3, "question_id": "q", "game": 1, "candidate": "m", "judge": "j"}
    with pytest.raises(ValueError, match=r"without \['output'\] in record 1"):
        judge_score("wildbench", [wildbench_file(path, [game])])


def test_a_bad_comparison_is_null_or_missing(tmp_path):
    rows = [comparison(n, "m", 2, first="m" if n % 2 else REFERENCE) for n in range(40)]
    rows[3]["model_outputs"] = None
    rows[4]["model_outputs"]["m"] = None
    rows[5]["model_A"] = rows[5]["model_B"]
    found = judge_score("wildbench", [wildbench_file(tmp_path / "m.json", [None, *rows])])["models"]["m"]
    assert found["n_faulty"] == 4 and found["n_games"] == 39 and found["n_null"] == 2
    assert found["wb_reward"] == pytest.approx(100 * 37 / 39)
    assert found["first_fault"] == "m.json must hold one object per record, got NoneType in record 1"


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


@pytest.mark.parametrize(
    ("benchmark", "text"),
    [
        ("arena_hard", ""),
        ("arena_hard", "not json\n"),
        ("arena_hard", '{"question_id": "1"}\n'),
        ("arena_hard", '{"question_id": "1", "model": "m", "games": "none"}\n'),
        ("arena_hard", '{"question_id": "1", "model": "m", "games": [{"score": 3}]}\n'),
        ("arena_hard", "[1, 2]"),
        ("arena_hard", "\x1f\x8bnot gzip"),
        ("wildbench", "{}\n"),
        ("wildbench", '[{"session_id": "s", "model_test": "m", "score": "3", "model_output": 4}]'),
        ("wildbench", "[" * 5000),
        ("wildbench", '[{"session_id": "s", "model_A": "m", "model_B": "m", "winner": "m"}]'),
    ],
)
def test_ill_formed_files_are_refused_by_name(tmp_path, benchmark, text):
    path = tmp_path / "bad.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"bad\.json must"):
        judge_score(benchmark, [path])


def bnf(*words, folder):
    command = [str(Path(sys.executable).parent / "bnf"), "judge-score", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


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
