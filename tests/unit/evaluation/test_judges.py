"""The pairwise judge: hand-computed scores, bias, nulls, resume."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from evaluation._types import Generation
from evaluation.benchmarks import arena_hard
from evaluation.judges._pairwise_score import aggregate
from evaluation.judges.pairwise import judge, parse_verdict
from tests.unit.evaluation.fake_engine import FakeEngine, no_progress

QUESTIONS = arena_hard.load("sample", None)
GOOD = {item["id"]: f"good {item['id']}" for item in QUESTIONS}
POOR = {item["id"]: f"poor {item['id']}" for item in QUESTIONS}
ROOT = Path(__file__).parents[3]


def _judge(engine, output_dir, candidate=GOOD, baseline=POOR, questions=QUESTIONS, **options):
    summary = judge(
        engine,
        None,
        judge_name="judge-1",
        questions=questions,
        candidate_name="new",
        candidate=candidate,
        baseline_name="old",
        baseline=baseline,
        output_dir=output_dir,
        progress=no_progress,
        **options,
    )
    return summary["models"]["new"]


def _fair(messages):
    """Finds the good answer wherever it stands."""
    return "Because. [[A>B]]" if messages[1]["content"].index("good") < messages[1]["content"].index("poor") else "So: [[B>A]]"


def _games(*verdicts, question="q"):
    """(game 1, game 2) pairs, one per question."""
    return [
        {"question_id": f"{question}{number}", "game": game, "verdict": verdict}
        for number, pair in enumerate(verdicts)
        for game, verdict in enumerate(pair, start=1)
    ]


def _aggregate(*verdicts, num_expected=None):
    return aggregate(_games(*verdicts), num_expected=num_expected or len(verdicts), demonstration=False)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A is better. [[A>B]]", "A>B"),
        ("[[B>>A]]", "B>>A"),
        ("First [[A=B]], and so [[A=B]].", "A=B"),
        ("[[A>B]] or rather [[B>A]]", None),
        ("A>B", None),
        ("[[A<B]]", None),
        ("[A>B]", None),
        ("", None),
        ("[[A>B]] but [[A<B]]", None),
    ],
)
def test_verdict_of_free_text(reply, verdict):
    assert parse_verdict(reply) == verdict


def test_score_by_hand():
    # Game 1: the candidate is B. Battles: 3 won, 1 won, 1 half, 3 lost -> (3 + 1 + .5) / 8.
    result = _aggregate(("B>>A", "A>B"), ("A=B", "B>>A"))
    assert result["score"] == pytest.approx(100 * 4.5 / 8)
    assert result["n_games"] == 4 and result["n_null"] == 0 and result["partial"] is False
    # Question 1: -1 and +1 by position; question 2: 0 and -1.
    assert result["position_bias"] == pytest.approx(-0.25)
    assert result["order_disagreement"] == pytest.approx(0.5)


@pytest.mark.parametrize("verdict", ["A>B", "A>>B", "B>A", "B>>A"])
def test_a_judge_that_names_a_position_gives_exactly_50_and_is_not_trusted(verdict):
    result = _aggregate(*[(verdict, verdict)] * 9)
    assert result["score"] == 50.0
    assert result["position_bias"] == (1.0 if verdict.startswith("A") else -1.0)
    assert result["trusted"] is False and "position bias" in result["untrusted_reason"]
    assert result["ci_clustered"] == [50.0, 50.0], "every question says the same"
    assert result["ci"][0] < 50 < result["ci"][1], "rows drawn singly do not know that they come in pairs"


def test_a_consistent_judge_is_unbiased_and_trusted():
    result = _aggregate(*[("B>A", "A>B")] * 6, *[("A>B", "B>A")] * 2)
    assert result["score"] == 75.0 and result["position_bias"] == 0.0 and result["order_disagreement"] == 0.0
    assert result["trusted"] is True and result["untrusted_reason"] == ""
    low, high = result["ci_clustered"]
    assert low < 75 < high <= 100
    assert low < result["ci"][0] and result["ci"][1] <= high, "two games a question say as much as one: the clusters are wider"


def test_score_does_not_depend_on_the_order_of_the_games():
    games = _games(("B>A", "A>>B"), ("A>B", None), ("A=B", "A=B"))
    assert aggregate(games, num_expected=3, demonstration=False)["score"] == pytest.approx(
        aggregate(games[::-1], num_expected=3, demonstration=False)["score"]
    )


def test_exchanging_the_models_mirrors_the_score():
    mirrored = {"A>B": "B>A", "B>A": "A>B", "A>>B": "B>>A", "B>>A": "A>>B", "A=B": "A=B", None: None}
    verdicts = [("B>A", "A>>B"), ("A>B", None), ("A=B", "A=B")]
    there = _aggregate(*verdicts)["score"]
    back = _aggregate(*[tuple(mirrored[verdict] for verdict in pair) for pair in verdicts])["score"]
    assert there + back == pytest.approx(100)


def test_a_null_drops_its_game_alone_and_is_counted():
    result = _aggregate(("B>A", None), ("B>A", "A>B"))
    assert result["score"] == 100.0 and result["n_games"] == 4 and result["n_null"] == 1
    assert result["position_bias"] == 0.0, "only questions with both verdicts count"
    assert result["trusted"] is False and "25% of the games have no verdict" in result["untrusted_reason"]


def test_no_verdict_at_all():
    result = _aggregate((None, None))
    assert result["score"] is None and result["ci"] is None and "no verdict" in result["untrusted_reason"]


def test_missing_questions_or_second_games_are_partial():
    assert _aggregate(("B>A", "A>B"), num_expected=2)["partial"] is True
    one_game = [{"question_id": "q", "game": 1, "verdict": "B>A"}]
    result = aggregate(one_game, num_expected=1, demonstration=False)
    assert result["partial"] is True and result["trusted"] is False and "both orders" in result["untrusted_reason"]


def test_both_orders_are_played_and_a_fair_judge_finds_the_better_answers(tmp_path):
    result = _judge(FakeEngine(_fair), tmp_path)
    assert result["score"] == 100.0 and result["position_bias"] == 0.0 and result["trusted"]
    records = [json.loads(line) for line in (tmp_path / "games.jsonl").read_text().splitlines()]
    assert len(records) == 24 and len({record["key"] for record in records}) == 24
    assert [record["game"] for record in records[:2]] == [1, 2]
    assert records[0]["reply"] == "So: [[B>A]]" and records[0]["candidate"] == "new" and records[0]["judge"] == "judge-1"


def test_a_demonstration_is_never_trusted(tmp_path):
    result = _judge(FakeEngine(_fair), tmp_path, demonstration=True)
    assert result["demonstration"] is True and result["trusted"] is False and "demonstration" in result["untrusted_reason"]


def test_a_judge_with_choices_is_held_to_the_five_verdicts(tmp_path):
    seen = []

    class Choosing(FakeEngine):
        def generate(self, prompts, sampling):
            seen.append(sampling.choices)
            return super().generate(prompts, sampling)

    _judge(Choosing(lambda _: "[[A=B]]", choices=True), tmp_path)
    assert seen[0] == ["[[A>>B]]", "[[A>B]]", "[[A=B]]", "[[B>A]]", "[[B>>A]]"]


def test_only_regenerated_answers_are_judged_again(tmp_path):
    _judge(FakeEngine(_fair), tmp_path)
    engine = FakeEngine(_fair)
    _judge(engine, tmp_path)
    assert engine.asked == []
    changed = GOOD | {QUESTIONS[3]["id"]: "good in another way"}
    result = _judge(engine, tmp_path, candidate=changed)
    assert len(engine.asked) == 2 and all("another way" in messages[1]["content"] for messages in engine.asked)
    assert result["n_games"] == 24


def test_equal_answers_are_asked_once_and_are_two_games(tmp_path):
    engine = FakeEngine(lambda _: "[[A>B]]")
    result = _judge(engine, tmp_path, candidate=POOR)
    assert len(engine.asked) == 12 and result["n_games"] == 24 and result["score"] == 50.0


def test_nulls_are_kept_and_retried(tmp_path):
    result = _judge(FakeEngine(lambda _: Generation("", [], "error: timeout", 0, 0)), tmp_path)
    assert result["n_null"] == 24 and result["score"] is None
    engine = FakeEngine(_fair)
    result = _judge(engine, tmp_path)
    assert len(engine.asked) == 24 and result["n_null"] == 0 and result["score"] == 100.0
    assert len((tmp_path / "games.jsonl").read_text().splitlines()) == 24


def test_free_text_without_a_label_is_asked_to_go_on_once(tmp_path):
    def slow(messages):
        return "B wins: [[B>A]]" if len(messages) == 4 else "Let me think."

    engine = FakeEngine(slow)
    _judge(engine, tmp_path, questions=QUESTIONS[:1])
    assert len(engine.asked) == 4 and engine.asked[2][2] == {"role": "assistant", "content": "Let me think."}
    record = json.loads((tmp_path / "games.jsonl").read_text().splitlines()[0])
    assert (
        record["reply"] == "Let me think.\nB wins: [[B>A]]" and record["attempts"] == 2 and record["num_completion_tokens"] == 2
    )


def test_two_labels_are_null_at_once(tmp_path):
    engine = FakeEngine(lambda _: "[[A>B]] [[B>A]]")
    assert _judge(engine, tmp_path)["n_null"] == 24 and len(engine.asked) == 24


def test_a_killed_judge_loses_no_answer(tmp_path):
    script = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from tests.unit.evaluation.test_judges import FakeEngine, _fair, _judge
        from pathlib import Path
        _judge(FakeEngine(_fair, kill_after=9), Path({str(tmp_path)!r}))
    """
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True)
    assert died.returncode == -9, died.stderr.decode()
    path = tmp_path / "games.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    engine = FakeEngine(_fair)
    result = _judge(engine, tmp_path)
    assert len(engine.asked) == 24 - 8 and result["n_games"] == 24 and result["score"] == 100.0


def test_a_question_without_an_answer_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="an answer by new, got none for 'sample-00'"):
        _judge(FakeEngine(_fair), tmp_path, candidate={})


def test_arena_hard_sample_and_upstream_form(tmp_path):
    assert len(QUESTIONS) == 12 and len({item["prompt"] for item in QUESTIONS}) == 12
    assert arena_hard.messages(QUESTIONS[0]) == [{"role": "user", "content": QUESTIONS[0]["prompt"]}]
    path = tmp_path / "question.jsonl"
    path.write_text('{"uid": "1", "category": "c", "cluster": "k", "prompt": "line\u2028separator"}\n{"uid": "2"}\n')
    assert arena_hard.load(str(path), 1)[0]["prompt"] == "line\u2028separator"
    with pytest.raises(ValueError, match=r"question.jsonl, line 2"):
        arena_hard.load(str(path), None)
    with pytest.raises(FileNotFoundError, match="must be a file"):
        arena_hard.load(str(tmp_path / "none.jsonl"), None)


@pytest.mark.skipif("BNF_TEST_DATA" not in os.environ, reason="BNF_TEST_DATA names no folder of upstream data")
def test_arena_hard_upstream_questions():
    items = arena_hard.load(str(Path(os.environ["BNF_TEST_DATA"]) / "arena_hard_v0.1" / "question.jsonl"), None)
    assert len(items) == arena_hard.NUM_ITEMS == len({item["id"] for item in items})
