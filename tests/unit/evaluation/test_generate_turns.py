"""Conversations of several turns: the model's own answers are in the next prompt; resume leaves no gap and no double."""

import json

import pytest

from evaluation.benchmarks import mt_bench
from evaluation.generation.turns import generate_turns
from evaluation.judging.answers import completions_by_question
from tests.unit.evaluation.fake_engine import FakeEngine, no_progress

ITEMS = mt_bench.load("sample", None)


class Recording(FakeEngine):
    def __init__(self, **options):
        super().__init__(lambda messages: f"re: {messages[-1]['content'][:9]}", **options)
        self.temperatures = {}

    def generate(self, prompts, sampling):
        for index, found in super().generate(prompts, sampling):
            self.temperatures[prompts[index][-1]["content"]] = sampling.temperature
            yield index, found


def generate(engine, folder, progress=no_progress):
    generate_turns(engine, None, ITEMS, mt_bench, 64, folder, progress)
    return [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]


def test_the_second_turn_follows_the_models_own_first_answer(tmp_path):
    engine, seen = Recording(), []
    records = generate(engine, tmp_path, lambda done, total, note: seen.append((done, total)))
    assert [record["id"] for record in records] == [f"{n}-{turn}" for turn in (1, 2) for n in (1, 2, 3, 4)]
    assert len({record["id"] for record in records}) == 8 and seen[-1] == (8, 8) and seen == sorted(seen)
    second = next(messages for messages in engine.asked if len(messages) == 3 and "train" in messages[0]["content"])
    assert [message["role"] for message in second] == ["user", "assistant", "user"]
    assert second[1]["content"] == "re: A train l"
    assert completions_by_question(records)["2"] == ["re: A train l", "re: It is 20 "]
    assert {item["id"] for item in map(json.loads, (tmp_path / "items.jsonl").read_text().splitlines())} == {"1", "2", "3", "4"}


def test_each_category_has_its_temperature(tmp_path):
    engine = Recording()
    generate(engine, tmp_path)
    by_category = {item["category"]: {engine.temperatures[turn] for turn in item["turns"]} for item in ITEMS}
    assert by_category == {"writing": {0.7}, "math": {0.0}, "humanities": {0.1}, "extraction": {0.0}}


@pytest.mark.parametrize("after", [1, 3, 5, 7])
def test_a_resume_generates_what_is_missing_alone(tmp_path, after):
    whole = generate(Recording(), tmp_path / "whole")

    class Failing(Recording):
        def generate(self, prompts, sampling):
            for index, found in super().generate(prompts, sampling):
                if len(self.asked) > after:
                    raise ConnectionError("gone")
                yield index, found

    with pytest.raises(ConnectionError):
        generate(Failing(), tmp_path / "resumed")
    engine = Recording()
    assert generate(engine, tmp_path / "resumed") == whole and len(engine.asked) == 8 - after
    assert not (tmp_path / "resumed" / "parts").exists()


def test_what_is_complete_is_not_generated_again_and_what_a_power_cut_left_is(tmp_path):
    """A kill, or a full disk, may come between the last file and the artifact's manifest; an endpoint would be paid twice."""
    whole, engine = generate(Recording(), tmp_path), Recording()
    assert generate(engine, tmp_path) == whole and not engine.asked
    (tmp_path / "items.jsonl").write_bytes(b"")
    assert generate(engine, tmp_path) == whole and len(engine.asked) == 8
