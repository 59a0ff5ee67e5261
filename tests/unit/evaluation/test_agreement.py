"""How far our judge agrees with recorded verdicts: shares, κ and their intervals, and what they are not over."""

import json
import math
import re

import pytest

from evaluation.judging.aggregates.agreement import judges_agreement
from evaluation.judging.aggregates.judgment import Facts, Judgment
from evaluation.judging.answers import Answers
from evaluation.judging.client import ModelJudge
from evaluation.judging.recorded.score import judge_score
from evaluation.judging.recorded.tables import judgment_rows
from evaluation.judging.run import judge
from tests.unit.evaluation.fake_engine import FakeEngine, no_progress
from tests.unit.evaluation.judgment_files import RECORDED, arena_file, needs_data, notes


def judgments(verdicts, **more):
    return [
        Judgment(f"q{n}", number, verdict, **more)
        for n, pair in enumerate(verdicts)
        for number, verdict in enumerate(pair, start=1)
    ]


def test_share_and_kappa_worked_out_by_hand():
    """Of 20 games 14 agree. First: 10 A>B, 10 B>A; second: 12 and 8. Expected (10·12 + 10·8) / 400 = ½; κ = (0.7 − 0.5) / 0.5."""
    pairs = [("A>B", "A>B")] * 8 + [("A>B", "B>A")] * 2 + [("B>A", "B>A")] * 6 + [("B>A", "A>B")] * 4
    first, second = ([Judgment(f"q{n}", 1, one[side]) for n, one in enumerate(pairs)] for side in (0, 1))
    found = judges_agreement(first, second)
    assert found.n_games == 20 and found.same_verdict == 0.7 and found.kappa == pytest.approx(0.4)
    # Resampled questions: the share's standard deviation is √(0.21 / 20).
    half = 1.96 * math.sqrt(0.21 / 20)
    assert found.same_verdict_ci == pytest.approx([0.7 - half, 0.7 + half], abs=0.06)
    assert found.kappa_ci[0] < 0.4 < found.kappa_ci[1] and 0.5 < found.kappa_ci[1] - found.kappa_ci[0] < 1.0
    assert found == judges_agreement(first, second)


def test_the_winner_forgives_how_much_better():
    found = judges_agreement(judgments([("A>>B", "B>A")] * 5), judgments([("A>B", "B>>A")] * 5))
    assert found.same_verdict == 0.0 and found.same_winner == 1.0 and found.kappa_winner == 1.0
    # Five questions that all agree: z² / (5 + z²) of others can be otherwise, down to −1.
    share = 3.841459 / 8.841459
    assert found.kappa_winner_ci == pytest.approx([1 - 2 * share, 1.0]) and found.same_winner_ci == pytest.approx(
        [1 - share, 1.0]
    )


def test_games_of_one_question_are_resampled_together():
    """Each question's two games agree or differ together: half as many independent values, an interval √2 as wide."""
    first = judgments([("A>B", "A>B")] * 100)
    together = judges_agreement(first, judgments([("A>B", "A>B")] * 50 + [("B>A", "B>A")] * 50)).same_verdict_ci
    apart = judges_agreement(first, judgments([("A>B", "B>A")] * 50 + [("B>A", "A>B")] * 50)).same_verdict_ci
    assert together[1] - together[0] == pytest.approx(2 * 1.96 * 0.05, rel=0.1)
    assert apart == pytest.approx([0.5 - 0.5 * (s := 3.841459 / 103.841459), 0.5 + 0.5 * s]), "every question has one of two"


def test_what_the_agreement_is_not_over_is_counted():
    first = judgments([("A>B", "A>B"), (None, "A>B"), ("A>B", "A>B"), ("A>B",)])
    second = judgments([("A>B", None), ("A>B", "A>B"), ("A>B", "B>A")])
    found = judges_agreement(first, second)
    assert (found.n_games, found.n_questions, found.n_first_null, found.n_second_null) == (4, 3, 1, 1)
    assert (found.n_first_alone, found.n_second_alone, found.n_other_answers) == (1, 0, 0)
    seen, other = Facts(candidate_style={"characters": 4}), Facts(candidate_style={"characters": 5})
    apart = judges_agreement(judgments([("A>B", "A>B")], facts=seen), judgments([("A>B", "A>B")], facts=other))
    assert apart.n_games == 0 and apart.n_other_answers == 2 and apart.kappa is None and apart.same_verdict_ci is None
    known = judges_agreement(judgments([("A>B", "A>B")], facts=seen), judgments([("A>B", "A>B")]))
    assert known.n_games == 2 and known.kappa_ci is None, "one question has no interval"


def test_judge_score_has_the_table_and_its_notes(tmp_path):
    ours = arena_file(tmp_path / "ours.jsonl", [("B>A", "A>B")] * 8 + [("A>B", None)] * 2, judge="small")
    theirs = arena_file(tmp_path / "theirs.jsonl", [("B>A", "A>B")] * 6 + [("B>A", "B>A")] * 4, judge="gpt-4")
    result = judge_score("arena_hard", [ours, theirs])
    rows = [one for title, rows in judgment_rows(result) if title == "agreement of judges" for one in rows]
    # 18 games with both verdicts, of which 14 are equal: the last four questions' first games differ, or their second ones.
    (found,) = result["agreement"]
    assert found["n_games"] == 18 and found["same_verdict"] == pytest.approx(14 / 18)
    assert rows[0]["same, %"] == "78" and rows[0]["games"] == "18" and rows[0]["κ"].startswith("0.5")
    low, high = (round(100 * bound) for bound in found["same_verdict_ci"])
    assert rows[1]["same, %"] == f"[{low},\N{NO-BREAK SPACE}{high}]" and all(
        len("  ".join(one.values())) <= 100 for one in rows
    )
    assert "leaves out games: 2 without a verdict by small" in notes(result)


@needs_data
def test_a_judge_of_ours_beside_recorded_gpt_4_verdicts(tmp_path):
    """The recorded games' own answers judged by ours, in our own format: the two are found to be about the same games."""
    (path,) = (RECORDED / "arena_hard").iterdir()
    rows = [json.loads(line) for line in path.read_text().strip().split("\n")]
    answers = re.compile(
        r"<\|The Start of Assistant A's Answer\|>\n(.*?)\n<\|The End of Assistant A's Answer\|>.*"
        r"<\|The Start of Assistant B's Answer\|>\n(.*?)\n<\|The End of Assistant B's Answer\|>",
        re.DOTALL,
    )
    shown = {row["question_id"]: answers.search(row["games"][0]["user_prompt"]).groups() for row in rows}
    items = [{"id": uid, "conversation": [{"role": "user", "content": "?"}]} for uid in shown]
    judge(
        ModelJudge(FakeEngine(lambda _: "[[A>>B]]"), None, {"model": "always A"}, "text"),
        "pairwise",
        judge_name="always A",
        questions=items,
        models={rows[0]["model"]: Answers(rows[0]["model"], {uid: [pair[1]] for uid, pair in shown.items()})},
        baseline=Answers("gpt-4-0314", {uid: [pair[0]] for uid, pair in shown.items()}),
        output_dir=tmp_path,
        progress=no_progress,
    )
    (found,) = judge_score("arena_hard", [tmp_path / "games.jsonl", path])["agreement"]
    assert found["judges"] == ["always A", "gpt-4-1106-preview"] and found["n_games"] == 24 and found["n_other_answers"] == 0
    said = [game["score"] for row in rows for game in row["games"]]
    assert found["same_verdict"] == pytest.approx(said.count("A>>B") / 24) and found["kappa"] == pytest.approx(0.0, abs=1e-12)
    assert found["n_first_alone"] == found["n_second_alone"] == found["n_first_null"] == 0


def test_judges_that_judged_nothing_in_common_are_told_so(tmp_path):
    ours = arena_file(tmp_path / "ours.jsonl", [("B>A", "A>B")] * 3, judge="small", model="aligned")
    theirs = arena_file(tmp_path / "theirs.jsonl", [("B>A", "A>B")] * 3, judge="gpt-4")
    said = notes(judge_score("arena_hard", [ours, theirs]))
    assert "no two judges judged one model against one baseline" in said and "small judged aligned, gpt-4 judged m" in " ".join(
        said.split()
    )
