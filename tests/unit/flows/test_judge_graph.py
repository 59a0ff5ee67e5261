"""Judges in the DAG: which node judges what, what is part of its key, what the preflight says of endpoints."""

import re

import pytest

from evaluation.judging.open_judge import open_judge
from flows.dag.graph import build
from flows.dag.preflight import preflight
from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from flows.service.keys import service_keys
from tasks.keys import ROOT
from tasks.nodes import Forecast
from tests.stub_server import StubServer
from tests.unit.evaluation.fake_engine import FakeEngine

MODEL = "models/SmolLM2-135M-Instruct"
ENDPOINT = {"engine": "openai", "model": "stub-judge", "base_url": "http://127.0.0.1:9/v1"}
SAMPLED = {"source": "number_comparison", "num_prompts": 4}

pytestmark = pytest.mark.skipif(not (ROOT / MODEL).exists(), reason="the demonstration model is not there; run `make env`")


def recipe(judge=None, **sections):
    judged = {} if judge is None else {"judge": {**ENDPOINT, **judge}}
    return make_recipe({"name": "j", "model_name_or_path": MODEL, **judged, **sections})


def trained(judge, **sections):
    return recipe(judge, sample=SAMPLED, label={"labeler": "verifier"}, train={}, **sections)


def judges(made):
    return {node.id: node for node in build(made) if node.stage == "judge"}


def test_without_a_baseline_the_aligned_model_is_judged_against_the_base():
    (node,) = judges(trained({"benchmarks": {"arena_hard": {"source": "sample"}}})).values()
    assert node.id == "judge/arena_hard" and node.settings["models"] == ["aligned"] and node.settings["form"] == "pairwise"
    assert node.inputs == {f"answers_{model}": f"generate/{model}/arena_hard" for model in ("base", "aligned")}


def test_with_recorded_answers_every_model_is_judged_against_them(tmp_path):
    answers = tmp_path / "answers.jsonl"
    answers.write_text("{}")
    benchmarks = {"arena_hard": {"source": "sample", "baseline": str(answers)}}
    (node,) = judges(trained({"benchmarks": benchmarks})).values()
    assert node.settings["models"] == ["base", "aligned"] and node.files == {"baseline": answers}
    (alone,) = judges(recipe({"benchmarks": benchmarks})).values()
    assert alone.settings["models"] == ["base"] and alone.inputs == {"answers_base": "generate/base/arena_hard"}


def test_a_model_alone_needs_recorded_answers_or_a_scale():
    with pytest.raises(RecipeError, match=r"judge.benchmarks.arena_hard.baseline must be a file of recorded answers"):
        build(recipe({"benchmarks": {"arena_hard": {"source": "sample"}}}))
    nodes = judges(recipe({"benchmarks": {"wildbench": {"source": "sample"}, "mt_bench": {"source": "sample"}}}))
    assert {name: node.settings["form"] for name, node in nodes.items()} == {
        "judge/wildbench": "checklist_score",
        "judge/mt_bench": "turn_score",
    }


def test_forms_and_a_second_judge_are_nodes_of_their_own_and_each_judge_has_a_process():
    benchmarks = {"wildbench": {"source": "sample", "forms": ["checklist_score", "checklist-pairwise"]}}
    nodes = judges(trained({"benchmarks": benchmarks, "second": {"model_name_or_path": MODEL, "engine": "vllm"}}))
    assert {name: node.session for name, node in nodes.items()} == {
        "judge/wildbench": "judge/judge",
        "judge/checklist_pairwise/wildbench": "judge/judge",
        "judge/second/wildbench": "judge/second",
        "judge/second-checklist_pairwise/wildbench": "judge/second",
    }
    assert nodes["judge/second/wildbench"].inputs["judge"] == "resolve/base", "the same folder is resolved once"
    with pytest.raises(RecipeError, match=r"judge.benchmarks.wildbench.forms must be among .*, got pairwise"):
        build(trained({"benchmarks": {"wildbench": {"source": "sample", "forms": ["pairwise"]}}}))
    with pytest.raises(RecipeError, match=r"judge.benchmarks must be judged ones, got gsm8k"):
        build(trained({"benchmarks": {"gsm8k": {"source": "sample"}}}))


@pytest.mark.parametrize(
    ("change", "keyed"),
    [
        ({"max_concurrency": 2}, False),
        ({"timeout_s": 5.0}, False),
        ({"api_key_variable": "OTHER"}, False),
        ({"model": "other"}, True),
        ({"verdict": "structured"}, True),
        ({"orders": "one"}, True),
        ({"base_url": "http://127.0.0.1:10/v1"}, True),
        ({"think_tokens": ["[THINK]", "[/THINK]"]}, True),
    ],
)
def test_what_decides_a_verdict_is_part_of_the_key_and_the_rest_is_not(change, keyed):
    benchmarks = {"arena_hard": {"source": "sample"}}
    before, after = (judges(trained({"benchmarks": benchmarks, **more}))["judge/arena_hard"] for more in ({}, change))
    assert (before.settings != after.settings) is keyed


def test_every_judge_may_have_markers_of_its_own_and_a_reward_model_none(monkeypatch):
    own, other, third = ["[A]", "[/A]"], ["[B]", "[/B]"], ["[C]", "[/C]"]
    made = recipe(
        {
            "benchmarks": {"arena_hard": {"source": "sample"}},
            "think_tokens": own,
            "second": {**ENDPOINT, "think_tokens": other},
        },
        sample=SAMPLED,
        label={"labeler": "judge", "judge": {**ENDPOINT, "think_tokens": third}},
        train={},
        think_tokens=["[D]", "[/D]"],
    )
    found = {node.id: node.settings["think_tokens"] for node in build(made) if node.stage in ("judge", "label")}
    assert found == {"judge/arena_hard": own, "judge/second/arena_hard": other, "label": third}
    opened = {}
    monkeypatch.setattr("evaluation.judging.open_judge._connected", lambda settings: (FakeEngine(), None))
    for node in build(made):
        if node.stage in ("judge", "label"):
            opened[node.id] = open_judge({**node.settings, **node.unkeyed}, None, None).markers
    assert {id: list(markers) for id, markers in opened.items()} == found
    with pytest.raises(
        RecipeError, match=r"label.judge.think_tokens must be left out with engine reward_model, .*got \['\[A\]'"
    ):
        rewarded = {"engine": "reward_model", "model_name_or_path": MODEL, "think_tokens": own}
        recipe(sample=SAMPLED, label={"labeler": "reward_model", "judge": rewarded}, train={})
    with pytest.raises(RecipeError, match=r"judge\.think_tokens must hold two texts, .* got 1: .*; write e\.g\."):
        recipe({"think_tokens": ["[A]"]})


def test_money_is_no_part_of_a_key_and_reaches_the_stage():
    spending = {"max_usd": 2.0, "prices": {"stub-judge": {"input": 1, "output": 2}}}
    node = judges(trained({"benchmarks": {"arena_hard": {"source": "sample"}}}, spending=spending))["judge/arena_hard"]
    assert "spending" not in node.settings and node.unkeyed["spending"]["max_usd"] == 2.0


def test_a_conversation_of_two_turns_is_generated_with_its_temperatures():
    node = next(n for n in build(recipe({"benchmarks": {"mt_bench": {"source": "sample"}}})) if n.stage == "generate")
    assert "evaluation.benchmarks.mt_bench:load,messages,temperature,NUM_TURNS" in node.plugins


def test_labelers_that_judge_name_their_judge():
    made = recipe(sample=SAMPLED, label={"labeler": "judge", "judge": ENDPOINT}, train={})
    node = next(node for node in build(made) if node.stage == "label")
    assert node.settings["engine"]["model"] == "stub-judge" and node.inputs == {"samples": "sample"}
    made = recipe(
        sample=SAMPLED,
        label={"labeler": "reward-model", "judge": {"engine": "reward_model", "model_name_or_path": MODEL}},
        train={},
    )
    assert next(node for node in build(made) if node.stage == "label").inputs["judge"] == "resolve/base"
    for label, message in (
        ({"labeler": "judge"}, r"label.judge must name a judge for the labeler judge"),
        (
            {"labeler": "reward_model", "judge": ENDPOINT},
            r"label.judge.engine must be reward_model for the labeler reward_model, got openai; write label.judge.engine=reward_model, "
            r"or label.labeler=judge",
        ),
        (
            {"labeler": "judge", "judge": {"engine": "reward_model", "model_name_or_path": MODEL}},
            r"label.judge.engine must be one that generates for the labeler judge, got reward_model; write label.labeler=reward_model, or",
        ),
    ):
        with pytest.raises(RecipeError, match=message):
            build(recipe(sample=SAMPLED, label=label, train={}))


def checks(made, tmp_path):
    found = preflight(made, [Forecast(node, None, False, None, []) for node in build(made)], tmp_path)
    return [check for check in found if check.name.startswith("endpoint")]


def test_the_preflight_asks_the_endpoint(tmp_path):
    with StubServer(lambda *_: "") as server:
        benchmarks = {"wildbench": {"source": "sample"}}
        (check,) = checks(recipe({"benchmarks": benchmarks, "base_url": server.url}), tmp_path)
        assert check.problem is None and check.seen == "serves stub-judge"
        (check,) = checks(recipe({"benchmarks": benchmarks, "base_url": server.url, "model": "other"}), tmp_path)
        assert "model must be served by" in check.problem and "it serves stub-judge" in check.problem
        (check,) = checks(recipe({"benchmarks": benchmarks, "base_url": server.url}, spending={"max_usd": 1.0}), tmp_path)
        assert "spending.prices must have the price of 'stub-judge'" in check.problem
    (check,) = checks(recipe({"benchmarks": benchmarks}), tmp_path)
    assert "base_url must answer, got APIConnectionError" in check.problem
    assert server.requests == [], "nothing is paid for a check"


def test_the_preflight_of_azure_and_of_a_key_in_a_block(tmp_path, monkeypatch):
    monkeypatch.delenv("AZURE_OPENAI_API_KEY", raising=False)
    benchmarks = {"wildbench": {"source": "sample"}}
    (check,) = checks(recipe({"benchmarks": benchmarks, "api": "azure", "api_version": "v"}), tmp_path)
    assert "got none for AZURE_OPENAI_API_KEY" in check.problem
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "k")
    (check,) = checks(recipe({"benchmarks": benchmarks, "api": "azure", "api_version": "v"}), tmp_path)
    assert check.problem is None
    (check,) = checks(recipe({"benchmarks": benchmarks, "api_key_block": "openai-key"}), tmp_path)
    assert check.problem is None and "Prefect block" in check.seen


def test_keys_come_from_blocks_by_variable(monkeypatch):
    import flows.service.keys as module

    monkeypatch.setattr(module, "_secret", lambda name: f"secret of {name}")
    benchmarks = {"wildbench": {"source": "sample"}}
    assert service_keys(recipe({"benchmarks": benchmarks})) == {}
    second = {**ENDPOINT, "api_key_block": "two", "api_key_variable": "SECOND_KEY"}
    made = recipe({"benchmarks": benchmarks, "api_key_block": "one", "second": second})
    assert service_keys(made) == {"OPENAI_API_KEY": "secret of one", "SECOND_KEY": "secret of two"}
    made = recipe({"benchmarks": benchmarks, "api_key_block": "one", "second": {**ENDPOINT, "api_key_block": "two"}})
    with pytest.raises(RecipeError, match="api_key_variable must differ between judges"):
        service_keys(made)


def test_the_preflight_reads_recorded_answers_and_references(tmp_path):
    answers, references = tmp_path / "answers.jsonl", tmp_path / "references.jsonl"
    answers.write_text('{"id": "sample-00", "completion": "x"}\n')
    references.write_text('{"question_id": 2, "choices": [{"turns": ["a", "b"]}]}\n')
    benchmarks = {
        "arena_hard": {"source": "sample", "limit": 1, "baseline": str(answers)},
        "mt_bench": {"source": "sample", "references": str(references)},
    }
    made = recipe({"benchmarks": benchmarks})

    def named():
        found = preflight(made, [Forecast(node, None, False, None, []) for node in build(made)], tmp_path)
        return {check.name: check for check in found if check.name.startswith("judge.benchmarks")}

    assert named()["judge.benchmarks.arena_hard"].seen == "1 recorded answers"
    assert named()["judge.benchmarks.mt_bench"].seen == "1 references"
    answers.write_text("nonsense")
    references.write_text("{}")
    assert "arena_hard.baseline: " in named()["judge.benchmarks.arena_hard"].problem
    assert "mt_bench.references: " in named()["judge.benchmarks.mt_bench"].problem


@pytest.mark.parametrize(
    ("asked", "v1", "v2"), [(None, 4096, 8196), (512, 512, 512), (20_000, 4096, 20_000), (50_000, 4096, 32_000)]
)
def test_a_recipe_raises_the_limit_of_answers_as_far_as_upstream_gives_it_to_models_that_think(tmp_path, asked, v1, v2):
    file = tmp_path / "file.jsonl"
    file.write_text("{}")
    given = {"source": str(file), "baseline": str(file)}
    benchmarks = {"arena_hard": given, "arena_hard_v2_hard_prompt": given}
    made = recipe({"benchmarks": benchmarks, **({} if asked is None else {"max_new_tokens": asked})})
    limits = [node.settings["max_new_tokens"] for node in build(made) if node.stage == "generate"]
    assert limits == [v1, v2]


def test_a_baseline_of_arena_hard_v2_that_is_not_there_is_named_with_its_form(tmp_path):
    """Before anything is generated: a file that isn't there, and one that lacks answers to some questions."""
    questions, answers = tmp_path / "question.jsonl", tmp_path / "answers.jsonl"
    questions.write_text(
        "".join(f'{{"uid": "u{n}", "category": "creative_writing", "subcategory": "s", "prompt": "?"}}\n' for n in range(3))
    )
    benchmark = {"source": str(questions), "baseline": str(answers)}
    form = (
        r"upstream's data/arena-hard-v2\.0/model_answer/gemini-2\.0-flash-001\.jsonl: JSON Lines, plain or gzipped, with uid, model and "
        "messages"
    )
    with pytest.raises(RecipeError, match=r"arena_hard_v2_creative_writing\.baseline: .*answers\.jsonl must exist.*" + form):
        build(recipe({"benchmarks": {"arena_hard_v2_creative_writing": benchmark}}))
    with pytest.raises(RecipeError, match=r"must be a file of recorded answers .*gemini-2\.0-flash-001\.jsonl"):
        build(recipe({"benchmarks": {"arena_hard_v2_creative_writing": {"source": str(questions)}}}))
    answers.write_text(
        '{"uid": "u0", "model": "gemini-2.0-flash-001", "messages": [{"role": "assistant", "content": {"answer": "x"}}]}\n'
    )
    made = recipe({"benchmarks": {"arena_hard_v2_creative_writing": benchmark}})
    found = preflight(made, [Forecast(node, None, False, None, []) for node in build(made)], tmp_path)
    (problem,) = [check.problem for check in found if check.name == "judge.benchmarks.arena_hard_v2_creative_writing"]
    assert re.search(r"must answer every question, got none to 2 of 3, 'u1' the first; give " + form, problem)
