"""evaluation.num_samples: what a recipe may ask, which keys have it, and what is said before anything is generated."""

import json

import pytest

from flows.commands.planning import show_plan
from flows.dag.completions import COMPLETIONS, asked_completions, completion_check, kept_completions
from flows.dag.costs import endpoint_cost
from flows.dag.graph import build
from flows.dag.outlook import History
from flows.dag.parts import shown_recipe
from flows.dag.plan import make_plan
from flows.dag.selection import Options
from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from tasks.keys import ROOT, changes
from tasks.nodes import Forecast
from tasks.partial import partial_work
from tests.unit.evaluation.report_folders import write_lines
from tests.unit.flows.test_outlook import a_run, artifact

MODEL = "models/SmolLM2-135M-Instruct"
# As a forecast names them.
NUM_SAMPLES, LIMIT = "settings.sampling.num_samples", "settings.limit"
needs_model = pytest.mark.skipif(not (ROOT / MODEL).exists(), reason="the demonstration model is not there; run `make env`")
TRAINED = {"train": {}, "data": {"source": "pairs", "path": "data/samples/pairs.jsonl"}}


def recipe(more=None, **evaluation):
    return make_recipe(
        {
            "name": "e",
            "model_name_or_path": MODEL,
            "evaluation": {
                "engine": "transformers",
                "benchmarks": {"aime_2024": {}, "gsm8k": {"source": "sample"}},
                **evaluation,
            },
            **(more or {}),
        }
    )


def nodes(*args, **evaluation):
    return {node.id: node for node in build(recipe(*args, **evaluation))}


def forecasts(*args, **evaluation):
    return [Forecast(node, None, False, None, []) for node in nodes(*args, **evaluation).values()]


@needs_model
def test_samples_are_part_of_the_keys_of_generation_and_score_alone():
    greedy, sampled = nodes(), nodes(num_samples=16, temperature=0.6, top_p=0.95)
    changed = {name for name in greedy if greedy[name].settings != sampled[name].settings} - {"report"}
    assert changed == {f"{stage}/base/{name}" for stage in ("generate", "score") for name in ("aime_2024", "gsm8k")}
    drawn = {"num_samples": 16, "temperature": 0.6, "top_p": 0.95}
    # What makes answers the same counts where there is a majority.
    assert (
        "same_answer" in sampled["score/base/aime_2024"].plugins[0]
        and "same_answer" not in greedy["score/base/aime_2024"].plugins[0]
    )
    assert sampled["generate/base/aime_2024"].settings["sampling"] == drawn == sampled["score/base/gsm8k"].settings["sampling"]


@needs_model
def test_one_greedy_completion_has_the_keys_and_the_shown_recipe_of_before():
    for evaluation in ({}, {"num_samples": 1, "temperature": 0.0, "top_p": 1.0}):
        found = nodes(**evaluation)
        assert not any("sampling" in node.settings for node in found.values())
        shown = shown_recipe(recipe(**evaluation))["evaluation"]
        for section in (shown, *shown["benchmarks"].values()):
            assert not {"num_samples", "temperature", "top_p", "max_thinking_tokens"} & section.keys()
    assert shown_recipe(recipe(temperature=0.6))["evaluation"]["temperature"] == 0.6


def test_samples_that_nothing_would_be_asked_for_are_refused():
    """All that is left is judged, and answered once."""
    with pytest.raises(
        RecipeError, match=r"num_samples must be left out without benchmarks, as judged answers are .* got 16; name benchmarks"
    ):
        recipe(
            {"judge": {"benchmarks": ["arena_hard"], "engine": "transformers", "model_name_or_path": "m"}},
            benchmarks={},
            num_samples=16,
            temperature=0.6,
        )


@needs_model
def test_a_benchmark_overrides_what_all_have():
    found = nodes(benchmarks={"aime_2024": {"num_samples": 32, "temperature": 1.0}, "gsm8k": {"source": "sample"}})
    assert found["generate/base/aime_2024"].settings["sampling"] == {"num_samples": 32, "temperature": 1.0, "top_p": 1.0}
    assert "sampling" not in found["generate/base/gsm8k"].settings
    found = nodes(num_samples=4, temperature=0.6, benchmarks={"aime_2024": {}, "gsm8k": {"num_samples": 1, "temperature": 0.0}})
    assert found["generate/base/aime_2024"].settings["sampling"]["num_samples"] == 4
    assert "sampling" not in found["generate/base/gsm8k"].settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_samples": 4},
            "evaluation.num_samples must be 1 at temperature 0, where all samples are equal, got 4; set evaluation.temp",
        ),
        (
            {"benchmarks": {"aime_2024": {"num_samples": 4}}},
            "evaluation.benchmarks.aime_2024.num_samples must be 1 at temperature 0",
        ),
        (
            {"num_samples": 4, "temperature": 0.6, "benchmarks": {"gsm8k": {"temperature": 0.0}}},
            "evaluation.benchmarks.gsm8k.num_samples must be 1 at temperature 0",
        ),
        (
            {"max_thinking_tokens": 64, "max_new_tokens": 64},
            r"evaluation.max_thinking_tokens must be below max_new_tokens \(64\), .*, got 64; lower it",
        ),
        ({"top_p": 0.9}, "evaluation.top_p must be 1 at temperature 0, where the likeliest token is taken, got 0.9"),
        ({"num_samples": 0, "temperature": 1.0}, "evaluation.num_samples must be above 0, got 0"),
        ({"temperature": -1.0}, "evaluation.temperature must be at least 0"),
        (
            {"num_samples": 4, "temperature": 0.6, "lm_eval": ["ifeval"]},
            r"evaluation.num_samples must be left out beside lm_eval \(ifeval\), whose tasks are answered once .* got 4; give it to the",
        ),
        ({"temperature": 0.6, "lm_eval": ["ifeval"]}, r"evaluation.temperature must be left out beside lm_eval \(ifeval\)"),
        (
            {"lm_eval": {"ifeval": {"num_samples": 4}}},
            "evaluation.lm_eval.ifeval.num_samples must be left out for judged .* got 4; sample",
        ),
    ],
)
def test_what_cannot_be_sampled_is_refused_by_name(changes, message):
    with pytest.raises(RecipeError, match=message):
        recipe(**changes)


@pytest.mark.parametrize("place", ["judge.num_samples", "judge.benchmarks.arena_hard.num_samples"])
def test_judged_benchmarks_are_answered_once(place):
    judge = {"model_name_or_path": MODEL, "engine": "transformers", "benchmarks": {"arena_hard": {"source": "sample"}}}
    section = judge["benchmarks"]["arena_hard"] if "arena_hard" in place else judge
    section["num_samples"] = 4
    with pytest.raises(RecipeError, match=f"{place} must be left out for judged benchmarks"):
        recipe({"judge": judge})


@needs_model
def test_completions_and_tokens_are_said_by_benchmark_and_model():
    found = {one.benchmark: one for one in asked_completions(forecasts(TRAINED, num_samples=16, temperature=0.6))}
    aime, gsm8k = found["aime_2024"], found["gsm8k"]
    assert aime.models == gsm8k.models == ("base", "aligned")
    assert (aime.num_items, aime.num_completions, aime.max_tokens) == (30, 480, 480 * 32768)
    num_items = len((ROOT / "evaluation/benchmarks/samples/gsm8k.jsonl").read_text().splitlines())
    assert (gsm8k.num_items, gsm8k.max_tokens) == (num_items, 16 * num_items * 4096)
    (check,) = completion_check(forecasts(TRAINED, num_samples=16, temperature=0.6, max_new_tokens=1000))
    assert check.problem is None and check.is_cost
    assert "aime_2024: 480 (30 items × 16) by base and aligned, each at most 480,000 tokens; gsm8k: " in check.seen
    (check,) = completion_check(forecasts(benchmarks={"aime_2024": {"limit": 7}}))
    assert "aime_2024: 7 by base, at most 229,376 tokens" in check.seen
    assert not [*completion_check(Forecast(node, None, True, None, []) for node in nodes().values())]


@needs_model
def test_a_plan_says_them_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BNF_HOME", str(tmp_path))
    asked = recipe(num_samples=2, temperature=0.6, benchmarks={"gsm8k": {"source": "sample", "limit": 3}})
    show_plan(asked, Options(), as_json=False)
    assert f"{COMPLETIONS}: gsm8k: 6 (3 items × 2) by base, at most 24,576 tokens" in capsys.readouterr().out
    show_plan(asked, Options(), as_json=True)
    (said,) = json.loads(capsys.readouterr().out)["completions"]
    assert said["num_completions"] == 6 and said["max_tokens"] == 24576 and said["models"] == ["base"]


@needs_model
def test_an_endpoint_is_paid_for_every_sample():
    def cost(**drawn):
        asked = {"engine": "openai", "model": "m", "benchmarks": {"gsm8k": {"source": "sample", "limit": 3}}, **drawn}
        given = recipe({"spending": {"prices": {"m": {"input": 1.0, "output": 10.0}}}}, **asked)
        found = {node.id: node for node in build(given)}
        return endpoint_cost(found["generate/base/gsm8k"], found, given)

    once, four = cost(), cost(num_samples=4, temperature=0.6)
    assert (four.num_requests, once.num_requests) == (12, 3)
    assert four.least == pytest.approx(4 * once.least) and four.most == pytest.approx(4 * once.most)


def test_partial_work_of_samples_counts_completions_and_no_items(tmp_path):
    write_lines(tmp_path / "items.jsonl", [{"id": "a"}])
    write_lines(tmp_path / "completions.jsonl", [{"id": "a", "sample": n} for n in range(3)])
    assert partial_work("generate", tmp_path) == "3 completions are there"
    write_lines(tmp_path / "completions.jsonl", [{"id": "a"}])
    assert partial_work("generate", tmp_path) == "1 of 1 completions are there"


@needs_model
def test_a_plan_names_what_of_the_drawing_differs_and_no_more(tmp_path, monkeypatch):
    """A recipe that says nothing of it draws one greedy completion: its settings have no part for that."""
    greedy, drawn = nodes(), nodes(temperature=0.6)

    def known(asked, *_):
        return {
            node.id: Forecast(
                node, "k", False, None, changes({"settings": greedy[node.id].settings}, {"settings": node.settings})
            )
            for node in asked
        }

    monkeypatch.setattr("flows.dag.plan.forecast", known)
    plan = make_plan(tmp_path, recipe(temperature=0.6), Options())
    for name in ("generate/base/gsm8k", "score/base/gsm8k"):
        assert plan.forecasts[name].changed == [{"key": "settings.sampling.temperature", "old": 0.0, "new": 0.6}]
    home = tmp_path / "home"
    node = greedy["generate/base/gsm8k"]
    run = a_run(home, 1, "m", (node, artifact(home, "generate", node.settings), 10.0, False))
    history = History(home, run.artifacts["resolve/base"].fingerprint)
    past = history.nearest(drawn[node.id])
    assert past.differs == ("sampling.temperature",) and past.amounts == ()
    assert history.nearest(nodes(num_samples=4, temperature=0.6)[node.id]).amounts == ("sampling.num_samples",)


@needs_model
@pytest.mark.parametrize(
    ("asked", "changed", "said"),
    [
        ({"num_samples": 16}, {NUM_SAMPLES: 4}, "12 of 48 completions are there, of earlier generations"),
        ({"num_samples": 4}, {NUM_SAMPLES: 16}, "12 of 12 completions are there, of earlier generations"),
        ({"temperature": 0.0}, {LIMIT: 2}, "2 of 3 completions are there, of earlier generations"),
        ({"temperature": 0.0}, {LIMIT: None}, "3 of 3 completions are there, of earlier generations"),
        ({"num_samples": 16}, {LIMIT: 2}, None),
        ({"num_samples": 16}, {NUM_SAMPLES: 4, "inputs.model": "x"}, None),
        ({"num_samples": 16}, {}, None),
    ],
)
def test_a_plan_says_what_earlier_generations_made_of_it(asked, changed, said):
    found = nodes(**{"temperature": 0.6, "benchmarks": {"gsm8k": {"source": "sample", "limit": 3}}, **asked})
    differs = [{"key": key, "old": old, "new": "…"} for key, old in changed.items()]
    assert kept_completions(Forecast(found["generate/base/gsm8k"], "k", False, None, differs)) == said
    assert kept_completions(Forecast(found["score/base/gsm8k"], "k", False, None, differs)) is None
