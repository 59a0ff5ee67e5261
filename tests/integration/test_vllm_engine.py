"""vLLM with the real model: reproducible samples over a kill -9, structured choices, limits; and the transformers engine beside it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bnf.data.rendering import load_tokenizer, prompt_text, render_prompt
from evaluation.engines import environment, open_engine
from evaluation.types import Sampling
from tests.integration.vllm_worker import CHOICES, MODEL, PROMPTS, likelihood_pairs

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not MODEL.is_dir(), reason="the demonstration model is not there; make env fetches it"),
]
ROOT = Path(__file__).parents[2]


def _work(name: str, folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tests.integration.vllm_worker", name, str(folder)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment("vllm"), capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The output of a process that died in its second chunk and of one that took over; both start vLLM."""
    pytest.importorskip("vllm.version")
    folder = tmp_path_factory.mktemp("vllm")
    died = _work("killed", folder)
    assert died.returncode == -9, died.stderr[-3000:]
    assert [path.name for path in (folder / "resumed" / "chunks").iterdir()] == ["00000.jsonl"]
    ended = _work("resumed", folder)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def report(folder):
    return json.loads((folder / "report.json").read_text())


@pytest.fixture
def one_thread():
    """Without `environment()` several threads spin against each other, ten times as slow."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.vllm
def test_a_completion_in_pieces_is_the_whole_one_and_can_be_broken_off(report):
    pieces = report["pieces"]
    assert len(pieces) > 3 and "".join(piece["text"] for piece in pieces) == report["completed"]
    assert [piece["finish_reason"] for piece in pieces if piece["finish_reason"]] in (["stop"], ["length"])
    # A reseed follows, which refuses where anything is left running.
    assert len(report["broken_off"]) < len(pieces) and report["broken_off"][-1]["finish_reason"] == "stopped"


@pytest.mark.vllm
def test_samples_are_the_same_after_a_kill_and_in_an_engine_with_another_past(folder):
    # Chunk 0 comes from the process that died; chunks 1 and 2 from the first requests of a fresh engine, then from its later ones.
    assert (folder / "resumed" / "samples.jsonl").read_text() == (folder / "whole" / "samples.jsonl").read_text()
    assert (folder / "other_seed" / "samples.jsonl").read_text() != (folder / "whole" / "samples.jsonl").read_text()


@pytest.mark.vllm
def test_sampled_ids_end_with_the_terminator_where_the_turn_ended(folder):
    tokenizer = load_tokenizer(MODEL)
    records = [json.loads(line) for line in (folder / "whole" / "samples.jsonl").read_text().splitlines()]
    reasons = set()
    for record in records:
        assert record["prompt_ids"] == render_prompt(tokenizer, record["messages"])
        for one in record["completions"]:
            reasons.add(one["finish_reason"])
            assert (one["token_ids"][-1] == tokenizer.eos_token_id) == (one["finish_reason"] == "stop")
            assert len(one["token_ids"]) <= 12 and tokenizer.decode(one["token_ids"], skip_special_tokens=True) == one["text"]
    assert reasons == {"stop", "length"} and len(records) == len(PROMPTS)
    assert len({one["text"] for one in records[0]["completions"]}) > 1


@pytest.mark.vllm
def test_a_short_prompts_samples_share_what_is_computed_of_it(report):
    length, first, second = report["cached"]
    assert 32 < length < 128
    assert (first, second) == (0, (length - 1) // 32 * 32)


@pytest.mark.vllm
def test_choices_restrict_the_whole_completion(report):
    assert len(report["choices"]) == len(PROMPTS) and set(report["choices"]) <= set(CHOICES)


@pytest.mark.vllm
def test_limits(report):
    assert report["max_model_len"] == 256 and report["version"].startswith("vllm 0.")
    room, none, little = (report["lengths"][index] for index in "012")
    assert room["finish_reason"] in ("stop", "length") and room["num_prompt_tokens"] + room["num_completion_tokens"] <= 256
    assert none == {
        "completion": "",
        "token_ids": [],
        "finish_reason": "prompt_too_long",
        "num_prompt_tokens": 256,
        "num_completion_tokens": 0,
        "top_logprobs": None,
        "cost_usd": None,
        "is_thought_cut": None,
    }
    assert little["num_completion_tokens"] <= 6


@pytest.mark.vllm
def test_generate_writes_what_the_model_saw_and_said(folder, report):
    tokenizer = load_tokenizer(MODEL)
    records = {
        record["id"]: record for record in map(json.loads, (folder / "greedy" / "completions.jsonl").read_text().splitlines())
    }
    assert set(records) == {prompt["id"] for prompt in PROMPTS}
    record = records["p3"]
    assert record["prompt"] == prompt_text(tokenizer, PROMPTS[3]["messages"])
    assert record["num_prompt_tokens"] == len(render_prompt(tokenizer, PROMPTS[3]["messages"]))
    assert report["last_note"].endswith(" tokens/s, 0.0 s left") and int(report["last_note"].split()[0]) > 0


@pytest.mark.vllm
def test_likelihoods_are_those_of_the_transformers_engine(report, one_thread):
    tokenizer = load_tokenizer(MODEL)
    pairs = likelihood_pairs(tokenizer)
    engine = open_engine("transformers", MODEL, max_model_len=256)
    expected = dict(engine.loglikelihoods(pairs))
    engine.close()
    found = {int(index): tuple(value) for index, value in report["likelihoods"].items()}
    assert found.keys() == expected.keys() == set(range(len(pairs)))
    for index, (logp, _) in expected.items():
        assert found[index][0] == pytest.approx(logp, abs=0.2 + 0.1 * abs(logp))  # both in bfloat16, by other kernels
    for likely, unlikely in ((found[0], found[1]), (expected[0], expected[1])):
        assert likely[1] and not unlikely[1] and likely[0] > unlikely[0] + 2


@pytest.mark.vllm
def test_a_stop_text_ends_a_completion(report):
    assert "3" in report["unstopped"] and "3" not in report["stopped"]


def test_vllm_without_its_environment_is_refused(monkeypatch):
    pytest.importorskip("vllm.version")
    if environment("vllm").get("VLLM_ENABLE_V1_MULTIPROCESSING") is None:
        pytest.skip("not the CPU build")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    with pytest.raises(RuntimeError, match=r"must be set before Python starts, got .*OMP_WAIT_POLICY"):
        open_engine("vllm", MODEL)


def test_a_models_own_decoding_defaults_do_not_reach_the_transformers_engine(tmp_path, one_thread):
    for path in MODEL.iterdir():
        if path.is_file() and path.name != "generation_config.json":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 2, "repetition_penalty": 20.0}')
    prompt = render_prompt(load_tokenizer(MODEL), [{"role": "user", "content": "Repeat the word yes four times."}])
    texts = [next(open_engine("transformers", model).generate([prompt], Sampling(8)))[1][0] for model in (MODEL, tmp_path)]
    assert texts[0] == texts[1]


def test_transformers_engine_agrees_with_itself_however_prompts_are_batched(one_thread):
    tokenizer = load_tokenizer(MODEL)
    prompts = [render_prompt(tokenizer, prompt["messages"]) for prompt in PROMPTS[:3]] + [
        render_prompt(tokenizer, [{"role": "user", "content": "What is the capital of France? Answer in one short sentence."}])
    ]
    engine = open_engine("transformers", MODEL, max_model_len=128)
    together = dict(engine.generate(prompts, Sampling(6)))
    alone = {index: next(engine.generate([prompt], Sampling(6)))[1] for index, prompt in enumerate(prompts)}
    # Padding must not leak; bfloat16 may turn a near tie late in a text, so the beginnings are compared.
    assert all(together[index][0].token_ids[:2] == alone[index][0].token_ids[:2] for index in range(4))
    assert "Paris" in together[3][0].completion

    chosen = dict(engine.generate(prompts[:2], Sampling(16, choices=CHOICES)))
    assert all(chosen[index][0].completion in CHOICES and chosen[index][0].finish_reason == "stop" for index in range(2))

    sampling = Sampling(4, temperature=1.0, n=3)
    texts = []
    for seed in (1, 1, 2):
        engine.reseed(seed)
        texts.append([one.token_ids for _, found in engine.generate(prompts[:2], sampling) for one in found])
    assert texts[0] == texts[1] != texts[2] and len(texts[0]) == 6
    assert dict(engine.generate([[5] * 128], Sampling(4)))[0][0].finish_reason == "prompt_too_long"
    assert dict(engine.generate([[5] * 120], Sampling(16, choices=CHOICES)))[0][0].finish_reason == "prompt_too_long"
    engine.close()
