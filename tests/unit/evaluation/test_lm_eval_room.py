"""Requests of lm-eval's tasks that don't fit into the model's context: counted, in summary.json, and said in words."""

import dataclasses
import json

from evaluation.harness.room import Room, what_did_not_fit
from evaluation.report.lm_eval import room_notes, room_of


def test_prompts_are_counted_by_the_room_that_they_leave():
    room = Room(max_length=10)
    for size in (2, 3, 9, 10, 11):
        room.add_prompt(size, max_new_tokens=8)
    # 2 leave 8, 3 leave 7, 9 leave 1; 10 and 11 leave none.
    assert (room.num_requests, room.num_less_room, room.num_too_long) == (5, 2, 2)
    unbounded = Room(max_length=None)
    unbounded.add_prompt(10**6, max_new_tokens=8)
    assert (unbounded.num_requests, unbounded.num_less_room, unbounded.num_too_long) == (1, 0, 0)


def test_what_did_not_fit_is_said_and_what_fits_is_not():
    assert what_did_not_fit(dataclasses.asdict(Room(10, 5))) is None
    assert what_did_not_fit(dataclasses.asdict(Room(10, 5, 2, 1, 0, 0))) == (
        "of 5 requests within a context of 10 tokens 2 prompts leave less room for a completion than the task asks for, and 1 "
        "completions were cut off there"
    )
    assert what_did_not_fit(dataclasses.asdict(Room(10, 5, 0, 0, 3, 4))) == (
        "of 5 requests within a context of 10 tokens 3 prompts leave no room at all, and have an empty answer; 4 contexts of choices or "
        "texts lost their beginning"
    )


def test_the_summary_has_each_models_counts_and_notes_name_task_and_model(tmp_path):
    folders = {}
    for model, room in (("base", Room(10, 5, num_too_long=3)), ("aligned", Room(10, 5))):
        folders[model] = tmp_path / model
        folders[model].mkdir()
        (folders[model] / "results.json").write_text(json.dumps({"room": dataclasses.asdict(room)}))
    found = room_of({"aime24": folders})
    assert found["aime24"]["base"]["num_too_long"] == 3 and found["aime24"]["aligned"]["num_too_long"] == 0
    (note,) = room_notes({"lm_eval_room": found})
    assert note.startswith("lm-eval's aime24, base: of 5 requests") and note.endswith("an empty answer.")


def test_results_of_older_versions_have_no_counts(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    assert room_of({"aime24": {"base": tmp_path}}) == {"aime24": {}} and room_notes({}) == []
