"""The judge stage: what became of the answers stands beside the score, by every judge protocol."""

import json

import pytest

from bnf.plugins import load, names
from evaluation.benchmarks import BENCHMARKS
from evaluation.judging.client import ModelJudge
from evaluation.judging.protocols import PROTOCOLS
from evaluation.report.judged import judge_entry, judge_notes, judge_rows
from tasks.job import Job
from tasks.stages import judge as judge_stage
from tests.unit.evaluation.fake_engine import FakeEngine, no_progress

ITEM = {"category": "math", "conversation": [{"role": "user", "content": "?"}], "prompt": "?", "checklist": ["c"]}
REPLIES = {
    "checklist_score": '{"strengths": "s", "weaknesses": "w", "score": "7"}',
    "checklist_pairwise": '{"choice": "A=B"}',
    "turn_score": "[[7]]",
}
BENCHMARK = {form: name for name in names(BENCHMARKS) for form in reversed(load(BENCHMARKS, name).FORMS)}
THOUGHT = "<think>on and on"


def generated(folder, completions, num_turns):
    """Each completion is (text, finish_reason, what the record says of a thought), the same in every turn."""
    folder.mkdir(parents=True)
    items = [{**ITEM, "id": f"q{n}", **({"turns": ["?", "and?"]} if num_turns > 1 else {})} for n in range(len(completions))]
    records = [
        {"id": f"q{n}-{turn}", "question_id": f"q{n}", "turn": turn, "completion": text, "finish_reason": reason, **thought}
        for n, (text, reason, thought) in enumerate(completions)
        for turn in range(1, num_turns + 1)
    ]
    for name, rows in (("items", items), ("completions", records)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def judged(tmp_path, monkeypatch, form, completions, baseline, **change):
    benchmark = BENCHMARK[form]
    protocol, num_turns = load(PROTOCOLS, form), load(BENCHMARKS, benchmark).NUM_TURNS
    judge = ModelJudge(FakeEngine(lambda _: REPLIES.get(form, "[[A=B]]")), None, {"model": "j"}, "text")
    monkeypatch.setattr(judge_stage, "open_judge", lambda *_: judge)
    settings = {
        "benchmark": benchmark, "form": form, "judge_name": "j", "source": "file", "limit": None, "orders": "both",
        "models": ["aligned"] if protocol.COMPARES else ["base", "aligned"], "demonstration": False, "max_new_tokens": None,
        "verdict": "text", "max_judgment_tokens": 4096, **change,
    }  # fmt: skip
    inputs = {
        "answers_base": generated(tmp_path / "base", baseline, num_turns),
        "answers_aligned": generated(tmp_path / "aligned", completions, num_turns),
    }
    output = tmp_path / "state" / "artifacts" / "judge" / "key"
    judge_stage.run(Job(settings, inputs, output, no_progress))
    return judge_entry(output)


WHOLE = ("text", "stop", {})


@pytest.mark.parametrize("form", names(PROTOCOLS))
def test_cut_and_empty_answers_are_counted_beside_the_score_by_every_protocol(tmp_path, monkeypatch, form):
    """Of four answers one is cut in its words, one in mid-thought, which leaves it empty, and one is blanks."""
    completions = [WHOLE, ("half a te", "length", {}), (THOUGHT, "length", {"answer_start": None}), (" \n", "stop", {})]
    entry = judged(tmp_path, monkeypatch, form, completions, [WHOLE, WHOLE, WHOLE, ("", "prompt_too_long", {})])
    turns = load(BENCHMARKS, BENCHMARK[form]).NUM_TURNS
    result = entry["models"]["aligned"]
    assert result["answers"] == {"n": 4 * turns, "n_cut": 2 * turns, "n_empty": 2 * turns}
    compares = load(PROTOCOLS, form).COMPARES
    theirs = entry["baseline_answers"] if compares else entry["models"]["base"]["answers"]
    assert theirs == {"n": 4 * turns, "n_cut": 0, "n_empty": turns}
    row, note = judge_rows("b", entry)[-1], judge_notes("b", entry)[0 if compares else 1]
    assert row["answers"] == f"{4 * turns}, {2 * turns} cut and {2 * turns} empty"
    assert f", of {4 * turns} answers {2 * turns} cut and {2 * turns} empty" in note
    assert (", of base's 0 cut and 1 empty" in note) == compares


def test_a_recorded_baseline_has_no_cut_answers_that_anybody_knows_of_and_an_older_result_says_nothing(tmp_path, monkeypatch):
    recorded = tmp_path / "answers.jsonl"
    rows = [{"uid": "q0", "model": "base", "messages": [{"role": "assistant", "content": {"answer": ""}}]}]
    recorded.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = judge_stage.run
    monkeypatch.setattr(
        judge_stage, "run", lambda job: run(Job(job.settings, {**job.inputs, "baseline": recorded}, job.output, job.progress))
    )
    entry = judged(tmp_path, monkeypatch, "pairwise", [WHOLE], [("cu", "length", {})])
    assert entry["baseline_answers"] == {"n": 1, "n_cut": None, "n_empty": 1}, "not those of the base model"
    assert ", of 1 answers 0 cut and 0 empty, of base's 1 empty" in judge_notes("b", entry)[0]
    del entry["baseline_answers"], entry["models"]["aligned"]["answers"]
    assert "answers" not in judge_rows("b", entry)[0] and "answers" not in judge_notes("b", entry)[0]


@pytest.mark.parametrize(
    ("thought", "asked", "said"),
    [
        ({"answer_start": None}, None, "answers of at most 8196 instead of the 32000 tokens of a model that thinks"),
        ({"answer_start": 3}, 20_000, "answers of at most 20000 instead of the 32000 tokens of a model that thinks"),
        ({"answer_start": 3}, 32_000, None),
        ({"answer_start": 0}, None, None),
        ({}, None, None),
        ({}, 32_000, None),
        ({}, 512, "answers of at most 512 instead of 8196 tokens"),
    ],
)
def test_a_model_that_thinks_is_held_to_upstreams_limit_of_such_models(tmp_path, monkeypatch, thought, asked, said):
    completions = [("hm </think> text", "stop", thought)]
    entry = judged(tmp_path, monkeypatch, "pairwise_hard_prompt", completions, [WHOLE], max_new_tokens=asked)
    assert [text for text in entry["deviations"] if text.startswith("answers of")] == ([said] if said else [])
