"""Arena-Hard v2.0's records, which name their category and baseline, and JSON as other programs leave it."""

import codecs
import gzip
import json
import os
from pathlib import Path

import pytest

from evaluation.benchmarks import arena_hard, mt_bench, wildbench
from evaluation.judging.answers import read_answers
from evaluation.judging.recorded.score import judge_score
from evaluation.judging.recorded.tables import judgment_rows
from evaluation.scoring.reading import read_completions
from evaluation.scoring.zeroeval import load_zeroeval_results
from tests.unit.evaluation.judgment_files import PROMPT, notes

HARD, CREATIVE = "o3-mini-2025-01-31", "gemini-2.0-flash-001"
WON, LOST = ("B>A", "A>B"), ("A>B", "B>A")


def row(number, category, baseline, verdicts, **more):
    games = [
        {"score": verdict, "judgment": {"answer": "…"}, "prompt": [{"role": "system", "content": "…"}]} for verdict in verdicts
    ]
    return {
        "uid": f"u{number}",
        "category": category,
        "judge": "gpt-4.1",
        "model": "m",
        "baseline": baseline,
        "games": games,
        **more,
    }


def file(path, rows, encode=str.encode):
    path.write_bytes(encode("".join(json.dumps(one) + "\n" for one in rows)))
    return path


def both(num_hard=6, num_creative=4):
    hard = [row(n, "hard_prompt", HARD, LOST) for n in range(num_hard)]
    return hard + [row(num_hard + n, "creative_writing", CREATIVE, WON) for n in range(num_creative)]


def test_each_category_is_scored_and_shown_apart_against_its_rows_baseline(tmp_path):
    result = judge_score("arena_hard", [file(tmp_path / "m.jsonl", both())])
    assert list(result["models"]) == ["m, hard_prompt", "m, creative_writing"]
    hard, creative = result["models"].values()
    assert (hard["score"], hard["baseline"], hard["n_questions"], hard["n_expected"]) == (0.0, HARD, 6, 500)
    assert (creative["score"], creative["baseline"], creative["n_questions"], creative["n_expected"]) == (
        100.0,
        CREATIVE,
        4,
        250,
    )
    assert hard["category"] == "hard_prompt" and hard["version"] == "v2.0" and hard["judge"] == "gpt-4.1"
    titles = [title for title, _ in judgment_rows(result)]
    assert titles[:2] == [
        f"arena-hard v2.0, hard_prompt, against {HARD}",
        f"arena-hard v2.0, creative_writing, against {CREATIVE}",
    ]


def test_whole_categories_are_not_partial(tmp_path):
    result = judge_score("arena_hard", [file(tmp_path / "m.jsonl", both(500, 250))])["models"]
    assert not any(found["partial"] for found in result.values())


def test_the_rows_own_baseline_counts_and_another_than_published_is_said(tmp_path):
    rows = both() + [row(n, "hard_prompt", "gpt-4.1", WON) for n in range(6)]
    result = judge_score("arena_hard", [file(tmp_path / "m.jsonl", rows)])
    names = [f"m, hard_prompt against {HARD}", "m, creative_writing", "m, hard_prompt against gpt-4.1"]
    assert list(result["models"]) == names and result["models"][names[2]]["score"] == 100.0
    assert f"against gpt-4.1 instead of the published {HARD}" in notes(result)


def test_v01_rows_are_read_in_either_form(tmp_path):
    old = [{"question_id": "q", "model": "m", "judge": "gpt-4.1", "games": [{"score": "B>A"}, {"score": "A>B"}]}]
    new = [row(0, "arena-hard-v0.1", "gpt-4-0314", WON)]
    for rows in (old, new, [{**old[0], "baseline": "gpt-4-0314"}]):
        result = judge_score("arena_hard", [file(tmp_path / "m.jsonl", rows)])
        (found,) = result["models"].values()
        assert list(result["models"]) == ["m"] and found["n_expected"] == 500 and found["baseline"] == "gpt-4-0314"
        assert judgment_rows(result)[0][0] == "arena-hard"
    mixed = judge_score("arena_hard", [file(tmp_path / "m.jsonl", old + both())])["models"]
    assert set(mixed) == {"m", "m, hard_prompt", "m, creative_writing"}
    other = judge_score("arena_hard", [file(tmp_path / "m.jsonl", [{**old[0], "baseline": "gpt-3.5"}])])
    assert judgment_rows(other)[0][0] == "arena-hard, against gpt-3.5" and "instead of the published gpt-4-0314" in notes(other)


@pytest.mark.parametrize(
    ("change", "category"),
    [
        ({"baseline": None}, "hard_prompt"),
        ({"category": None}, "hard_prompt"),
        ({"category": None, "baseline": CREATIVE}, "creative_writing"),
    ],
)
def test_what_one_of_the_two_names_the_protocol_completes(tmp_path, change, category):
    rows = [{key: value for key, value in {**both()[0], **change}.items() if value is not None}]
    (found,) = judge_score("arena_hard", [file(tmp_path / "m.jsonl", rows)])["models"].values()
    assert found["category"] == category and found["baseline"] == (CREATIVE if category == "creative_writing" else HARD)


@pytest.mark.parametrize(
    "change",
    [
        {"category": None, "baseline": None},
        {"category": None, "baseline": "gpt-4.1"},
        {"category": "poetry"},
        {"category": 3},
        {"baseline": ["o3"]},
    ],
)
def test_what_cannot_be_known_is_refused(tmp_path, change):
    rows = both()
    strange = {key: value for key, value in {**rows[0], **change}.items() if value is not None}
    with pytest.raises(ValueError, match=r"m\.jsonl must have a (category among|baseline's name).* in record 1"):
        judge_score("arena_hard", [file(tmp_path / "m.jsonl", [strange])])
    result = judge_score("arena_hard", [file(tmp_path / "m.jsonl", [*rows[1:], strange])])
    assert result["models"]["m, hard_prompt"]["n_questions"] == 5 and result["models"]["m, hard_prompt"]["n_faulty"] == 1
    assert "1 × a row with faults" in notes(result)


@pytest.mark.parametrize(
    ("change", "fault", "num_games"),
    [
        ({"judge": 5}, "have a judge's name, got 5", 10),
        ({"judge": ["gpt-4.1"]}, "have a judge's name, got ['gpt-4.1']", 10),
        ({"games": [{"judgment": "A"}, {"score": "A>B"}]}, "have games with a score that is a label or null, got", 12),
        ({"games": [{"score": 1}, {"score": "A>B"}]}, "have games with a score that is a label or null, got", 12),
        ({"games": [{"score": "A>>>B"}, {"score": "A>B"}]}, "have games with a label among A>>B, ", 12),
        ({"model": 7}, "have a model, got 7", 10),
        ({"uid": 1.5}, "have a question_id or a uid, got 1.5", 10),
    ],
)
def test_an_invalid_field_of_a_row_is_named_with_file_and_record_and_its_verdicts_count_nowhere(
    tmp_path, change, fault, num_games
):
    rows = [row(n, "hard_prompt", HARD, WON) for n in range(6)]
    found = judge_score("arena_hard", [file(tmp_path / "m.jsonl", [*rows[:5], rows[5] | change])])["models"]
    (result,) = found.values()
    assert list(found) == ["m, hard_prompt"] and result["score"] == 100.0 and result["n_games"] == num_games
    assert (
        result["n_faulty"] == 1 and f"m.jsonl must {fault}" in result["first_fault"] and "in record 6" in result["first_fault"]
    )


def test_labels_that_point_the_other_way_count_in_v2_alone(tmp_path):
    labels = {"A<B": 100.0, "B>A": 100.0, "A<<B": 100.0, "B<A": 0.0, "B<<A": 0.0, "A>B": 0.0, "B=A": 50.0}
    for label, first_game in labels.items():
        second = {"A": "B", "B": "A"}
        mirrored = "".join(second.get(character, character) for character in label)
        (found,) = judge_score("arena_hard", [file(tmp_path / "m.jsonl", [row(0, "hard_prompt", HARD, (label, mirrored))])])[
            "models"
        ].values()
        assert found["score"] == first_game and found["n_null"] == 0, label
    old = judge_score("arena_hard", [file(tmp_path / "m.jsonl", [row(0, "arena-hard-v0.1", "gpt-4-0314", ("A<B", "A>B"))])])
    found = old["models"]["m"]
    assert found["n_null"] == 1 and "label among A>>B, A>B, A=B, B>A, B>>A, got 'A<B'" in found["first_fault"]


def test_a_null_drops_its_question_in_v2_and_its_game_in_v01(tmp_path):
    for category, baseline, num_null in (("hard_prompt", HARD, 2), ("arena-hard-v0.1", "gpt-4-0314", 1)):
        rows = [row(0, category, baseline, (None, "B>A")), *[row(n, category, baseline, WON) for n in range(1, 50)]]
        (found,) = judge_score("arena_hard", [file(tmp_path / "m.jsonl", rows)])["models"].values()
        assert found["n_null"] == num_null and found["n_games"] == 100
        assert found["score"] == (100.0 if num_null == 2 else pytest.approx(100 * 98 / 99))
    rows[0] = row(0, "hard_prompt", HARD, ("B>A",))
    found = judge_score("arena_hard", [file(tmp_path / "m.jsonl", rows[:1] + both()[1:])])["models"]["m, hard_prompt"]
    assert found["n_null"] == 1 and found["partial"]


def test_a_verdict_that_is_left_out_tells_of_the_judge_all_the_same(tmp_path):
    """3 of 100 games have no verdict, which is no reason for distrust; with what their questions' other games lose 6 don't count."""
    rows = [row(n, "hard_prompt", HARD, ("A>B", None) if n < 3 else WON) for n in range(50)]
    first = file(tmp_path / "m.jsonl", rows)
    (found,) = judge_score("arena_hard", [first])["models"].values()
    assert found["n_null"] == 6 and found["null_share"] == 0.03 and "verdict" not in found["untrusted_reason"]
    others = file(tmp_path / "other.jsonl", [{**one, "judge": "other"} for one in rows])
    (agreement,) = judge_score("arena_hard", [first, others])["agreement"]
    assert agreement["n_games"] == 97


def test_lengths_are_read_from_v2s_prompts_and_its_style_control_is_not_v01s(tmp_path):
    texts = [PROMPT.format("base line", "**mine**"), PROMPT.format("**mine**", "base line")]
    rows = both()
    for one in rows:
        for game, text in zip(one["games"], texts, strict=True):
            game["prompt"].append({"role": "user", "content": text})
    found = judge_score("arena_hard", [file(tmp_path / "m.jsonl", rows)])["models"]["m, creative_writing"]
    assert found["lengths"]["candidate"]["mean"] == 5 and found["lengths"]["longer_won"] == 1.0
    assert found["style_controlled"] is None


def test_two_judges_agree_within_a_category(tmp_path):
    other = [{**one, "judge": "gemini-2.5"} for one in both()]
    files = [file(tmp_path / name, rows) for name, rows in (("a.jsonl", both()), ("b.jsonl", other))]
    result = judge_score("arena_hard", files)
    assert set(result["models"]) == {
        f"m ({judge}), {category}" for judge in ("gpt-4.1", "gemini-2.5") for category in ("hard_prompt", "creative_writing")
    }
    assert [(entry["category"], entry["n_games"]) for entry in result["agreement"]] == [
        ("hard_prompt", 12),
        ("creative_writing", 8),
    ]


# Files as other programs leave them

AS_LEFT = {
    "plain": str.encode,
    "byte-order mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "mark in the middle": lambda text: b"".join(codecs.BOM_UTF8 + line.encode() for line in text.splitlines(keepends=True)),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "blank lines": lambda text: text.replace("\n", "\n\n \n").encode(),
    "gzipped": lambda text: gzip.compress(codecs.BOM_UTF8 + text.encode()),
    "array": lambda text: json.dumps([json.loads(line) for line in text.splitlines()]).encode(),
    "pretty array": lambda text: (
        codecs.BOM_UTF8 + json.dumps([json.loads(line) for line in text.splitlines()], indent=1).encode()
    ),
    "pretty objects": lambda text: "\n".join(json.dumps(json.loads(line), indent=2) for line in text.splitlines()).encode(),
}


@pytest.mark.parametrize("left", AS_LEFT)
def test_no_judgment_and_no_answer_is_lost_to_a_files_form(tmp_path, left):
    rows = [{"question_id": n, "model": "m", "judge": "j", "games": [{"score": "B>A"}, {"score": "A>B"}]} for n in range(20)]
    found = judge_score("arena_hard", [file(tmp_path / "f.jsonl", rows, AS_LEFT[left])])["models"]["m"]
    assert found["n_questions"] == 20 and found["n_games"] == 40 and found["n_faulty"] == 0 and found["score"] == 100.0
    answers = [{"question_id": n, "model_id": "a", "choices": [{"turns": [f"text {n}"]}]} for n in range(20)]
    read = read_answers(file(tmp_path / "a.jsonl", answers, AS_LEFT[left]))
    assert read.model == "a" and read.turns == {str(n): [f"text {n}"] for n in range(20)}


@pytest.mark.parametrize("left", ["plain", "byte-order mark", "CRLF"])
def test_so_with_a_benchmarks_questions_and_completions(tmp_path, left):
    rows = [{"uid": n, "prompt": f"question {n}"} for n in range(20)]
    items = arena_hard.load(str(file(tmp_path / "question.jsonl", rows, AS_LEFT[left])), None)
    assert [item["id"] for item in items] == [str(n) for n in range(20)]
    lines = [{"id": str(n), "completion": "x", "finish_reason": "stop", "num_completion_tokens": 1} for n in range(20)]
    assert len(read_completions(file(tmp_path / "completions.jsonl", lines, AS_LEFT[left]))) == 20


def test_zeroevals_list_may_have_a_mark(tmp_path):
    rows = [{"id": "0", "output": ['{"answer": "1"}'], "question": "?", "answer": "1", "dataset": "gsm"}]
    path = tmp_path / "m.json"
    path.write_bytes(codecs.BOM_UTF8 + json.dumps(rows).encode())
    assert len(load_zeroeval_results(path, "gsm8k").items) == 1


def test_a_line_that_is_no_json_is_a_fault_of_its_own(tmp_path):
    rows = [{"question_id": n, "model": "m", "judge": "j", "games": [{"score": "B>A"}, {"score": "A>B"}]} for n in range(3)]
    path = file(tmp_path / "f.jsonl", rows, lambda text: ("{broken\n" + text).encode())
    found = judge_score("arena_hard", [path])["models"]["m"]
    assert found["n_faulty"] == 1 and found["n_questions"] == 3 and "in record 1" in found["first_fault"]
    path.write_text("{broken\n" + json.dumps({"id": "q", "completion": "a"}) + "\n")
    with pytest.raises(ValueError, match=r"f\.jsonl must hold a JSON object per line, got '\{broken' in record 1"):
        read_answers(path)


def test_answers_of_two_models_are_no_baseline(tmp_path):
    rows = [{"id": "0", "completion": "x"}] + [
        {"uid": str(n), "model": model, "messages": [{"role": "assistant", "content": "a"}]}
        for n, model in ((1, HARD), (2, CREATIVE))
    ]
    with pytest.raises(ValueError, match=f"must hold one model's answers, got those of {HARD} and of {CREATIVE} in record 3"):
        read_answers(file(tmp_path / "a.jsonl", rows))


def test_questions_of_v2_are_none_of_v01s(tmp_path):
    rows = [
        {"uid": "1", "category": "arena-hard-v0.1", "cluster": "c", "prompt": "?"},
        {"uid": 2, "category": "hard_prompt", "subcategory": "coding", "prompt": "?"},
    ]
    path = file(tmp_path / "question.jsonl", rows)
    assert len(arena_hard.load(str(path), 1)) == 1
    with pytest.raises(
        ValueError, match=r"must hold questions of Arena-Hard v0\.1, got the category 'hard_prompt' at .*, line 2"
    ):
        arena_hard.load(str(path), None)


def test_ids_may_be_whole_numbers_or_texts(tmp_path):
    (item,) = arena_hard.load(str(file(tmp_path / "a.jsonl", [{"question_id": 7, "prompt": "?"}])), None)
    turns = {"category": "math", "turns": ["?", "??"]}
    numbered = mt_bench.load(str(file(tmp_path / "b.jsonl", [{"question_id": n, **turns} for n in (81, "82")])), None)
    assert item["id"] == "7" and [one["id"] for one in numbered] == ["81", "82"]
    task = {"session_id": 5, "conversation_input": [{"role": "user", "content": "?"}], "checklist": []}
    tags = {"primary_tag": "Math", "secondary_tags": []}
    assert wildbench.load(str(file(tmp_path / "c.jsonl", [{**task, **tags}])), None)[0]["id"] == "5"
    for bad in (True, None, 1.5):
        with pytest.raises(ValueError, match="as text or a whole number in each row"):
            arena_hard.load(str(file(tmp_path / "d.jsonl", [{"uid": bad, "prompt": "?"}])), None)


@pytest.mark.skipif("BNF_TEST_DATA" not in os.environ, reason="BNF_TEST_DATA names no folder of upstream data")
def test_upstreams_v2_questions_and_answers():
    data = Path(os.environ["BNF_TEST_DATA"]) / "arena_hard_v2.0"
    with pytest.raises(ValueError, match="must hold questions of Arena-Hard v0"):
        arena_hard.load(str(data / "question.jsonl"), None)
    answers = read_answers(data / "model_answer" / f"{HARD}.jsonl.gz")
    assert answers.model == HARD and len(answers.turns) == 750
