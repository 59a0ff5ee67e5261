"""What the preflight says of thoughts: markers that can't be told, found or put in, and limits that leave no room for an answer."""

import json
import os
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from bnf.data.rendering import load_tokenizer
from flows.dag import thought_checks as module
from flows.dag.graph import build
from flows.dag.preflight import preflight
from flows.dag.thought_checks import thought_checks
from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from tasks.keys import ROOT
from tasks.nodes import Forecast

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct"
SEVERAL = ("[THINK]", "[/THINK]", "<|START_THINKING|>", "<|END_THINKING|>")
JUDGED = {"benchmarks": {"arena_hard": {"source": "sample"}}, "engine": "transformers"}

pytestmark = pytest.mark.skipif(not MODEL.exists(), reason="the demonstration model is not there; run `make env`")


def folder_of(path: Path) -> Path:
    """A model folder that lacks a tokenizer."""
    path.mkdir()
    for name in ("config.json", "model.safetensors"):
        os.link(MODEL / name, path / name)
    return path


@pytest.fixture
def thinker(tmp_path: Path) -> Path:
    """A model whose tokenizer has two pairs of markers."""
    path = folder_of(tmp_path / "thinker")
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(MODEL / name, path / name)
    tokenizer = json.loads((MODEL / "tokenizer.json").read_text())
    more = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    first = 1 + max(tokenizer["model"]["vocab"].values())
    tokenizer["added_tokens"] += [{"id": first + number, "content": text, **more} for number, text in enumerate(SEVERAL)]
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    return path


def forecasts(model=MODEL, **sections) -> list[Forecast]:
    evaluation = {"engine": "transformers", "benchmarks": ["number_comparison"], **sections.pop("evaluation", {})}
    made = make_recipe({"name": "t", "model_name_or_path": str(model), "evaluation": evaluation, **sections})
    return [Forecast(node, None, False, None, []) for node in build(made)]


def problems(model=MODEL, **sections) -> list[str]:
    return [check.problem for check in thought_checks(forecasts(model, **sections)) if check.problem]


def test_markers_that_cannot_be_told_are_refused_before_anything_runs(thinker, tmp_path):
    (problem,) = problems(thinker)
    assert problem.startswith(
        "think_tokens must say between which texts the model thinks, as its tokenizer has [[THINK], [/THINK]]"
    )
    made = make_recipe(
        {
            "name": "t",
            "model_name_or_path": str(thinker),
            "evaluation": {"benchmarks": ["number_comparison"], "engine": "transformers"},
        }
    )
    found = [check.problem for check in preflight(made, [Forecast(n, None, False, None, []) for n in build(made)], tmp_path)]
    assert problem in found
    assert problems(thinker, think_tokens=["[THINK]", "[/THINK]"]) == []
    # A template of the recipe's tells which.
    (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ m.content.split('[/THINK]')[-1] }}{% endfor %}")
    assert problems(thinker, chat_template=str(tmp_path / "t.jinja")) == []
    # An endpoint has no tokenizer here.
    assert problems(thinker, evaluation={"engine": "openai", "model": "m", "benchmarks": ["number_comparison"]}) == []


def test_they_are_refused_as_soon_as_a_model_is_fetched(thinker):
    known = forecasts("some/model")
    assert [*thought_checks(known)] == []
    (check,) = thought_checks(known, {"resolve/base": thinker})
    assert check.problem and check.problem.startswith("think_tokens must say between which texts")
    cached = [Forecast(entry.node, "key", True, None, []) for entry in known]
    assert [*thought_checks(cached, {"resolve/base": thinker})] == [], "nothing will be generated"


def test_a_judge_s_markers_are_its_own(thinker):
    judge = {**JUDGED, "model_name_or_path": str(thinker)}
    recorded = {"arena_hard": {"source": "sample", "baseline": "evaluation/benchmarks/samples/arena_hard.jsonl"}}
    (problem,) = problems(judge={**judge, "benchmarks": recorded})
    assert problem.startswith("judge.think_tokens must say between which texts the model thinks")
    assert problems(judge={**judge, "benchmarks": recorded, "think_tokens": ["[THINK]", "[/THINK]"]}) == []
    ends = problems(judge={**judge, "benchmarks": recorded, "think_tokens": ["<|im_start|>", "<|im_end|>"]})
    assert ends[0].startswith("judge.think_tokens must be texts that decoding keeps, got <|im_")


def test_an_end_that_the_tokenizer_does_not_write_is_refused_with_a_limit(tmp_path):
    words = Tokenizer(WordLevel({"<unk>": 0, "a": 1, "<think>": 2, "</think>": 3}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", chat_template="{{ messages[0].content }}")
    tokenizer.save_pretrained(model := folder_of(tmp_path / "words"))
    given = {"think_tokens": ["[A]", "[/A]"]}
    (problem,) = problems(model, **given, evaluation={"max_thinking_tokens": 9})
    assert problem.startswith(
        "think_tokens must end with a text that the model's tokenizer writes, got '[/A]', of which it makes ''"
    )
    assert problems(model, **given) == [], "without a limit nothing is put in"


def test_a_limit_leaves_room_for_the_end_and_an_answer_in_every_benchmark():
    end = len(load_tokenizer(MODEL, "2026-01-01")("\n</think>", add_special_tokens=False)["input_ids"])
    most = next(entry.node for entry in forecasts() if entry.node.stage == "generate").settings["max_new_tokens"]
    assert problems(evaluation={"max_thinking_tokens": most - end - 1}) == []
    (problem,) = problems(evaluation={"max_thinking_tokens": most - end})
    assert problem == (
        f"evaluation.max_thinking_tokens must be below {most - end} for number_comparison, whose {most} new tokens hold the {end} that end "
        f"a thought too, got {most - end}; lower it"
    )


def test_a_limit_is_held_against_each_benchmark_s_own():
    with pytest.raises(
        RecipeError, match=r"evaluation.max_thinking_tokens must be below the \d+ new tokens of number_comparison, .*leave num"
    ):
        forecasts(evaluation={"max_thinking_tokens": 5000, "benchmarks": ["aime_2024", "number_comparison"]})
    # AIME has room for it.
    assert forecasts(evaluation={"max_thinking_tokens": 5000, "benchmarks": ["aime_2024"]})
    judged = {**JUDGED, "model_name_or_path": str(MODEL), "max_new_tokens": 300}
    judged["benchmarks"] = {"wildbench": {"source": "sample"}}
    with pytest.raises(
        RecipeError, match=r"must be below the 300 new tokens of wildbench, .* got 300; lower it, or raise judge.max_new"
    ):
        forecasts(evaluation={"max_thinking_tokens": 300, "benchmarks": []}, judge=judged)


def test_a_plan_without_thoughts_loads_no_tokenizer(monkeypatch):
    monkeypatch.setattr("bnf.data.rendering.load_tokenizer", lambda *_: pytest.fail("loaded"))
    assert [*thought_checks(forecasts())] == []
    assert not module._names_markers([MODEL / "tokenizer.json"])
