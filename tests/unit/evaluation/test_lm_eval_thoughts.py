"""lm-eval's tasks and thoughts: a task's own stop text ends no thought, nor a completion that has said nothing yet."""

from pathlib import Path

import pytest
from lm_eval.api.instance import Instance

from evaluation.harness.model import EngineModel
from evaluation.types import Generation
from tests.unit.evaluation.fake_engine import no_progress

MODEL = Path(__file__).parents[3] / "models" / "SmolLM2-135M-Instruct"

pytestmark = pytest.mark.skipif(not MODEL.exists(), reason="the demonstration model is not there; run `make env`")


class Stops:
    """An engine that writes a text for each prompt, and ends it at a stop text, as engines do."""

    takes, supports_choices, version, max_model_len = "ids", True, "stops 1", 4096

    def __init__(self, tokenizer, says):
        self.tokenizer, self.says, self.asked = tokenizer, says, []

    def generate(self, prompts, sampling, received=None):
        self.asked.append(([self.tokenizer.decode(prompt) for prompt in prompts], sampling.stop))
        for index, prompt in enumerate(prompts):
            text = self.says[self.tokenizer.decode(prompt)]
            places = [text.find(stop) for stop in sampling.stop or () if stop in text]
            yield index, [Generation(text[: min(places)] if places else text, [], "stop", len(prompt), 9)]


def answers(says, progress=no_progress):
    from bnf.data.rendering import load_tokenizer

    tokenizer = load_tokenizer(MODEL, "2026-01-01")
    engine = Stops(tokenizer, says)
    model = EngineModel(engine, tokenizer, progress)
    asked = [
        Instance("generate_until", {}, (prompt, {"until": ["\n"], "max_gen_toks": 50}), 0, ("task", number, 1))
        for number, prompt in enumerate(says)
    ]
    return model.generate_until(asked), engine.asked, model.thoughts


def test_a_stop_text_right_after_a_thought_ends_nothing():
    """The reply is `<think>so</think>` at first: its thought is whole, and nothing is said."""
    texts, asked, thoughts = answers({"a": "<think>so</think>\n\n4\nmore", "b": "5\nmore"})
    assert texts == ["4", "5"]
    assert asked == [(["a", "b"], ["\n"]), (["a"], None)]
    assert [(one["doc_id"], one["completion"]) for one in thoughts] == [(0, "<think>so</think>\n\n4\nmore")]


def test_a_stop_text_in_a_thought_ends_nothing():
    texts, asked, _ = answers({"a": "<think>one\ntwo</think>4", "b<think>": "one\ntwo</think>\n5\nmore"})
    assert texts == ["4", "5"] and asked[1] == (["a", "b<think>"], None)


def test_what_said_nothing_without_a_thought_is_not_asked_again():
    texts, asked, thoughts = answers({"a": "\n4"})
    assert texts == [""] and [prompts for prompts, _ in asked if prompts] == [["a"]] and thoughts == []


def test_its_progress_names_what_is_counted(monkeypatch):
    """The note is the unit of the rate: `0.25 replies/s`."""
    from bnf import progress

    pace, said, now = progress.Pace(), [], [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def told(done, total, note):
        said.append(pace(done, total, note))
        now[0] += 4

    answers({"a": "4", "b": "5", "c": "6"}, told)
    assert said == ["replies", "replies, 0.25 replies/s, 0:00:04 left", "replies"]
