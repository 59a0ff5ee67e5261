"""generate: nothing missing and nothing double after any kill, and honest failures."""

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from evaluation.generation.generate import generate
from evaluation.types import Generation, Items, Sampling
from tests.unit.evaluation.fake_engine import FakeEngine, no_progress

ITEMS = [{"id": f"q{number}", "question": f"{number} + 1"} for number in range(7)]
ROOT = Path(__file__).parents[3]


def _messages(item):
    return [{"role": "user", "content": item["question"]}]


def _echo(messages):
    return f"<{messages[-1]['content']}>"


def _run(engine, output_dir, items=ITEMS):
    generate(engine, None, items, _messages, Sampling(16), output_dir, no_progress)
    return [json.loads(line) for line in (output_dir / "completions.jsonl").read_text().splitlines()]


def test_one_record_per_item_with_its_text_and_counts(tmp_path):
    records = _run(FakeEngine(_echo), tmp_path)
    assert [record["id"] for record in records] == [item["id"] for item in ITEMS]
    assert records[3] == {
        "id": "q3",
        "prompt": "user: 3 + 1",
        "completion": "<3 + 1>",
        "finish_reason": "stop",
        "num_prompt_tokens": 1,
        "num_completion_tokens": 1,
    }
    assert [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()] == ITEMS


@pytest.mark.parametrize("cut", [0, 1, 30, 5000])
def test_resume_after_kill_9_has_no_gap_and_no_double(tmp_path, cut):
    script = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from tests.unit.evaluation.test_generate import FakeEngine, _echo, _run
        from pathlib import Path
        _run(FakeEngine(_echo, kill_after=4), Path({str(tmp_path)!r}))
    """
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True)
    assert died.returncode == -9, died.stderr.decode()
    path = tmp_path / "completions.jsonl"
    data = path.read_bytes()
    assert data.count(b"\n") == 4, "what was finished is on disk"
    path.write_bytes(data[: max(len(data) - cut, 0)])  # a last line that the kill left unfinished, or nothing at all
    whole = path.read_bytes().count(b"\n")
    engine = FakeEngine(_echo)
    records = _run(engine, tmp_path)
    assert sorted(record["id"] for record in records) == [item["id"] for item in ITEMS]
    assert len(engine.asked) == len(ITEMS) - whole, "what was finished is not generated again"


def test_finished_output_is_left_alone(tmp_path):
    _run(FakeEngine(_echo), tmp_path)
    before = (tmp_path / "completions.jsonl").read_bytes()
    engine = FakeEngine(_echo)
    _run(engine, tmp_path)
    assert engine.asked == [] and (tmp_path / "completions.jsonl").read_bytes() == before


def test_items_that_fail_are_named_and_tried_again(tmp_path):
    def flaky(messages):
        return Generation("", [], "error: timeout", 0, 0) if messages[-1]["content"] == "2 + 1" else _echo(messages)

    with pytest.raises(RuntimeError, match=r"1 of 7 items failed.*q2: error: timeout"):
        _run(FakeEngine(flaky), tmp_path)
    engine = FakeEngine(_echo)
    assert len(_run(engine, tmp_path)) == 7 and len(engine.asked) == 1


def test_a_folder_with_other_items_completions_is_refused(tmp_path):
    _run(FakeEngine(_echo), tmp_path)
    with pytest.raises(ValueError, match="these items alone, got 'q6' too"):
        _run(FakeEngine(_echo), tmp_path, ITEMS[:6])


def test_repeated_ids_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unique ids, got 1 repeated"):
        _run(FakeEngine(_echo), tmp_path, [*ITEMS, ITEMS[0]])


def test_a_corrupt_line_that_is_not_the_last_is_an_error_that_names_it(tmp_path):
    _run(FakeEngine(_echo), tmp_path)
    path = tmp_path / "completions.jsonl"
    path.write_text("{nonsense\n" + path.read_text())
    with pytest.raises(ValueError, match=r"completions.jsonl must hold .* on line 1"):
        _run(FakeEngine(_echo), tmp_path)


def test_progress_says_the_speed_and_the_time_left(tmp_path):
    notes = []
    generate(
        FakeEngine(_echo), None, ITEMS, _messages, Sampling(16), tmp_path, lambda done, total, note: notes.append((done, note))
    )
    assert notes[0] == (0, "") and [done for done, _ in notes[1:]] == list(range(1, 8))
    assert all(re.fullmatch(r"\d+ tokens/s, .+ left", note) for _, note in notes[1:])
    assert notes[-1][1].endswith(", 0.0 s left")


def test_what_a_benchmark_left_out_is_written_down(tmp_path):
    items = Items()
    items.extend(ITEMS)
    items.left_out["another level"] += 2
    _run(FakeEngine(_echo), tmp_path, items)
    assert json.loads((tmp_path / "left_out.json").read_text()) == {"another level": 2}


def test_half_a_surrogate_pair_in_a_reply_is_kept(tmp_path):
    assert _run(FakeEngine(lambda messages: "\ud83d"), tmp_path)[0]["completion"] == "\ud83d"
