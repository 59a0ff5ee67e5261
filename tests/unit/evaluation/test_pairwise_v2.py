"""Arena-Hard v2.0 as benchmarks to run: questions, protocols, replies, deviations, the judge stage's result."""

import json

import pytest

from bnf.plugins import load
from evaluation.benchmarks import BENCHMARKS
from evaluation.judging.answers import read_answers
from evaluation.judging.client import ModelJudge, instructions
from evaluation.judging.deviations import deviations
from evaluation.judging.pending import pending
from evaluation.judging.protocols import PROTOCOLS
from evaluation.judging.recorded.score import judge_score
from tests.unit.evaluation.fake_engine import FakeEngine
from tests.unit.evaluation.judgment_files import RECORDED, needs_data
from tests.unit.evaluation.test_judging import GOOD, POOR, QUESTIONS, fair, games_in, play

HARD, CREATIVE = "arena_hard_v2_hard_prompt", "arena_hard_v2_creative_writing"
FORMS = ("pairwise_hard_prompt", "pairwise_creative_writing")


def questions(path, *categories):
    rows = [
        {"uid": f"u{n}", "category": category, "subcategory": "s", "prompt": f"ask {n}"}
        for n, category in enumerate(categories)
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(path)


def test_each_category_is_a_benchmark_and_the_others_questions_are_counted(tmp_path):
    source = questions(tmp_path / "question.jsonl", "hard_prompt", "creative_writing", "hard_prompt")
    hard, creative = (load(BENCHMARKS, name).load(source, None) for name in (HARD, CREATIVE))
    assert [item["id"] for item in hard] == ["u0", "u2"] and [item["id"] for item in creative] == ["u1"]
    assert dict(hard.left_out) == {"of the category creative_writing": 1}
    assert load(BENCHMARKS, HARD).messages(hard[0]) == [{"role": "user", "content": "ask 0"}] and hard[0]["category"] == "s"
    assert len(load(BENCHMARKS, HARD).load(source, 1)) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ("poetry",),
            "must hold questions of Arena-Hard v2.0, whose categories are hard_prompt and creative_writing, got the category 'poetry'",
        ),
        ((None,), "got the category None"),
        (("creative_writing",), "must hold items of the benchmark, got none"),
        (("hard_prompt",) * 501, "at most the protocol's 500 items, got 501"),
    ],
)
def test_what_is_no_question_is_refused(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        load(BENCHMARKS, HARD).load(questions(tmp_path / "q.jsonl", *rows), None)


def test_without_a_file_the_error_says_which():
    for source in (None, "sample"):
        with pytest.raises(
            ValueError, match=rf"{CREATIVE}.source must be a file, got .*; give upstream's data/arena-hard-v2.0/question.jsonl"
        ):
            load(BENCHMARKS, CREATIVE).load(source, None)


@needs_data
def test_upstreams_questions_are_all_there():
    source = str(RECORDED.parent / "arena_hard_v2.0" / "question.jsonl")
    for name in (HARD, CREATIVE):
        benchmark = load(BENCHMARKS, name)
        assert len(benchmark.load(source, None)) == benchmark.NUM_ITEMS


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("My verdict: [[A>>B]]", "A>>B"),
        ("first [[A>B]], no: [[B>A]]", "B>A"),  # the last counts, where v0.1 has none
        ("[[a>b]]", "A>B"),
        ("[[A<B]]", "B>A"),
        ("[[A<<B]]", "B>>A"),
        ("[[B=A]]", "A=B"),
        ("[A=B] alone", "A=B"),
        ("[A>B] but [[B>A]] and [A=B]", "B>A"),  # double brackets come first
        ("[[A>B]] and last [[A>>>B]]", None),  # the last is no label: upstream breaks off
        ("[[AB]]", None),
        ("[A](link)", None),
        ("A>B", None),
        ("", None),
    ],
)
def test_what_counts_as_a_verdict(form, reply, verdict):
    assert load(PROTOCOLS, form).parse(reply) == verdict


def test_the_judge_of_hard_prompts_answers_first_and_that_of_creative_writing_does_not():
    hard, creative = (instructions(load(PROTOCOLS, form), "text") for form in FORMS)
    assert "write down the answer that you would give yourself" in hard and "yourself" not in creative
    assert "imaginative" in creative and all(text.count("[[A=B]]") == 1 for text in (hard, creative))


def test_there_is_one_attempt_and_the_question_drops_out_with_one_verdict_missing(tmp_path):
    first = QUESTIONS[0]["prompt"]

    def judged(messages):
        is_first = first in messages[1]["content"] and messages[1]["content"].index("good") < messages[1]["content"].index(
            "poor"
        )
        return "hm" if is_first else fair(messages)

    engine = FakeEngine(judged)
    result = play(engine, tmp_path, "pairwise_hard_prompt")["models"]["new"]
    assert len(engine.asked) == 24 and result["n_null"] == 1 + 1 and result["score"] == 100.0
    reasons = {"no verdict in the reply": 1, "no verdict in the question's other game": 1}
    assert result["null_reasons"] == reasons
    assert result["as_published"] == {"score": 100.0, "ci": [100.0, 100.0]}
    records = games_in(tmp_path)
    assert [record["verdict"] for record in records[:2]].count(None) == 1, "the other verdict is on record"
    found = judge_score("arena_hard", [tmp_path / "games.jsonl"])["models"]["new, hard_prompt"]
    assert found["score"] == 100.0 and found["n_null"] == 2 and found["null_reasons"] == reasons


def test_games_in_one_order_all_count(tmp_path):
    result = play(FakeEngine(fair), tmp_path, "pairwise_creative_writing", orders="one")["models"]["new"]
    assert result["n_games"] == 12 and result["n_null"] == 0 and result["score"] == 100.0


def test_gains_and_style_control_are_those_of_v2(tmp_path):
    models = {"base": POOR | {QUESTIONS[0]["id"]: ["good"]}, "aligned": GOOD}
    engine = FakeEngine(lambda m: fair(m) if "good" in m[1]["content"] else "[[A=B]]")
    summary = play(engine, tmp_path, "pairwise_hard_prompt", models=models)
    base, aligned = summary["models"]["base"], summary["models"]["aligned"]
    assert summary["delta"] == pytest.approx(aligned["score"] - base["score"])
    assert aligned["style_controlled"]["features"].startswith("arena-hard v2.0 densities")


def test_the_judge_is_not_shown_what_the_models_thought(tmp_path):
    thinking = {key: [f"<think>secret poor plan</think>{text}"] for key, (text,) in GOOD.items()}
    engine = FakeEngine(fair)
    assert play(engine, tmp_path, "pairwise_hard_prompt", models={"new": thinking})["models"]["new"]["score"] == 100.0
    assert not any("secret" in messages[1]["content"] for messages in engine.asked)
    shown = FakeEngine(fair)
    play(shown, tmp_path / "v01", models={"new": thinking})
    assert all("secret" in messages[1]["content"] for messages in shown.asked), "v0.1 shows the whole answer"


def test_what_was_said_after_a_thought_is_shown_whole(tmp_path):
    """Thoughts are off our completions already; what is left may show the markers."""
    said = "good: write <think>plan</think> before it"
    records = [{"id": key, "completion": f"<think>hm</think>{said}"} for key in GOOD]
    (tmp_path / "ours.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    ours = read_answers(tmp_path / "ours.jsonl")
    assert ours.is_said and not read_answers(upstream_answers(tmp_path / "theirs.jsonl", said)).is_said
    engine = FakeEngine(fair)
    judge = ModelJudge(engine, None, {"model": "j"}, "text")
    asked = list(pending(load(PROTOCOLS, "pairwise_hard_prompt"), judge, QUESTIONS, {"new": ours}, ours, "one"))
    assert asked and all(said in one.requests[0][1]["content"] for one in asked)


def upstream_answers(path, text):
    rows = [{"uid": key, "model": "m", "messages": [{"role": "assistant", "content": text}]} for key in GOOD]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(form, **change):
    base = {"judge_name": "gemini-2.5-pro-preview-03-25", "form": form, "source": "file", "limit": None, "max_new_tokens": None}
    return {**base, "orders": "both", "verdict": "text", "max_judgment_tokens": 32_000, **change}


def test_deviations_from_either_categorys_protocol():
    hard, creative = load(BENCHMARKS, HARD), load(BENCHMARKS, CREATIVE)
    own = ["judgments at temperature 0 instead of 1", "the judge's instructions in words of this project"]
    assert deviations(hard, settings(FORMS[0]), "o3-mini-2025-01-31") == own
    found = deviations(creative, settings(FORMS[1], max_judgment_tokens=4096), "o3-mini-2025-01-31")
    assert found == [
        "judge gemini-2.5-pro-preview-03-25 instead of gpt-4.1 and gemini-2.5-pro-preview-03-25 together",
        "baseline o3-mini-2025-01-31 instead of gemini-2.0-flash-001",
        "judgments of at most 4096 instead of 32000 tokens",
        *own,
    ]


@pytest.mark.parametrize("name", ["gpt-4.1", "gemini-2.5", "gemini-2.5-pro-preview-03-25", "small"])
def test_each_published_judge_has_a_temperature_and_a_limit_of_its_own(name):
    """gpt-4.1 at temperature 0 with 16,000 tokens is the judge of a table that upstream publishes, as docs/judges.md shows it."""
    hard, creative = load(BENCHMARKS, HARD), load(BENCHMARKS, CREATIVE)
    own = ["the judge's instructions in words of this project"]
    limit, greedy = (16_000, []) if name == "gpt-4.1" else (32_000, ["judgments at temperature 0 instead of 1"])
    said = settings(FORMS[0], judge_name=name, max_judgment_tokens=limit)
    other = ["judge small instead of gemini-2.5-pro-preview-03-25 or gpt-4.1"] if name == "small" else []
    assert deviations(hard, said, "o3-mini-2025-01-31") == [*other, *greedy, *own]
    shorter = [f"judgments of at most {limit - 1} instead of {limit} tokens"]
    assert deviations(hard, {**said, "max_judgment_tokens": limit - 1}, None) == [*other, *shorter, *greedy, *own]
    if name == "small":
        return
    # A single judge is never the published ensemble, and has its own temperature and limit all the same.
    found = deviations(creative, {**said, "form": FORMS[1]}, "gemini-2.0-flash-001")
    ensemble = f"judge {name} instead of gpt-4.1 and gemini-2.5-pro-preview-03-25 together"
    assert found == [ensemble, *greedy, *own]
