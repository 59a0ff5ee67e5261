"""Sampling: a killed and resumed run gives the texts of one that was not, and no other chunk has a say in a chunk's texts."""

import copy
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from bnf.data.rendering import load_tokenizer, render_prompt
from data.labelers import verifier
from data.sampling.sample import CHUNK_PROMPTS, SampleConfig, chunk_seed, sample_prompts
from evaluation.types import Generation, Verdict
from tests.unit.evaluation.fake_engine import FakeEngine, no_progress

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "models" / "SmolLM2-135M-Instruct"
pytestmark = pytest.mark.skipif(not MODEL.is_dir(), reason="the demonstration model is not there; make env fetches it")
PROMPTS = [
    {
        "id": f"p{number}",
        "messages": [{"role": "user", "content": f"Say {number}"}],
        "item": {"id": f"p{number}", "answer": number},
        "held_out": number > 20,
    }
    for number in range(3 * CHUNK_PROMPTS - 3)
]


def config(**settings):
    given = {"num_prompts": 8, "samples_per_prompt": 3, "temperatures": [0.7], "top_p": 1.0, "max_new_tokens": 16, "seed": 0}
    return SampleConfig(source="prompts", **(given | settings))


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(MODEL)


def run(engine, output_dir, tokenizer, prompts=PROMPTS, **settings):
    sample_prompts(engine, tokenizer, prompts, config(**settings), output_dir, no_progress)
    return (output_dir / "samples.jsonl").read_text()


def test_records_hold_prompt_ids_and_the_sampled_ids(tmp_path, tokenizer):
    records = [json.loads(line) for line in run(FakeEngine(takes="ids"), tmp_path, tokenizer).splitlines()]
    assert [record["id"] for record in records] == [prompt["id"] for prompt in PROMPTS]
    assert records[4]["prompt_ids"] == render_prompt(tokenizer, PROMPTS[4]["messages"])
    assert records[4]["item"] == PROMPTS[4]["item"] and records[4]["messages"] == PROMPTS[4]["messages"]
    first = records[4]["completions"][0]
    assert len(records[4]["completions"]) == 3 and len(first["token_ids"]) == 5 and first["finish_reason"] == "stop"
    assert not (tmp_path / "chunks").exists()


def test_markers_that_are_special_tokens_are_in_a_samples_text(tmp_path):
    tokenizer = copy.deepcopy(load_tokenizer(MODEL))
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    written = tokenizer("[THINK]so[/THINK]4<|im_end|>", add_special_tokens=False)["input_ids"]
    engine = FakeEngine(lambda prompt: Generation("so4", written, "stop", len(prompt), len(written)), takes="ids")
    text = run(engine, tmp_path, tokenizer, PROMPTS[:1], think_tokens=("[THINK]", "[/THINK]"))
    one = json.loads(text)["completions"][0]
    assert (one["text"], one["token_ids"], one["answer_start"]) == ("[THINK]so[/THINK]4", written, 17)


def test_seeds_differ_between_chunks_and_runs(tmp_path, tokenizer):
    texts = {seed: run(FakeEngine(takes="ids"), tmp_path / str(seed), tokenizer, seed=seed) for seed in (0, 1)}
    assert texts[0] != texts[1] != run(FakeEngine(takes="ids"), tmp_path / "round", tokenizer, seed=1, round=2)
    numbers = [
        (seed, chunk, round, place) for seed in range(9) for chunk in range(9) for round in (1, 2, 3) for place in (0, 1)
    ]
    assert len({chunk_seed(*each) for each in numbers}) == len(numbers)
    assert all(0 <= chunk_seed(seed, 0) < 2**31 for seed in range(100))


def test_temperatures_share_the_samples_and_have_seeds_of_their_own(tmp_path, tokenizer):
    text = run(FakeEngine(takes="ids"), tmp_path, tokenizer, temperatures=[0.5, 1.0], samples_per_prompt=3)
    for record in map(json.loads, text.splitlines()):
        assert [one["temperature"] for one in record["completions"]] == [0.5, 0.5, 1.0]
        assert record["completions"][0]["text"] != record["completions"][2]["text"]
    assert [record["held_out"] for record in map(json.loads, text.splitlines())] == [one["held_out"] for one in PROMPTS]


@pytest.mark.integration
def test_resume_after_kill_9_gives_identical_texts(tmp_path, tokenizer):
    kill_after = 2 * CHUNK_PROMPTS + 1
    script = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from tests.unit.data.test_sample import FakeEngine, MODEL, load_tokenizer, run
        from pathlib import Path
        run(FakeEngine(takes="ids", kill_after={kill_after}), Path({str(tmp_path / "killed")!r}), load_tokenizer(MODEL))
    """
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True)
    assert died.returncode == -9, died.stderr.decode()
    engine = FakeEngine(takes="ids")
    resumed = run(engine, tmp_path / "killed", tokenizer)
    assert len(engine.asked) == len(PROMPTS) - 2 * CHUNK_PROMPTS, "whole chunks are not sampled again"
    assert resumed == run(FakeEngine(takes="ids"), tmp_path / "whole", tokenizer)


def test_more_prompts_leave_the_first_chunks_as_they_are(tmp_path, tokenizer):
    few = run(FakeEngine(takes="ids"), tmp_path / "few", tokenizer, prompts=PROMPTS[: 2 * CHUNK_PROMPTS])
    assert run(FakeEngine(takes="ids"), tmp_path / "many", tokenizer).startswith(few)


def test_an_engine_without_token_ids_is_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"sample.engine must give token ids"):
        run(FakeEngine(), tmp_path, tokenizer)


def test_verifier_rewards_what_the_scorer_calls_correct(tmp_path, monkeypatch):
    class Benchmark:
        @staticmethod
        def score(item, completion, finish_reason):
            outcome = "no_answer" if finish_reason == "length" else "correct" if completion == item["gold"] else "wrong"
            return Verdict(outcome, None, "test")

    monkeypatch.setattr(verifier, "load", lambda kind, name: Benchmark)
    completions = [
        {"text": text, "token_ids": [5], "finish_reason": reason}
        for text, reason in (("7", "stop"), ("8", "stop"), ("7", "length"))
    ]
    record = {"id": "p", "messages": [], "prompt_ids": [1], "item": {"gold": "7"}, "completions": completions}
    (tmp_path / "samples.jsonl").write_text(json.dumps(record) + "\n")
    verifier.label(tmp_path / "samples.jsonl", tmp_path / "labelled.jsonl", benchmark="toy", progress=no_progress)
    labelled = json.loads((tmp_path / "labelled.jsonl").read_text())
    assert [(one["reward"], one["outcome"]) for one in labelled["completions"]] == [
        (1, "correct"),
        (0, "wrong"),
        (0, "no_answer"),
    ]
    assert labelled["completions"][0]["token_ids"] == [5], "nothing else changes"
