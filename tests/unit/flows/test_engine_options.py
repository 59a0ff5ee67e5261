"""How a model is loaded, from the recipe's keys to the engine: under `sample`, `evaluation` and every judge."""

import json
from types import SimpleNamespace

import pytest

from evaluation.types import Sampling
from flows.dag.graph import build
from flows.dag.preflight import preflight
from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from flows.runner import Runner
from tasks.job import Job
from tasks.keys import ROOT
from tasks.nodes import Forecast
from tasks.stages import generate, lm_eval, sample
from tasks.store import Artifact

MODEL = "models/SmolLM2-135M-Instruct"
SECTIONS = ("sample", "evaluation", "judge", "judge.second", "label.judge")
OPTIONS = {"max_model_len": 4000, "tensor_parallel_size": 3, "gpu_memory_utilization": 0.5, "num_replicas": 2}
# The stages that run on the engine of each section.
STAGES = {
    "sample": {"sample"},
    "evaluation": {"generate/base/gsm8k", "generate/aligned/gsm8k", "generate/base/mt_bench", "generate/aligned/mt_bench"}
    | {"lm_eval/base/ifeval", "lm_eval/aligned/ifeval"},
    "judge": {"judge/mt_bench"},
    "judge.second": {"judge/second/mt_bench"},
    "label.judge": {"label"},
}

pytestmark = pytest.mark.skipif(not (ROOT / MODEL).exists(), reason="the demonstration model is not there; run `make env`")


def recipe(*overrides, engine="vllm", model=MODEL):
    judge = {"engine": engine, "model_name_or_path": model, "max_judgment_tokens": 64}
    benchmarks = {"gsm8k": {"source": "sample", "limit": 2}}
    return make_recipe(
        {
            "name": "loads",
            "model_name_or_path": model,
            "sample": {"source": "number_comparison", "num_prompts": 4, "engine": engine},
            "label": {"labeler": "judge", "judge": judge},
            "train": {},
            "evaluation": {"engine": engine, "benchmarks": benchmarks, "lm_eval": ["ifeval"]},
            "judge": {**judge, "second": judge, "benchmarks": {"mt_bench": {"source": "sample", "limit": 2}}},
        },
        overrides,
    )


def nodes(made):
    return {node.id: node for node in build(made)}


@pytest.mark.parametrize("section", SECTIONS)
def test_the_longest_text_is_in_the_keys_of_what_the_engine_makes_and_its_place_is_in_none(section):
    plain = nodes(recipe())
    longest = nodes(recipe(f"{section}.max_model_len=4000"))
    assert {name for name in plain if plain[name].settings != longest[name].settings} - {"report"} == STAGES[section]
    placed = nodes(
        recipe(f"{section}.tensor_parallel_size=3", f"{section}.gpu_memory_utilization=0.5", f"{section}.num_replicas=2")
    )
    assert {name for name in plain if plain[name].settings != placed[name].settings} == {"report"}
    assert {name for name in plain if plain[name].unkeyed != placed[name].unkeyed} == STAGES[section]


@pytest.mark.parametrize(
    ("engine", "option", "remedy"),
    [
        ("transformers", "tensor_parallel_size=1", "set engine to vllm"),
        ("transformers", "gpu_memory_utilization=0.5", "set engine to vllm"),
        ("openai", "max_model_len=4000", "set engine to transformers or vllm"),
        ("openai", "tensor_parallel_size=2", "set engine to vllm"),
        ("openai", "num_replicas=2", "set engine to transformers or vllm"),
        ("reward_model", "max_model_len=4000", "set engine to transformers or vllm"),
        ("reward_model", "tensor_parallel_size=2", "set engine to vllm"),
    ],
)
def test_an_engine_that_does_not_take_a_setting_refuses_it_by_name(engine, option, remedy):
    name, _, value = option.partition("=")
    sections = {"transformers": SECTIONS, "openai": SECTIONS[1:], "reward_model": SECTIONS[2:]}[engine]
    for section in sections:
        given = [f"{section}.engine={engine}", f"{section}.{option}"]
        if engine == "openai":
            given += [f"{section}.model=m"] + (["evaluation.lm_eval=[]"] if section == "evaluation" else [])
        with pytest.raises(RecipeError) as refused:
            make_recipe(recipe().model_dump(exclude_defaults=True), given)
        assert str(refused.value) == (
            f"{section}.{name} must be left out with engine {engine}, which doesn't take it, got {value}; remove it, or {remedy}"
        )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("max_model_len=1", "must be at least 2, got 1"),
        ("num_replicas=0", "must be above 0, got 0"),
        ("tensor_parallel_size=0", "must be above 0, got 0"),
        ("tensor_parallel_size=2.5", "must be a whole number, got 2.5"),
        ("gpu_memory_utilization=0", "must be above 0, got 0"),
        ("gpu_memory_utilization=90", "must be at most 1, got 90"),
    ],
)
def test_values_out_of_bounds_are_refused(option, message):
    for section in SECTIONS:
        with pytest.raises(RecipeError, match=f"{section}.{option.partition('=')[0]} {message}"):
            recipe(f"{section}.{option}")


@pytest.fixture
def opened(monkeypatch):
    """What each engine is opened with, instead of opening it."""
    found = []

    class Opened(Exception):
        pass

    def open_it(name, model, **options):
        found.append((name, model, options))
        raise Opened

    for place in ("tasks.stages._models", "evaluation.engines"):
        monkeypatch.setattr(f"{place}.open_engine", open_it)
    found.append(Opened)
    return found


def test_every_stage_opens_its_engine_with_what_its_section_says(opened, tmp_path):
    from data.labelers import judge as labeler
    from evaluation.judging.open_judge import open_judge

    made = nodes(recipe(*(f"{section}.{name}={value}" for section in SECTIONS for name, value in OPTIONS.items())))
    stop = opened.pop()

    def job(name):
        node = made[name]
        return Job(
            {**node.settings, **node.unkeyed}, {"model": ROOT / MODEL, **node.files}, tmp_path, lambda *_: None, {"model": "x"}
        )

    for name, run in (
        ("sample", sample.run),
        ("generate/base/gsm8k", generate.run),
        ("generate/aligned/mt_bench", generate.run),
        ("lm_eval/base/ifeval", lm_eval.run),
        ("judge/mt_bench", lambda job: open_judge(job.settings, ROOT / MODEL, "x")),
        ("judge/second/mt_bench", lambda job: open_judge(job.settings, ROOT / MODEL, "x")),
        ("label", lambda job: labeler.open_judge(job.settings, ROOT / MODEL, "x")),
    ):
        with pytest.raises(stop):
            run(job(name))
        assert opened.pop() == ("vllm", ROOT / MODEL, OPTIONS), name


def test_completions_that_models_share_are_those_of_one_longest_text(tmp_path):
    def cache(*options):
        node = nodes(recipe(*options))["generate/base/gsm8k"]
        job = Job({**node.settings, **node.unkeyed}, {}, tmp_path / "generate" / "key", lambda *_: None, {"model": "x"})
        return generate._cache_file(job, Sampling(8))

    plain = cache()
    assert cache("evaluation.tensor_parallel_size=3") == plain != cache("evaluation.max_model_len=4000")


def problems(made, tmp_path, cached=()):
    forecasts = [Forecast(node, None, node.id in cached, None, []) for node in build(made)]
    return [check.problem for check in preflight(made, forecasts, tmp_path) if check.problem]


@pytest.fixture(autouse=True)
def no_sets(monkeypatch):
    """No hub is there that would have the sets of lm-eval's task."""
    monkeypatch.setattr("evaluation.harness.sets.task_sets", lambda *_: [])


@pytest.fixture
def gpus(monkeypatch):
    monkeypatch.setattr("evaluation.engines.vllm._is_cpu_build", lambda: False)
    monkeypatch.setattr("evaluation.engines.vllm.devices", lambda: [("H100", 80 * 2**30)] * 4)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_preflight_says_what_this_machine_or_the_model_cannot_do(section, tmp_path, gpus):
    for option, message in (
        ("tensor_parallel_size=5", "must be at most 4, the number of GPUs that this machine shows, got 5"),
        ("tensor_parallel_size=2", "must divide the model's 9 attention heads, got 2"),
        ("max_model_len=8193", "must be at most the model's own 8192, got 8193"),
    ):
        found = problems(recipe(f"{section}.{option}"), tmp_path)
        assert found and set(found) == {found[0]} and found[0].startswith(f"{section}.{option.partition('=')[0]} {message}")
    fits = [f"{section}.tensor_parallel_size=3", f"{section}.max_model_len=8192", f"{section}.gpu_memory_utilization=0.9"]
    assert problems(recipe(*fits), tmp_path) == []


def test_each_replica_has_gpus_or_cores_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.engines.own_cores", lambda: [0, 1])
    assert problems(recipe("evaluation.num_replicas=2", engine="transformers"), tmp_path) == []
    (found,) = set(problems(recipe("evaluation.num_replicas=3", engine="transformers"), tmp_path))
    assert found == "evaluation.num_replicas must be at most 2, this machine's cores, got 3; lower it"
    for place in ("evaluation.engines", "evaluation.engines.vllm"):
        monkeypatch.setattr(f"{place}.devices", lambda: [("H100", 80 * 2**30)] * 8)
    monkeypatch.setattr("evaluation.engines.vllm._is_cpu_build", lambda: False)
    assert problems(recipe("sample.num_replicas=2", "sample.tensor_parallel_size=3"), tmp_path) == []
    (found,) = problems(recipe("sample.num_replicas=3", "sample.tensor_parallel_size=3"), tmp_path)
    assert found == "sample.num_replicas must be at most 2, of this machine's 8 GPUs, 3 for each, got 3; lower it"
    # Several on one machine of fewer GPUs than one takes: the other check says it.
    (found,) = problems(recipe("sample.num_replicas=1", "sample.tensor_parallel_size=9"), tmp_path)
    assert found.startswith("sample.tensor_parallel_size must be at most 8")


def test_what_is_cached_needs_no_gpus(tmp_path, gpus):
    made = recipe("sample.tensor_parallel_size=5")
    assert problems(made, tmp_path) and problems(made, tmp_path, cached=("resolve/base", "sample")) == []


def test_a_limit_of_new_tokens_that_none_can_reach_is_refused(tmp_path):
    (found,) = problems(recipe("sample.max_model_len=512"), tmp_path)
    assert found == (
        "sample.max_model_len must be above max_new_tokens (512), or a prompt has no room, got 512; raise it, or lower "
        "sample.max_new_tokens"
    )
    (found,) = set(problems(recipe("evaluation.max_model_len=64", "evaluation.max_new_tokens=32"), tmp_path))
    # The answers to a judged benchmark have the judge's limit.
    assert found.startswith("evaluation.max_model_len must be above max_new_tokens (") and " of mt_bench), or a prompt" in found
    assert found.endswith("got 64; raise it, or set judge.max_new_tokens below it")
    (found,) = set(problems(recipe("evaluation.max_model_len=64", "judge.max_new_tokens=32"), tmp_path))
    assert " of gsm8k), or" in found and found.endswith("or set evaluation.max_new_tokens below it")
    # The labels that a judge chooses from are short; free text is not.
    assert problems(recipe("judge.max_model_len=64"), tmp_path) == []
    (found,) = problems(recipe("judge.max_model_len=64", "judge.verdict=text"), tmp_path)
    assert found.endswith("got 64; raise it, or lower judge.max_judgment_tokens")


def test_a_fetched_model_is_looked_at_before_the_next_stage(tmp_path, gpus):
    """Its config.json was not on this machine when the run was planned."""
    made = recipe("evaluation.tensor_parallel_size=2", model="some/model")
    forecasts = {node.id: Forecast(node, None, False, None, []) for node in build(made)}
    (tmp_path / "manifest.json").write_text(
        json.dumps({"model_path": str(ROOT / MODEL), "files": {}, "fingerprint": "x", "ingredients": {}})
    )
    runner = Runner(SimpleNamespace(forecasts=forecasts), None, None, None, {})
    resolved = Artifact("resolve", "key", "print", tmp_path)
    with pytest.raises(
        RecipeError, match=r"^evaluation\.tensor_parallel_size must divide the model's 9 attention heads, got 2"
    ):
        runner._check_engines(forecasts["resolve/base"].node, resolved)
    runner._check_engines(forecasts["train"].node, resolved)
