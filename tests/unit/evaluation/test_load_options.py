"""How engines load a model: what vLLM is given, and what is refused for this machine or this model."""

import json
import sys
from types import SimpleNamespace

import pytest

from bnf.plugins import load, names
from evaluation.engines import ENGINES, LOAD_OPTIONS, PLACEMENT_OPTIONS, load_options, open_engine
from evaluation.judging.open_judge import open_judge

CONFIG = {"max_position_embeddings": 128, "num_attention_heads": 12}
GPU = ("H100", 80 * 2**30)


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


@pytest.fixture
def gpus(monkeypatch):
    """A machine with four GPUs, and a vLLM that only writes down what it is given."""
    given = {}

    class LLM:
        def __init__(self, model, **options):
            given.update(options, model=model)
            length = options.get("max_model_len", 128)
            self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=length))

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=LLM, __version__="0"))
    monkeypatch.setattr("evaluation.engines.vllm._is_cpu_build", lambda: False)
    monkeypatch.setattr("evaluation.engines.vllm.devices", lambda: [GPU] * 4)
    return given


def test_vllm_is_given_what_is_set_and_nothing_else(model, gpus):
    engine = open_engine("vllm", model, max_model_len=64, tensor_parallel_size=4, gpu_memory_utilization=0.5)
    loaded = {name: gpus.pop(name) for name in LOAD_OPTIONS if name in gpus}
    assert loaded == {"max_model_len": 64, "tensor_parallel_size": 4, "gpu_memory_utilization": 0.5}
    assert engine.max_model_len == 64
    rest = dict(gpus)
    gpus.clear()
    open_engine("vllm", model)
    assert gpus == rest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tensor_parallel_size": 8}, "tensor_parallel_size must be at most 4, the number of GPUs .* got 8; lower it"),
        ({"max_model_len": 129}, "max_model_len must be at most the model's own 128, got 129; lower it"),
    ],
)
def test_what_this_machine_or_the_model_cannot_do_is_refused(model, gpus, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        open_engine("vllm", model, **options)
    assert gpus == {}


def test_layers_are_spread_over_a_number_that_divides_the_heads(model, gpus):
    for config in (CONFIG | {"num_attention_heads": 9}, {"text_config": {"num_attention_heads": 9}}):
        (model / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=r"^tensor_parallel_size must divide the model's 9 attention heads, got 2; take"):
            open_engine("vllm", model, tensor_parallel_size=2)
        assert open_engine("vllm", model, tensor_parallel_size=3)


def test_a_machine_without_gpus_spreads_nothing(model, gpus, monkeypatch):
    monkeypatch.setattr("evaluation.engines.vllm.devices", lambda: [])
    with pytest.raises(ValueError, match=r"^tensor_parallel_size must be at most 1, .* got 2"):
        open_engine("vllm", model, tensor_parallel_size=2)


def test_on_a_cpu_vllm_takes_no_placement(model, gpus, monkeypatch):
    monkeypatch.setattr("evaluation.engines.vllm._is_cpu_build", lambda: True)
    with pytest.raises(
        ValueError, match=r"^tensor_parallel_size must be 1 where vLLM computes on the CPU, got 2; leave it out"
    ):
        open_engine("vllm", model, tensor_parallel_size=2)
    with pytest.raises(
        ValueError, match=r"^gpu_memory_utilization must be left out .* got 0\.5; the variable VLLM_CPU_KVCACHE"
    ):
        open_engine("vllm", model, gpu_memory_utilization=0.5)


def test_the_transformers_engine_takes_a_length_up_to_the_models_own(tiny_model_dir, monkeypatch):
    monkeypatch.setattr("bnf.data.rendering.load_tokenizer", lambda folder: None)
    monkeypatch.setattr("bnf.data.rendering.stop_token_ids", lambda tokenizer: {2})
    own = json.loads((tiny_model_dir / "config.json").read_text())["max_position_embeddings"]
    assert open_engine("transformers", tiny_model_dir, max_model_len=16).max_model_len == 16
    assert open_engine("transformers", tiny_model_dir).max_model_len == own
    with pytest.raises(ValueError, match=rf"^max_model_len must be at most the model's own {own}, got {own + 1}"):
        open_engine("transformers", tiny_model_dir, max_model_len=own + 1)
    problem = load(ENGINES, "transformers").problem
    assert problem({"max_model_len": own + 1}, {"max_position_embeddings": own})
    # Nothing is known of a model that is still to be fetched.
    assert problem({"max_model_len": own + 1}, None) is None


@pytest.mark.parametrize("name", names(ENGINES))
def test_an_engine_has_options_that_a_recipe_has(name):
    engine = load(ENGINES, name)
    assert set(LOAD_OPTIONS) >= engine.OPTIONS and set(LOAD_OPTIONS) > PLACEMENT_OPTIONS
    # What a replica is to its caller, whichever engine it has.
    if "num_replicas" in engine.OPTIONS:
        assert not engine.REMOTE and "choices" in engine.SUPPORTS


def test_options_are_read_from_a_stages_settings():
    settings = {
        "engine": {"name": "vllm", "version": "1", "max_model_len": 64},
        "engine_placement": {"tensor_parallel_size": 2},
    }
    assert load_options(settings) == {"max_model_len": 64, "tensor_parallel_size": 2}
    assert load_options({"engine": {"name": "vllm", "version": "1"}}) == {}


def test_a_judges_answers_are_kept_by_its_length_and_not_by_its_place(monkeypatch, tmp_path):
    opened = []

    def open_it(name, model, **options):
        opened.append(options)
        return SimpleNamespace(supports_choices=True)

    monkeypatch.setattr("evaluation.engines.open_engine", open_it)
    monkeypatch.setattr("bnf.data.rendering.load_tokenizer", lambda folder, date: None)
    base = {"verdict": "choice", "max_judgment_tokens": 8, "date": "2024-07-26"}

    def identity(engine, **more):
        return open_judge({**base, "engine": {"name": "vllm", "version": "1", **engine}, **more}, tmp_path, "print").identity

    plain = {"model": "print", "engine": "vllm", "version": "1", "date": "2024-07-26"}
    assert identity({}) == identity({}, engine_placement={"tensor_parallel_size": 2}) == plain
    assert identity({"max_model_len": 64}) == plain | {"max_model_len": 64}
    assert opened == [{}, {"tensor_parallel_size": 2}, {"max_model_len": 64}]
