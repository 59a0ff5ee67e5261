"""What a plan says of partial work, by folders as stages leave them when they are killed."""

import json

import pytest

from tasks.partial import partial_work


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"id": number}) + "\n" for number in range(lines)))


def test_completions_are_counted_by_whole_lines(tmp_path):
    write(tmp_path / "completions.jsonl", 412)
    write(tmp_path / "items.jsonl", 1319)
    with (tmp_path / "completions.jsonl").open("a") as file:
        file.write('{"id": "cut by a k')
    assert partial_work("generate", tmp_path) == "412 of 1319 completions are there"


def test_of_a_conversation_the_turns_so_far_count(tmp_path):
    for part, number in (("1-0.0", 4), ("2-0.0", 3)):
        write(tmp_path / "parts" / part / "completions.jsonl", number)
        write(tmp_path / "parts" / part / "items.jsonl", 4)
    assert partial_work("generate", tmp_path) == "7 completions are there"


def test_samples_shards_and_checkpoints(tmp_path):
    write(tmp_path / "sample" / "chunks" / "00000.jsonl", 32)
    write(tmp_path / "sample" / "chunks" / "00002.jsonl", 32)
    assert partial_work("sample", tmp_path / "sample") == "the samples of 64 prompts are there"
    for name in ("reference-00000.safetensors", "dev/reference-00000.safetensors"):
        (tmp_path / "reference" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "reference" / name).touch()
    assert partial_work("reference", tmp_path / "reference") == "2 shards are there"
    for step in (40, 8):
        folder = tmp_path / "train" / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text(json.dumps({"max_steps": 120}))
    assert partial_work("train", tmp_path / "train") == "a checkpoint after 40 of 120 steps is there"


def test_replies_to_lm_eval_are_counted(tmp_path):
    write(tmp_path / "replies.jsonl", 7)
    assert partial_work("lm_eval", tmp_path) == "7 replies to lm-eval are there"


@pytest.mark.parametrize("stage", ["generate", "sample", "reference", "train", "score", "judge", "lm_eval"])
def test_nothing_is_said_of_nothing(tmp_path, stage):
    assert partial_work(stage, tmp_path) is None and partial_work(stage, tmp_path / "not there") is None


def test_a_checkpoint_that_goes_while_it_is_looked_at_is_none(tmp_path):
    (tmp_path / "checkpoints" / "checkpoint-8").mkdir(parents=True)
    assert partial_work("train", tmp_path) is None


def test_what_is_there_is_counted_against_what_is_wanted(tmp_path):
    write(tmp_path / "generate" / "items.jsonl", 12)
    (tmp_path / "generate" / "completions.jsonl").write_text('{"id": "a", "sample": 0}\n{"id": "a", "sample": 1}\n')
    assert partial_work("generate", tmp_path / "generate", 4) == "2 of 48 completions are there"
    assert partial_work("generate", tmp_path / "generate") == "2 completions are there"
    write(tmp_path / "sample" / "chunks" / "00000.jsonl", 32)
    assert partial_work("sample", tmp_path / "sample", 144) == "the samples of 32 of 144 prompts are there"
