"""Prompts that are too long for the model are counted where everybody sees it."""

import pytest

from bnf.plugins import load
from evaluation.records import write_whole
from tasks.stages import STAGES

TOO_LONG = {"id": "a", "finish_reason": "prompt_too_long"}
WHOLE = {"id": "b", "finish_reason": "stop", "completion": '"finish_reason": "prompt_too_long"'}


@pytest.mark.parametrize(
    ("stage", "file", "key"),
    [
        ("generate", "completions.jsonl", "evaluation.max_model_len"),
        ("sample", "samples.jsonl", "sample.max_model_len"),
        ("judge", "games.jsonl", "judge.max_model_len"),
    ],
)
def test_prompts_without_room_for_a_token_are_counted(stage, file, key, tmp_path):
    outcome = load(STAGES, stage).outcome
    write_whole(tmp_path / file, [WHOLE, WHOLE])
    assert outcome(tmp_path) is None
    # A prompt's samples stand in one line.
    write_whole(tmp_path / file, [WHOLE, TOO_LONG if stage != "sample" else {"id": "a", "completions": [TOO_LONG, TOO_LONG]}])
    said = outcome(tmp_path)
    assert said.startswith("1 of 2 ") and key in said and said.endswith(f"prompt_too_long in {tmp_path / file}")
