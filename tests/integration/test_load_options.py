"""A recipe's `max_model_len` in vLLM, by way of the process in which stages run."""

import json

import pytest

from bnf.plugins import load
from evaluation.benchmarks import BENCHMARKS
from evaluation.engines import environment
from flows.dag.graph import build
from flows.recipe.config import make_recipe
from tasks.child import Child
from tasks.keys import ROOT
from tests.integration.vllm_worker import MODEL

pytestmark = [
    pytest.mark.integration,
    pytest.mark.vllm,
    pytest.mark.skipif(not MODEL.is_dir(), reason="the demonstration model is not there; make env fetches it"),
]


def test_a_recipes_longest_text_is_the_engines(tmp_path):
    pytest.importorskip("vllm.version")
    from bnf.data.rendering import load_tokenizer, render_prompt

    benchmark, tokenizer = load(BENCHMARKS, "gsm8k"), load_tokenizer(MODEL)
    items = benchmark.load("sample", 6)
    lengths = {item["id"]: len(render_prompt(tokenizer, benchmark.messages(item))) for item in items}
    # Room for half of the prompts, and of these the longest has little.
    longest = sorted(lengths.values())[3]
    made = make_recipe(
        {
            "name": "short",
            "model_name_or_path": str(MODEL.relative_to(ROOT)),
            "evaluation": {
                "engine": "vllm",
                "max_model_len": longest,
                "max_new_tokens": 8,
                "benchmarks": {"gsm8k": {"source": "sample", "limit": 6}},
            },
        }
    )
    (node,) = [one for one in build(made) if one.stage == "generate"]
    output = tmp_path / "generate" / "key"
    child = Child(environment("vllm"), tmp_path / "job.log", lambda text: None, lambda *progress: None)
    try:
        inputs = {"model": MODEL, **node.files}
        child.run("tasks.stages.generate", {**node.settings, **node.unkeyed}, inputs, output, fingerprints={"model": "print"})
    finally:
        child.close()
    found = {record["id"]: record for record in map(json.loads, (output / "completions.jsonl").read_text().splitlines())}
    assert found.keys() == lengths.keys()
    for name, tokens in lengths.items():
        record = found[name]
        assert record["num_prompt_tokens"] == tokens
        if tokens >= longest:
            assert record["finish_reason"] == "prompt_too_long" and record["completion"] == ""
        else:
            assert record["num_completion_tokens"] <= min(8, longest - tokens) and record["completion"]
    assert len({record["finish_reason"] == "prompt_too_long" for record in found.values()}) == 2
