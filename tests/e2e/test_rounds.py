"""On-policy rounds through the same flow: each samples from the policy of the one before, and a kill in between costs nothing."""

import os
import signal

import pytest

from tests.e2e.conftest import Bnf

pytestmark = [pytest.mark.e2e]

WORDS = (
    "flows/recipes/rounds.yaml",
    "sample.engine=transformers",
    "sample.num_prompts=16",
    "sample.held_out_prompts=4",
    "sample.rounds=2",
    "sample.prompts_per_round=8",
    "sample.samples_per_prompt=6",
    "sample.offline_mix=0.25",
    "data={source: pairs, path: data/samples/pairs.jsonl}",
    "train.save_steps=1",
    "evaluation.engine=transformers",
    "evaluation.benchmarks={number_comparison: {limit: 4}}",
)


def test_rounds_go_on_after_a_kill_and_another_round_leaves_them_as_they_are(model, tmp_path):
    bnf = Bnf(tmp_path)
    process = bnf.process("run", *WORDS)
    bnf.wait(process, lambda: len(pointers(bnf, "sample")) >= 2, timeout_s=500)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    bnf.wait_for_no_processes()

    shown = bnf.json("run", *WORDS)
    assert shown["state"] == "completed"
    assert not {"sample/round1", "train/round1", "prepare/offline", "sample/round2"} & bnf.executed()
    first, second = shown["summary"]["rounds"]
    assert first["kl"] == 0 < second["kl"] and first["num_offline"] > 0
    assert first["samples"]["num_samples"] == 48 and first["samples"]["held_out"]["num_samples"] == 24
    assert second["spent"] == {
        "samples": 144,
        "labels": 144,
        "tokens": second["spent"]["tokens"],
        "updates": first["updates"] + second["updates"],
    }
    report = (bnf.home / "state" / "runs" / shown["run"] / "report.html").read_text()
    assert "On-policy samples" in report and "held-out reward" in report

    stages = bnf.json("plan", *WORDS, "sample.rounds=3")["stages"]
    cached = {f"{stage['stage']}/{stage['model']}" for stage in stages if stage["cached"]}
    assert {
        f"{stage}/round{number}" for stage in ("sample", "label", "measure", "prepare", "train") for number in (1, 2)
    } <= cached
    assert "sample/round3" not in cached


def pointers(bnf: Bnf, stage: str) -> list[str]:
    return [path.name for path in (bnf.home / "state" / "artifacts" / stage).glob("*.json")]
