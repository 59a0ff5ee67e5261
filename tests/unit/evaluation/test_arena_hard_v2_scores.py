"""Arena-Hard v2.0's figures: weights, bootstrap, style control, and what is missing or doesn't fit."""

import gzip
import json
import math

import numpy as np
import pytest

from evaluation.judging.aggregates.judgment import Facts, Judgment
from evaluation.judging.aggregates.style_control_v2 import ONE_MODEL, differences, style_controlled, with_style_control
from evaluation.judging.aggregates.win_rate import with_battles
from evaluation.judging.recorded.score import judge_score
from tests.unit.evaluation.judgment_files import PROMPT, RECORDED, needs_data, notes
from tests.unit.evaluation.test_arena_hard_v2 import CREATIVE, HARD, LOST, WON, both, file, row


def scored(tmp_path, rows, **options):
    return judge_score("arena_hard", [file(tmp_path / "judgments.jsonl", rows)], **options)


# Score and interval


def test_the_score_is_the_mean_over_battles_worked_out_by_hand(tmp_path):
    """Game 1 has the baseline as A, so B's wins are the candidate's. Each `>>` is three battles."""
    verdicts = [("B>>A", "A>B"), ("A=B", "B>>A"), ("A>B", "A=B"), ("A<<B", "B<A")]
    # 3 + 1 won | ½ and 3 lost | 1 lost and ½ | 3 won and, as B<A is A>B, 1 won: of 4 + 4 + 2 + 4 battles.
    found = scored(tmp_path, [row(n, "hard_prompt", HARD, pair) for n, pair in enumerate(verdicts)])["models"]["m, hard_prompt"]
    assert found["score"] == pytest.approx(100 * (4 + 0.5 + 0.5 + 4) / 14) and found["n_games"] == 8


def test_what_is_published_is_a_bootstrap_of_100_over_battles_from_5_to_95(tmp_path):
    """Of 300 battles 30 % won: the standard deviation of their mean is √(0.21 / 300), the percentiles lie 1.645 of them out."""
    rows = [row(n, "hard_prompt", HARD, WON if n < 45 else LOST) for n in range(150)]
    found = scored(tmp_path, rows)["models"]["m, hard_prompt"]
    half = 100 * 1.645 * math.sqrt(0.21 / 300)
    low, high = found["as_published"]["ci"]
    assert found["score"] == 30.0 and found["as_published"]["score"] == pytest.approx(30, abs=4 * half / 1.645 / 10)
    assert low == pytest.approx(30 - half, abs=1.5) and high == pytest.approx(30 + half, abs=1.5)
    # 150 questions with two equal verdicts each: the interval by question is √2 as wide as one by battle, at 95 %.
    clustered = found["ci_clustered"]
    assert clustered[1] - clustered[0] == pytest.approx(2 * 1.96 / 1.645 * math.sqrt(2) * half, rel=0.1)
    assert found["as_published"] == scored(tmp_path, rows)["models"]["m, hard_prompt"]["as_published"]


def test_the_categories_are_never_pooled(tmp_path):
    result = scored(tmp_path, both())
    assert {name: found["score"] for name, found in result["models"].items()} == {
        "m, hard_prompt": 0.0,
        "m, creative_writing": 100.0,
    }
    assert result["together"] == {}, "one judge"


# What has no verdict, is missing, or doesn't fit


def test_what_has_no_verdict_is_counted_by_its_reason(tmp_path):
    rows = [row(n, "hard_prompt", HARD, WON) for n in range(96)]
    rows += [row(96, "hard_prompt", HARD, (None, "A>B")), row(97, "hard_prompt", HARD, ("A>>>B", "A>B"))]
    rows += [row(98, "hard_prompt", HARD, WON) | {"games": [None, {"score": "A>B"}]}]
    rows += [row(99, "hard_prompt", HARD, WON) | {"games": [None, None]}]
    result = scored(tmp_path, rows)
    found = result["models"]["m, hard_prompt"]
    assert found["score"] == 100.0 and found["n_questions"] == 100 and found["n_games"] == 200 and found["n_null"] == 8
    assert found["null_reasons"] == {
        "no verdict in the question's other game": 3,
        "no game": 3,
        "no label": 1,
        "a label that the protocol doesn't have": 1,
    }
    assert "3 × no game" in notes(result) and found["n_faulty"] == 1 and "got 'A>>>B'" in found["first_fault"]


def test_a_row_without_any_game_is_a_fault(tmp_path):
    rows = [{"question_id": n, "model": "m", "judge": "j", "games": [{"score": "B>A"}, {"score": "A>B"}]} for n in range(3)]
    rows.append({"question_id": 3, "model": "m", "judge": "j", "games": [None, None]})
    found = scored(tmp_path, rows)["models"]["m"]
    assert found["n_faulty"] == 1 and "must have a game that was judged, got [None, None] in record 4" in found["first_fault"]


def question_file(path, num_hard=6, num_creative=4, **change):
    rows = [{"uid": f"u{n}", "category": "hard_prompt", "prompt": "?"} for n in range(num_hard)]
    rows += [{"uid": f"u{num_hard + n}", "category": "creative_writing", "prompt": "?"} for n in range(num_creative)]
    return str(file(path, [one | change for one in rows]))


def test_questions_without_a_judgment_are_named(tmp_path):
    questions = question_file(tmp_path / "question.jsonl")
    result = scored(tmp_path, both()[1:-2], questions=questions)
    found = result["models"]
    assert found["m, hard_prompt"]["missing_questions"] == ["u0"]
    assert found["m, creative_writing"]["missing_questions"] == ["u8", "u9"]
    assert "m, creative_writing: 2 questions have no judgment: u8, u9" in notes(result)
    assert scored(tmp_path, both())["models"]["m, hard_prompt"]["missing_questions"] is None, "nobody knows"


def test_judgments_of_other_questions_are_refused(tmp_path):
    questions = question_file(tmp_path / "question.jsonl")
    with pytest.raises(
        ValueError, match=r"m, creative_writing must be judged on creative_writing's questions .*got 1 others, 'u0'"
    ):
        scored(tmp_path, [row(0, "creative_writing", CREATIVE, WON)], questions=questions)
    with pytest.raises(ValueError, match=r"--questions must have the questions of arena-hard-v0\.1, which m was judged on"):
        scored(tmp_path, [{"question_id": "q", "model": "m", "judge": "j", "games": [{"score": "B>A"}]}], questions=questions)
    with pytest.raises(
        ValueError, match=r"must hold questions of the categories arena-hard-v0\.1, hard_prompt, creative_writing, got"
    ):
        scored(tmp_path, both(), questions=question_file(tmp_path / "q.jsonl", category="poetry"))
    with pytest.raises(ValueError, match="--questions must be a file for arena-hard"):
        scored(tmp_path, both(), questions="hub")


def test_more_questions_than_there_are_is_said(tmp_path):
    assert "251 questions where the protocol has 250" in notes(scored(tmp_path, both(0, 251)))


# Style control


def style(tokens, headers=0, lists=0, bold=0):
    return {"characters": 5 * tokens, "tokens": tokens, "headers": headers, "lists": lists, "bold": bold}


def test_the_features_worked_out_by_hand():
    """Length (30 − 10) / 40; headers 3/31 against 1/11, and so on: each (a − b) / (a + b + 1)."""
    found = differences(style(30, headers=3, bold=31), style(10, headers=1, lists=11))
    a, b = 3 / 31, 1 / 11
    assert found == pytest.approx([0.5, (a - b) / (a + b + 1), -0.5, 0.5])
    assert differences(style(0), style(0)) == [0.0, 0.0, 0.0, 0.0]


def made_up(strengths, length_coefficient, rng, num=2000):
    """Battles by the model itself: log-odds = strength + coefficient × standardised difference of lengths."""
    styles = {model: [(style(int(n)), style(100)) for n in rng.integers(20, 500, num)] for model in strengths}
    lengths = np.array([differences(*pair)[0] for pairs in styles.values() for pair in pairs])
    mean, spread = lengths.mean(), lengths.std(ddof=1)
    judged = {}
    for model, pairs in styles.items():
        odds = [strengths[model] + length_coefficient * (differences(*pair)[0] - mean) / spread for pair in pairs]
        won = rng.random(num) < 1 / (1 + np.exp(-np.array(odds)))
        judged[model] = [
            Judgment(f"q{n}", 1, "B>A" if w else "A>B", Facts(candidate_style=pair[0], baseline_style=pair[1]))
            for n, (pair, w) in enumerate(zip(pairs, won, strict=True))
        ]
    return judged


def test_a_known_coefficient_and_known_strengths_are_found():
    judged = made_up({"a": 0.4, "b": -1.0}, 0.8, np.random.default_rng(3))
    found = style_controlled({model: with_battles(part) for model, part in judged.items()})
    assert found["coefficients"]["tokens"] == pytest.approx(0.8, abs=0.1)
    assert found["coefficients"]["headers"] == found["coefficients"]["bold"] == pytest.approx(0, abs=1e-9)
    for model, strength in {"a": 0.4, "b": -1.0}.items():
        low, high = found["scores"][model]["ci"]
        assert found["scores"][model]["score"] == pytest.approx(100 / (1 + math.exp(-strength)), abs=2.5)
        assert low < found["scores"][model]["score"] < high and high - low < 6


def test_a_much_better_answer_weighs_three_times_in_the_regression():
    """With one style difference for all wins and one for all losses nothing can be separated: strengths alone, of 3 against 1."""
    sides = [(style(50), style(100)), (style(200), style(100))]
    judged = [
        Judgment(f"q{n}", 1, verdict, Facts(candidate_style=one, baseline_style=other))
        for n, (verdict, (one, other)) in enumerate([(v, side) for v in ("B>>A", "A>B") for side in sides] * 100)
    ]
    found = style_controlled({"m": with_battles(judged)})
    assert found["scores"]["m"]["score"] == pytest.approx(75, abs=2) and abs(found["coefficients"]["tokens"]) < 0.2


def test_style_control_needs_styles_that_differ_and_says_what_one_model_is_worth():
    judged = [Judgment("q", 1, "B>A"), Judgment("q", 2, "A>B")]
    same = [Judgment(f"q{n}", 1, "B>A", Facts(candidate_style=style(9), baseline_style=style(9))) for n in range(4)]
    assert style_controlled({"m": with_battles(judged)}) is None and style_controlled({"m": with_battles(same)}) is None
    made = made_up({"a": 0.0}, 0.5, np.random.default_rng(0), num=50)
    results = {"a": {}}
    with_style_control(results, {"a": with_battles(made["a"])})
    assert results["a"]["style_controlled"]["note"] == ONE_MODEL and results["a"]["style_controlled"]["models"] == ["a"]


def test_a_model_that_wins_everything_has_a_finite_strength():
    made = made_up({"a": 0.0, "b": 50.0}, 0.5, np.random.default_rng(0), num=60)
    found = style_controlled({model: with_battles(part) for model, part in made.items()})
    assert 90 < found["scores"]["b"]["score"] < 100 and math.isfinite(found["coefficients"]["tokens"])


def with_prompts(rows, texts):
    for one, text in zip(rows, texts, strict=True):
        shown = [PROMPT.format("plain base line", text), PROMPT.format(text, "plain base line")]
        for game, prompt in zip(one["games"], shown, strict=True):
            game["prompt"].append({"role": "user", "content": prompt})
    return rows


def test_styles_are_read_from_the_judges_prompts_and_each_judges_models_are_fitted_together(tmp_path):
    rng = np.random.default_rng(1)
    rows = []
    for model in ("a", "b"):
        texts = [
            "# Head\n" * int(n) + "word " * int(k) for n, k in zip(rng.integers(0, 4, 40), rng.integers(1, 9, 40), strict=True)
        ]
        part = [row(n, "hard_prompt", HARD, WON if rng.random() < 0.5 else LOST, model=model) for n in range(40)]
        rows += with_prompts(part, texts)
    result = scored(tmp_path, rows)
    found = result["models"]["a, hard_prompt"]["style_controlled"]
    assert found["models"] == ["a, hard_prompt", "b, hard_prompt"] and found["note"] is None
    assert found["features"] == "arena-hard v2.0 densities (tokens: words and marks)"
    assert found["ci"][0] < found["score"] < found["ci"][1] and set(found["coefficients"]) == {
        "tokens",
        "headers",
        "lists",
        "bold",
    }
    alone = scored(tmp_path, rows[:40])
    assert "a, hard_prompt: style is held equal over one model alone" in notes(alone)


def answer_file(path, model, num, tokens):
    rows = [
        {
            "uid": f"u{n}",
            "model": model,
            "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": {"answer": "text"}}],
            "metadata": {
                "token_len": tokens + 7 * (n % 5),
                "header_count": {"h1": n % 3, "h2": 0},
                "list_count": {"ordered": 0, "unordered": n % 2},
                "bold_count": 0,
            },
        }
        for n in range(num)
    ]
    return file(path, rows)


def test_files_of_answers_give_upstreams_own_counts(tmp_path):
    rows = [row(n, "hard_prompt", HARD, WON if n % 3 else LOST) for n in range(30)]
    assert scored(tmp_path, rows)["models"]["m, hard_prompt"]["style_controlled"] is None, "these rows have no answers in them"
    own, base = answer_file(tmp_path / "m.jsonl", "m", 30, 40), answer_file(tmp_path / "base.jsonl", HARD, 30, 90)
    found = scored(tmp_path, rows, answers=[own, base])["models"]["m, hard_prompt"]["style_controlled"]
    assert (
        found["features"].endswith("(tokens: a GPT tokenizer's, of the files of answers)")
        and found["coefficients"]["bold"] == 0.0
    )


def test_v01s_style_control_takes_them_too(tmp_path):
    rows = [
        {"question_id": f"u{n}", "model": "m", "judge": "j", "games": [{"score": "B>A"}, {"score": "A=B"}]} for n in range(9)
    ]
    files = [
        answer_file(tmp_path / f"{model}.jsonl", model, 9, 40 + number) for number, model in enumerate(("m", "gpt-4-0314"))
    ]
    found = scored(tmp_path, rows, answers=files)["models"]["m"]["style_controlled"]
    assert found["features"].startswith("arena-hard-v0.1 counts (tokens: a GPT tokenizer's") and 50 < found["score"] < 100


def test_files_of_answers_that_do_not_fit_are_refused_with_the_file_to_give(tmp_path):
    rows = [row(n, "creative_writing", CREATIVE, WON) for n in range(4)]
    own = answer_file(tmp_path / "m.jsonl", "m", 4, 40)
    expected = (
        rf"--answers must have the answers of {CREATIVE} for creative_writing, got those of m; give upstream's "
        rf"data/arena-hard-v2.0/model_answer/{CREATIVE}.jsonl: JSON Lines, plain or gzipped, with uid, model and messages"
    )
    with pytest.raises(ValueError, match=expected):
        scored(tmp_path, rows, answers=[own])
    with pytest.raises(ValueError, match="one file for each model, got two of m"):
        scored(tmp_path, rows, answers=[own, own])
    short = answer_file(tmp_path / "base.jsonl", CREATIVE, 3, 40)
    with pytest.raises(ValueError, match=rf"must answer every question that was judged, got none by {CREATIVE} to 'u3'"):
        scored(tmp_path, rows, answers=[own, short])
    bare = [json.loads(line) for line in own.read_text().splitlines()]
    del bare[1]["metadata"]["bold_count"]
    with pytest.raises(
        ValueError, match="metadata with token_len, header_count, list_count and bold_count in each row, got none for 'u1'"
    ):
        scored(tmp_path, rows, answers=[file(tmp_path / "bare.jsonl", bare)])
    with pytest.raises(ValueError, match="--answers must be left out for wildbench"):
        judge_score("wildbench", [own], answers=[own])


@needs_data
def test_the_hard_baselines_counts_and_the_questions(tmp_path):
    from evaluation.judging.answers import read_answers

    data = RECORDED.parent / "arena_hard_v2.0"
    path = data / "model_answer" / f"{HARD}.jsonl.gz"
    answers = read_answers(path)
    first = json.loads(gzip.decompress(path.read_bytes()).splitlines()[0])
    assert len(answers.styles) == 750 and answers.styles[first["uid"]]["tokens"] == first["metadata"]["token_len"] == 179
    # Our own counts of headers, list items and bold spans are upstream's, for every answer.
    from evaluation.judging.aggregates.style_control import style as counted

    ours = {uid: counted(texts[-1]) for uid, texts in answers.turns.items()}
    differ = [uid for uid in ours for name in ("headers", "lists", "bold") if ours[uid][name] != answers.styles[uid][name]]
    assert differ == []
    # A text may hold U+2028, at which `splitlines` would part it. The file's own lines as rows: every question judged, none missing.
    questions = [json.loads(line) for line in (data / "question.jsonl").read_text().strip().split("\n")]
    baselines = {"hard_prompt": HARD, "creative_writing": CREATIVE}
    rows = [row(0, one["category"], baselines[one["category"]], WON, uid=one["uid"]) for one in questions]
    result = scored(tmp_path, rows[:-1], questions=str(data / "question.jsonl"))["models"]
    assert result["m, hard_prompt"]["n_questions"] + result["m, creative_writing"]["n_questions"] == 749
    missing = [uid for found in result.values() for uid in found["missing_questions"]]
    assert missing == [questions[-1]["uid"]]
