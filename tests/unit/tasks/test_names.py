"""The names of tasks: ids and labels are made from fields, as records and Prefect have them, and an id is read back as these fields."""

import pytest

from tasks.names import TaskName

NAMES = {
    "train": TaskName("train"),
    "train/round2": TaskName("train", round=2),
    "resolve/base": TaskName("resolve", role="base"),
    "resolve/labeler": TaskName("resolve", role="labeler"),
    "prepare/offline": TaskName("prepare", role="offline"),
    "generate/aligned/gsm8k": TaskName("generate", role="aligned", benchmark="gsm8k"),
    "checkpoint/aligned-save2": TaskName("checkpoint", role="aligned", checkpoint="save2"),
    "score/aligned-step8/gsm8k": TaskName("score", role="aligned", checkpoint="step8", benchmark="gsm8k"),
    "lm_eval/base/group/task-a": TaskName("lm_eval", role="base", benchmark="group/task-a"),
    "contamination/gsm8k": TaskName("contamination", benchmark="gsm8k"),
    "judge/arena_hard": TaskName("judge", role="judge", benchmark="arena_hard"),
    "judge/second/arena_hard": TaskName("judge", role="second", benchmark="arena_hard"),
    "judge/checklist_pairwise/wildbench": TaskName("judge", role="judge", variant="checklist_pairwise", benchmark="wildbench"),
    "judge/second-checklist_pairwise/wildbench": TaskName(
        "judge", role="second", variant="checklist_pairwise", benchmark="wildbench"
    ),
}


@pytest.mark.parametrize("text", NAMES)
def test_an_id_is_made_from_the_fields_and_read_back_as_them(text):
    name = NAMES[text]
    assert name.id == text and TaskName.from_id(text) == name
    assert name.label == text.replace("/", "-")


def test_json_has_the_stage_the_benchmark_and_what_is_between_them():
    name = NAMES["judge/second-checklist_pairwise/wildbench"]
    assert name.as_json() == {"stage": "judge", "model": "second-checklist_pairwise", "benchmark": "wildbench"}
    assert NAMES["train/round2"].as_json() == {"stage": "train", "model": "round2", "benchmark": None}
