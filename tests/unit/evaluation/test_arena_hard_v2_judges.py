"""Arena-Hard v2.0 with several judges: each apart, their verdicts together, and what is said where they judged different questions."""

import numpy as np
import pytest

from evaluation.judging.aggregates import style_control_v2
from evaluation.judging.aggregates.style_control_v2 import ONE_MODEL
from evaluation.judging.recorded.tables import judgment_rows
from tests.unit.evaluation.judgment_files import notes
from tests.unit.evaluation.test_arena_hard_v2 import CREATIVE, HARD, LOST, WON, both, row
from tests.unit.evaluation.test_arena_hard_v2_scores import answer_file, scored, with_prompts


def test_judges_of_creative_writing_are_shown_apart_and_together(tmp_path):
    """Their verdicts are put together as they are: 8 battles won and 8 lost by one, 8 won by the other."""
    rows = both()
    other = [row(n, "creative_writing", CREATIVE, WON if n < 8 else LOST, judge="gemini-2.5") for n in range(6, 10)]
    other += [row(0, "hard_prompt", HARD, WON, judge="gemini-2.5")]
    result = scored(tmp_path, rows + other)
    scores = {name: found["score"] for name, found in result["models"].items()}
    assert scores["m (gpt-4.1), creative_writing"] == 100.0 and scores["m (gemini-2.5), creative_writing"] == 50.0
    (name, found), *more = result["together"].items()
    assert name == "m, creative_writing" and more == [], "hard prompts have one judge's table each"
    assert (
        found["score"] == 75.0
        and found["judges"] == ["gpt-4.1", "gemini-2.5"]
        and found["n_games"] == 16
        and found["n_questions"] == 4
    )
    titles = [title for title, _ in judgment_rows(result)]
    assert f"arena-hard v2.0, creative_writing, against {CREATIVE}, judges together" in titles


def test_one_judges_null_leaves_the_others_verdict_and_one_judges_gap_is_partial(tmp_path):
    rows = both(0, 250)
    other = [row(n, "creative_writing", CREATIVE, LOST, judge="gemini-2.5") for n in range(250)]
    other[0]["games"][1]["score"] = None
    found = scored(tmp_path, rows + other)["together"]["m, creative_writing"]
    assert found["score"] == pytest.approx(100 * 500 / 998) and found["n_null"] == 2 and not found["partial"]
    assert scored(tmp_path, rows + other[1:])["together"]["m, creative_writing"]["partial"]


def test_opposite_biases_of_two_judges_do_not_cancel_each_other(tmp_path):
    """One says always that A is better, the other that B is: together they have no bias, and neither can be trusted."""
    rows = [row(n, "creative_writing", CREATIVE, ("A>B", "A>B")) for n in range(8)]
    rows += [row(n, "creative_writing", CREATIVE, ("B>A", "B>A"), judge="gemini-2.5") for n in range(8)]
    found = scored(tmp_path, rows)["together"]["m, creative_writing"]
    assert found["score"] == 50.0 and not found["trusted"]
    assert "gpt-4.1: " in found["untrusted_reason"] and "gemini-2.5: " in found["untrusted_reason"]


def test_judges_of_different_questions_are_said_with_how_many_they_share(tmp_path):
    rows = both(0, 6)
    other = [row(n, "creative_writing", CREATIVE, WON, judge="gemini-2.5") for n in range(4, 10)]
    result = scored(tmp_path, rows + other)
    found = result["together"]["m, creative_writing"]
    assert found["questions_by_judge"] == {"gpt-4.1": 6, "gemini-2.5": 6} and found["n_common_questions"] == 2
    assert "a verdict that counts on 2 questions, gpt-4.1 on 6, gemini-2.5 on 6; the score" in " ".join(notes(result).split())
    # A judge without any verdict that counts has a part in nothing.
    for one in other:
        one["games"][0]["score"] = None
    result = scored(tmp_path, rows + other)
    assert "a verdict that counts on 0 questions, gpt-4.1 on 6, gemini-2.5 on 0; the score" in " ".join(notes(result).split())
    # Two judges of the same questions need no word.
    same = [row(n, "creative_writing", CREATIVE, WON, judge="gemini-2.5") for n in range(6)]
    assert "all judges gave" not in notes(scored(tmp_path, rows + same))


def ensemble(models=("a", "b"), judges=("gpt-4.1", "gemini-2.5"), seed=5):
    """Rows of creative writing by each judge; the longer answer wins more often."""
    rng, rows = np.random.default_rng(seed), []
    for model in models:
        texts = ["word " * int(k) for k in rng.integers(1, 12, 40)]
        for judge in judges:
            verdicts = [WON if rng.random() < len(text) / 60 else LOST for text in texts]
            own = [row(n, "creative_writing", CREATIVE, one, model=model, judge=judge) for n, one in enumerate(verdicts)]
            rows += with_prompts(own, texts)
    return rows


@pytest.fixture
def few_bootstraps(monkeypatch):
    monkeypatch.setattr(style_control_v2, "NUM_PUBLISHED_RESAMPLES", 5)


def test_judges_together_have_one_style_controlled_score_over_the_battles_of_both(tmp_path, few_bootstraps):
    """As `show_result.py -j gpt-4.1 gemini-2.5 -f length markdown` fits them: the regression of all rows, whoever judged them. One judge of
    twice as many questions, with the verdicts of both, gets the same.
    """
    rows = ensemble()
    result = scored(tmp_path, rows)
    found = result["together"]["a, creative_writing"]["style_controlled"]
    assert found["models"] == ["a, creative_writing", "b, creative_writing"] and found["note"] is None
    assert found["coefficients"]["tokens"] > 0 and found["ci"][0] < found["score"] < found["ci"][1]
    renamed = [{**one, "judge": "both", "uid": f"{one['judge']} {one['uid']}"} for one in rows]
    by_hand = scored(tmp_path, renamed)["models"]["a, creative_writing"]["style_controlled"]
    assert found["score"] == pytest.approx(by_hand["score"], abs=1e-9) and found["ci"] == pytest.approx(by_hand["ci"], abs=1e-9)


def test_a_model_that_one_of_them_alone_judged_is_part_of_the_fit_and_another_judges_rows_are_not(tmp_path, few_bootstraps):
    rows = ensemble() + ensemble(models=("c",), judges=("gpt-4.1",))
    result = scored(tmp_path, [*rows, *ensemble(models=("d",), judges=("other",))])["together"]
    assert list(result) == ["a, creative_writing", "b, creative_writing"]
    assert result["a, creative_writing"]["style_controlled"]["models"] == [f"{model}, creative_writing" for model in "abc"]
    bare = [row(n, "creative_writing", CREATIVE, WON, model="e") for n in range(3)]
    found = scored(tmp_path, [*rows, *bare])["together"]["a, creative_writing"]
    assert found["style_controlled"] is None, "some battles have no answers"


def test_judges_together_take_styles_of_files_of_answers(tmp_path, few_bootstraps):
    rows = [
        row(n, "creative_writing", CREATIVE, WON if n % 3 else LOST, judge=judge)
        for judge in ("gpt-4.1", "gemini-2.5")
        for n in range(30)
    ]
    assert scored(tmp_path, rows)["together"]["m, creative_writing"]["style_controlled"] is None
    own, base = answer_file(tmp_path / "m.jsonl", "m", 30, 40), answer_file(tmp_path / "base.jsonl", CREATIVE, 30, 90)
    result = scored(tmp_path, rows, answers=[own, base])
    found = result["together"]["m, creative_writing"]["style_controlled"]
    assert found["features"].endswith("of the files of answers)") and found["note"] == ONE_MODEL
    title, shown = judgment_rows(result)[1]
    assert title.endswith("judges together") and shown[0]["style"] == f"{found['score']:.2f}"


def test_the_published_ensemble_is_known_by_name_and_other_judges_are_said(tmp_path):
    names = [
        ("gpt-4.1", "gemini-2.5"),
        ("gemini-2.5-pro-preview-03-25", "gpt-4.1"),
        ("gpt-4.1", "small"),
        ("gemini-2.5", "gemini-2.5-pro-preview-03-25"),
    ]
    said = []
    for judges in names:
        result = scored(
            tmp_path, [row(n, "creative_writing", CREATIVE, WON, judge=judge) for judge in judges for n in range(3)]
        )
        said.append(result["together"]["m, creative_writing"]["deviations"])
        assert ("not as published" in notes(result)) == bool(said[-1])
    published = "gpt-4.1 and gemini-2.5-pro-preview-03-25 together"
    assert said == [
        [],
        [],
        [f"judges gpt-4.1 and small instead of {published}"],
        [f"judges gemini-2.5 and gemini-2.5-pro-preview-03-25 instead of {published}"],
    ]
