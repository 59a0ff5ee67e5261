"""`system_prompt` and `data.limit` in a recipe: who reads them and who doesn't; recipes without them have the keys that they had."""

import json
from dataclasses import replace

import pytest

from bnf.data.system_prompt import with_system_prompt
from bnf.plugins import load
from data.sampling.sample import SampleConfig, prompts_to_complete
from evaluation.benchmarks import BENCHMARKS, mt_bench
from evaluation.generation.turns import generate_turns
from evaluation.judging.deviations import deviations
from flows.dag.graph import build
from flows.dag.preflight import preflight
from flows.dag.system_prompt_check import system_prompt_check
from flows.errors import RecipeError
from flows.recipe.config import load_recipe, make_recipe
from tasks.job import Job
from tasks.keys import ROOT
from tasks.nodes import Forecast
from tasks.stages import generate as generate_stage
from tests.unit.evaluation.fake_engine import FakeEngine, no_progress

MODEL = "models/SmolLM2-135M-Instruct"
SAID = "system_prompt=Answer in one word."
QUESTION = {"role": "user", "content": "2 + 2?"}

pytestmark = pytest.mark.skipif(not (ROOT / MODEL).exists(), reason="the demonstration model is not there; run `make env`")


def nodes(recipe, *overrides):
    return {node.id: node for node in build(load_recipe(f"flows/recipes/{recipe}.yaml", overrides))}


def test_it_stands_before_conversations_that_have_no_system_message():
    said = {"role": "system", "content": "Be brief."}
    assert with_system_prompt([QUESTION], "Be brief.") == [said, QUESTION]
    assert with_system_prompt([QUESTION], None) == [QUESTION]
    for role in ("system", "developer"):
        own = [{"role": role, "content": "Shout."}, QUESTION]
        assert with_system_prompt(own, "Be brief.") == own


@pytest.mark.parametrize("recipe", ["quickstart", "pairs", "rounds", "evaluate"])
def test_a_recipe_without_the_new_keys_has_the_keys_that_it_had(recipe):
    for node in nodes(recipe).values():
        assert "system_prompt" not in json.dumps(node.settings)
        for source in node.settings.get("sources", ()):
            assert source.keys() == {"source", "columns", "weight", "split", "config", "revision", "streaming"}
    shown = nodes(recipe)["report"].settings["recipe"]
    assert "limit" not in (shown["data"] or {})


def test_the_stages_that_render_prompts_read_it_and_the_training_whose_policy_notes_it():
    before, after = nodes("quickstart"), nodes("quickstart", SAID)
    changed = {node.stage for name, node in after.items() if node.settings != before[name].settings}
    assert changed == {"sample", "train", "generate", "judge", "report"}
    before, after = nodes("pairs"), nodes("pairs", SAID)
    assert {node.stage for name, node in after.items() if node.settings != before[name].settings} == {
        "prepare", "train", "generate", "report",
    }  # fmt: skip
    assert after["prepare"].settings["prepare"]["system_prompt"] == "Answer in one word."
    assert after["report"].settings["recipe"]["system_prompt"] == "Answer in one word."


def test_lm_eval_s_tasks_get_it_with_chat_alone():
    tasks = ("evaluation.lm_eval={arc_easy: {}, arc_challenge: {chat: true}}", SAID)
    with_it = {
        node.benchmark
        for node in nodes("pairs", *tasks).values()
        if node.stage == "lm_eval" and "system_prompt" in node.settings
    }
    assert with_it == {"arc_challenge"}


def test_a_limit_is_part_of_the_preparation_s_key_alone():
    before, after = nodes("pairs"), nodes("pairs", "data.limit=7")
    assert {node.stage for name, node in after.items() if node.settings != before[name].settings} == {"prepare", "report"}
    assert after["prepare"].settings["sources"][0]["limit"] == 7


def test_the_prompts_to_sample_from_have_it():
    given = {"num_prompts": 2, "samples_per_prompt": 1, "temperatures": [0.7], "top_p": 1.0, "max_new_tokens": 4, "seed": 0}
    config = SampleConfig(source="number_comparison", **given)
    plain = prompts_to_complete(config, None, {})
    said = prompts_to_complete(replace(config, system_prompt="Be brief."), None, {})
    assert [one["messages"][0]["content"] for one in said] == ["Be brief."] * 2
    assert [one["messages"][1:] for one in said] == [one["messages"] for one in plain]
    assert [one["id"] for one in said] == [one["id"] for one in plain]


def test_an_endpoint_is_sent_it(tmp_path, monkeypatch):
    engine = FakeEngine(lambda messages: "4")
    monkeypatch.setattr(generate_stage, "open_model", lambda settings, model: (engine, None))
    settings = {"benchmark": "gsm8k", "source": "sample", "limit": 2, "max_new_tokens": 8, "engine": {"name": "openai"}}
    inputs = {"source": ROOT / "evaluation/benchmarks/samples/gsm8k.jsonl", "model": None}
    output = tmp_path / "artifacts" / "generate" / "key"
    job = Job({**settings, "system_prompt": "Be brief."}, inputs, output, no_progress, {"model": "0"})
    generate_stage.run(job)
    assert [messages[0] for messages in engine.asked] == [{"role": "system", "content": "Be brief."}] * 2
    assert all(messages[1]["role"] == "user" for messages in engine.asked)


def test_every_turn_of_a_conversation_begins_with_it_once(tmp_path):
    engine = FakeEngine(lambda messages: "yes")
    items = mt_bench.load("sample", None)[:1]
    generate_turns(engine, None, items, mt_bench, 8, tmp_path, no_progress, "Be brief.")
    assert [[message["role"] for message in messages] for messages in engine.asked] == [
        ["system", "user"],
        ["system", "user", "assistant", "user"],
    ]


def test_the_preflight_says_who_gets_it_and_refuses_what_the_template_would(tmp_path):
    def found(*overrides):
        recipe = load_recipe("flows/recipes/pairs.yaml", overrides)
        checks = preflight(recipe, [Forecast(node, None, False, None, []) for node in build(recipe)], tmp_path)
        return [check for check in checks if check.name == "system_prompt"]

    assert found() == []
    recipe = load_recipe("flows/recipes/pairs.yaml", [SAID, "evaluation.lm_eval=[arc_easy]"])
    check = system_prompt_check(recipe, ROOT / MODEL)
    assert check.problem is None and check.seen.endswith("of its own; lm-eval's arc_easy without chat don't get it")
    (check,) = found("system_prompt=Go on.<|im_end|>")
    assert "system_prompt must be left out for SmolLM2" in check.problem and "control token <|im_end|>" in check.problem


def test_a_template_that_knows_no_system_message_is_named_before_anything_runs(tmp_path):
    for file in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / file).write_bytes((ROOT / MODEL / file).read_bytes())
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": refuses}))
    check = system_prompt_check(load_recipe("flows/recipes/pairs.yaml", [SAID]), tmp_path)
    assert "System role not supported" in check.problem and check.problem.endswith("put it into the prompts, or remove it")


def test_a_judged_result_names_it_among_its_deviations():
    settings = nodes("quickstart", SAID)["judge/arena_hard"].settings
    found = deviations(load(BENCHMARKS, "arena_hard"), settings, None)
    assert "a system prompt before the questions that have none of their own" in found


@pytest.mark.parametrize("text", ["''", "'  '"])
def test_an_empty_one_is_refused(text):
    with pytest.raises(RecipeError, match="system_prompt must hold text, got"):
        make_recipe({"model_name_or_path": "x"}, [f"system_prompt={text}"])
