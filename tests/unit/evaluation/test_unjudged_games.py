"""Games that are decided without the judge: they count for the score, and say nothing of the judge."""

import json

import pytest

from evaluation.judging.aggregates.judgment import Judgment
from evaluation.judging.aggregates.wildbench import CUT, aggregate_rewards
from evaluation.judging.recorded.score import judge_score
from evaluation.report.judged import add_agreement, judge_counts, judge_entry, judge_notes, judge_rows
from tests.unit.evaluation.fake_engine import FakeEngine
from tests.unit.evaluation.judgment_files import REFERENCE, comparison, notes, scores_file, wildbench_file
from tests.unit.evaluation.test_judging import TASKS, games_in, play, scored

MANY = [{**TASKS[n % len(TASKS)], "id": f"s{n}"} for n in range(20)]
FULL = {item["id"]: [f"reference {item['id']}"] for item in MANY}
# Sixteen of twenty are empty: four fifths.
MOSTLY_EMPTY = {item["id"]: [f"text {item['id']}" if n < 4 else ""] for n, item in enumerate(MANY)}


def always_a(_):
    return json.dumps({"choice": "A+"})


def rewards(folder, reply=always_a, answers=MOSTLY_EMPTY, **options):
    return play(FakeEngine(reply), folder, "checklist_pairwise", items=MANY, models={"m": answers}, baseline=FULL, **options)[
        "models"
    ]["m"]


@pytest.mark.parametrize("orders", ["both", "one"])
@pytest.mark.parametrize(("sign", "label"), [(1.0, "A+"), (-1.0, "B++")])
def test_empty_answers_do_not_thin_a_judges_bias(tmp_path, sign, label, orders):
    """A judge that goes by position alone, in games of which four fifths are decided without it: its bias was 0.2, and trusted."""
    found = play(
        FakeEngine(lambda _: json.dumps({"choice": label})),
        tmp_path,
        "checklist_pairwise",
        items=MANY,
        models={"m": MOSTLY_EMPTY},
        baseline=FULL,
        orders=orders,
    )["models"]["m"]
    judged = 8 if orders == "both" else 4
    assert found["n_games"] - found["n_unjudged"] == judged and found["n_null"] == 0
    assert found["position_bias"] == sign and not found["trusted"] and "position bias" in found["untrusted_reason"]
    assert found["position_bias_coverage"] == 1.0, "of the questions that were judged"
    again = judge_score("wildbench", [tmp_path / "games.jsonl"])
    assert again["models"]["m"]["position_bias"] == sign and not again["models"]["m"]["trusted"]
    assert f"{found['n_unjudged']} of {found['n_games']} games have an empty or cut answer" in notes(again)


@pytest.mark.parametrize("answer", ["", "[This model response is empty.]", "cut" + CUT])
def test_so_in_recorded_comparisons(tmp_path, answer):
    """The judge that names A each time, also of answers that leave the numerator whatever it says, or tells those apart rightly."""
    for name, wrong in (("always-a", True), ("right-of-empty-ones", False)):
        rows = []
        for n in range(100):
            first = "m" if n % 2 else REFERENCE
            second = REFERENCE if first == "m" else "m"
            empty = n >= 20
            winner = first if wrong or not empty else REFERENCE
            rows += [comparison(n, winner, 1, candidate=answer if empty else "text", first=first)]
            rows += [
                comparison(
                    n, second if wrong or not empty else REFERENCE, 1, candidate=answer if empty else "text", first=second
                )
            ]
        found = judge_score("wildbench", [wildbench_file(tmp_path / f"{name}.m.json", rows)])["models"]["m"]
        assert found["position_bias"] == 1.0 and not found["trusted"], name
        assert found["n_unjudged"] == found["n_left_out"] == 160 and found["n_games"] == 200 and found["wb_reward"] == 0.0


def test_a_fair_judge_of_few_answers_stays_trusted(tmp_path):
    def fair(messages):
        asked = messages[1]["content"]
        return json.dumps({"choice": "A+" if asked.index("text s") < asked.index("reference s") else "B+"})

    found = rewards(tmp_path, fair)
    assert found["trusted"] and found["position_bias"] == 0.0 and found["n_unjudged"] == 32
    assert found["wb_reward"] == pytest.approx(100 * 0.5 * 4 / 20), "the score is over all items"


def test_nulls_are_a_share_of_what_was_judged(tmp_path):
    """Two null games of eight that were judged are a quarter, and not a twentieth of forty."""
    replies = iter(["no verdict"] * 2 + [always_a(None), json.dumps({"choice": "B+"})] * 3)
    found = rewards(tmp_path, lambda _: next(replies))
    assert found["n_null"] == 2 and found["null_share"] == 0.25
    assert "25% of the games have no verdict" in found["untrusted_reason"]


def test_a_judge_that_was_never_asked_is_not_trusted(tmp_path):
    found = rewards(tmp_path, answers={item["id"]: [""] for item in MANY})
    assert found["n_unjudged"] == found["n_games"] == 40 and found["wb_reward"] == 0.0
    assert found["position_bias"] is None and not found["trusted"] and "no verdict" in found["untrusted_reason"]


def test_empty_answers_hide_no_constant_score_and_no_nulls(tmp_path):
    five = play(
        FakeEngine(lambda _: scored(5)),
        tmp_path / "a",
        "checklist_score",
        items=MANY,
        models={"m": MOSTLY_EMPTY},
        baseline=None,
    )["models"]["m"]
    assert five["n_unjudged"] == 16 and five["mean_score"] == pytest.approx((4 * 5 + 16) / 20)
    assert "every answer has the score 5" in five["untrusted_reason"]
    replies = iter(["nothing", scored(4), scored(6), scored(8)])
    found = play(
        FakeEngine(lambda _: next(replies)), tmp_path / "b", "checklist_score", items=MANY, models={"m": MOSTLY_EMPTY}
    )["models"]["m"]
    assert found["null_share"] == 0.25 and "25% of the games have no verdict" in found["untrusted_reason"]
    path = scores_file(tmp_path / "m.json", ["5"] * 4 + ["1"] * 16, outputs=["text"] * 4 + [""] * 16)
    recorded = judge_score("wildbench", [path])["models"]["org/m"]
    assert recorded["n_unjudged"] == 16 and "every answer has the score 5" in recorded["untrusted_reason"]


def test_they_are_counted_apart_and_shown(tmp_path):
    rewards(tmp_path / "first")
    rewards(tmp_path / "second", lambda m: json.dumps({"choice": "B+"}))
    folders = {"wildbench": tmp_path / "first", "wildbench/second": tmp_path / "second"}
    entries = {name: judge_entry(tmp_path / place) for name, place in (("wildbench", "first"), ("wildbench/second", "second"))}
    entry = entries["wildbench"]
    assert judge_counts(entry)[0] == ("baseline first", "A>B × 4, not judged × 16")
    assert judge_rows("wildbench", entry)[0]["not judged"] == "32"
    (note,) = judge_notes("wildbench", entry)
    assert "0 of 8 judged games without a verdict, 32 more decided without the judge" in note
    # What nobody judged is no agreement.
    add_agreement(entries, folders)
    assert entries["wildbench/second"]["agreement"]["m"]["n_games"] == 8
    assert entries["wildbench/second"]["agreement"]["m"]["same_verdict"] == 0.0
    assert sum(game["finish_reason"] == "not_asked" for game in games_in(tmp_path / "first")) == 32


def test_an_output_that_a_record_lacks_is_a_null_and_not_an_empty_answer():
    judgments = [
        {
            "question_id": f"s{n}",
            "game": game,
            "verdict": None if n == 0 else "A=B",
            "output": {"characters": 4, "empty": False, "cut": False, "missing": n == 0},
            "baseline_output": {"characters": 4, "empty": False, "cut": False},
        }
        for n in range(10)
        for game in (1, 2)
    ]
    found = aggregate_rewards(list(map(Judgment.from_json, judgments)), num_expected=10)
    assert found["n_null"] == 2 and found["null_share"] == 0.1 and found["n_unjudged"] == 0 and found["n_left_out"] == 2
