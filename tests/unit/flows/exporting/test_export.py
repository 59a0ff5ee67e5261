"""A run's policy given away: what loads it, what the card says, and what no export may do to the artifact."""

import fcntl
import json
import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from flows.commands import exporting
from flows.errors import RecipeError
from flows.recipe.config import load_recipe
from flows.runs.policy import policy_lines, shown_policy
from tasks.keys import ROOT
from tasks.manifest import file_sha256
from tasks.remote import Remote
from tasks.store import Store
from tests.unit.flows.exporting.exports import exported, front_matter, lora
from tests.unit.flows.policy_runs import policy_run


def test_the_export_is_the_policy_and_edits_to_it_leave_the_artifact_alone(home, base, tmp_path):
    policy, adapter = lora(base, tmp_path)
    run = policy_run(home, base, policy=policy, adapter=adapter, train={"lora_r": 12})
    out = exported(run.id)
    ids = torch.tensor([[5, 17, 80, 3]])
    of_export, of_policy = (AutoModelForCausalLM.from_pretrained(folder) for folder in (out, policy))
    assert torch.equal(of_export(ids).logits, of_policy(ids).logits)
    assert AutoTokenizer.from_pretrained(out)("w3 w4")["input_ids"] == [3, 4]
    assert {path.name for path in out.iterdir()} == {
        *{"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"},
        *{"README.md", "recipe.yaml", "LICENSE"},
    }
    with (out / "model.safetensors").open("r+b") as file:
        file.write(b"edited!!")
    assert Store(home / "artifacts", verify=True).damage(run.artifacts["train"]) is None


def test_the_adapter_alone_stands_beside_the_base_model(home, base, tmp_path):
    policy, adapter = lora(base, tmp_path)
    run = policy_run(home, base, policy=policy, adapter=adapter, train={"lora_r": 12})
    out = exported(run.id, adapter=True)
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    ids = torch.tensor([[5, 17, 80, 3]])
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), out)
    merged = AutoModelForCausalLM.from_pretrained(policy)
    torch.testing.assert_close(adapted(ids).logits, merged(ids).logits, rtol=1e-4, atol=1e-4)
    matter = front_matter(out)
    assert matter["library_name"] == "peft" and "lora" in matter["tags"]
    # vLLM makes room for ranks of 8, 16, 32, …
    assert (
        f"vllm serve PATH/TO/{base.name} --enable-lora --max-lora-rank 16 --lora-modules aligned=out"
        in (out / "README.md").read_text()
    )


def test_without_an_adapter_of_the_base_model_none_is_exported(home, base, tmp_path):
    run = policy_run(home, base)
    with pytest.raises(
        RecipeError, match="--adapter must find a LoRA adapter of the base model, got none; leave --adapter out"
    ):
        exported(run.id, adapter=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["file", "folder with a file", "link"])
def test_what_is_there_stays(home, base, tmp_path, what):
    run, out = policy_run(home, base), tmp_path / "out"
    if what == "file":
        out.write_text("mine")
    elif what == "link":
        out.symlink_to(tmp_path / "nowhere")
    else:
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    with pytest.raises(RecipeError, match=r"--to must be a new or an empty folder, got .*/out, which holds something"):
        exported(run.id)
    assert out.is_symlink() or (out if out.is_file() else out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("", "--to must name a new folder, got ''"),
        ("/", "--to must be a new or an empty folder, got /, which holds something"),
        (
            "/proc/none/x",
            r"--to must be a folder that can be made, got /proc/none/x \(No such file or directory\); name another",
        ),
        ("bad\udcff", r"--to must be a path that UTF-8 can write, got 'bad\\udcff'"),
        ("x" * 250, r"--to must be a path that the disk takes, got 'x+' \(File name too long\)"),
        ("base-model/LICENSE/x", r"--to must be a folder that can be made, got .*, where .*/LICENSE is a file; name another"),
    ],
)
def test_what_can_be_no_folder_is_refused(home, base, to, message):
    with pytest.raises(RecipeError, match=message):
        exported(policy_run(home, base).id, to)


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE.txt"])
def test_a_licence_that_leads_to_another_file_of_this_machine_is_not_given_away(home, base, tmp_path, name):
    run = policy_run(home, base)
    (secret := tmp_path / "id_ed25519").write_text("a key of this machine")
    (base / name).unlink(missing_ok=True)
    (base / name).symlink_to(secret)
    with pytest.raises(
        RecipeError, match=f"must have a licence of its own to give away, got {name}, a link to .*id_ed25519; put a copy"
    ):
        exported(run.id, "given-away")
    assert not Path("given-away").exists()
    (base / name).unlink()
    (base / name).write_text("a licence")
    assert (exported(run.id, "given-away") / name).read_text() == "a licence"


def test_a_mount_point_is_refused_before_anything_is_copied(home, base, tmp_path, monkeypatch):
    run = policy_run(home, base)
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path).name == "disk")
    with pytest.raises(RecipeError, match=r"--to must be a folder inside a file system, got .*/disk, .* write .*/disk/NAME"):
        exported(run.id, "disk")


def test_the_export_says_its_place_as_it_is_written_here(home, base, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exported(policy_run(home, base).id, "mine")
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith(": mine") and said[1] == "card    mine/README.md"


def test_an_empty_folder_is_filled(home, base, tmp_path):
    (tmp_path / "out").mkdir()
    assert (exported(policy_run(home, base).id) / "config.json").exists()


def test_the_home_is_no_place_for_exports(home, base):
    run = policy_run(home, base)
    with pytest.raises(RecipeError, match="--to must be outside the home"):
        exported(run.id, str(home / "artifacts" / "train" / "mine"))


def test_a_killed_export_leaves_no_folder_of_that_name_and_the_next_one_starts_anew(home, base, tmp_path):
    run = policy_run(home, base)
    if (child := os.fork()) == 0:
        exporting.model_card = lambda facts: os.kill(os.getpid(), signal.SIGKILL)
        exported(run.id)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "out").exists() and (tmp_path / ".out.bnf-export" / "model.safetensors").exists()
    (tmp_path / ".out.bnf-export" / "left").write_text("of the first try")
    out = exported(run.id)
    assert (out / "README.md").exists() and not (out / "left").exists() and not (tmp_path / ".out.bnf-export").exists()


@pytest.mark.parametrize("when", ["writes", "has written", "gave up"])
def test_of_two_exports_into_one_folder_one_is_refused_with_a_reason(tmp_path, monkeypatch, when):
    """Another export's folder gets its name, or goes, between this one's look at it and its lock."""
    target, partial, flock = tmp_path / "out", tmp_path / ".out.bnf-export", fcntl.flock
    partial.mkdir()
    (partial / "model.safetensors").write_text("of the other")

    def other_first(handle: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        if when == "writes":
            raise BlockingIOError
        if when == "has written":
            partial.rename(target)
        else:
            shutil.rmtree(partial)
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", other_first)
    if when == "gave up":
        with exporting._new_folder(target) as folder:
            (folder / "model.safetensors").write_text("of this one")
    else:
        said = {"writes": "--to must be one export's alone, got .*/out, which another is writing; wait for it"}
        with (
            pytest.raises(RecipeError, match=said.get(when, "--to must be a new or an empty folder, got .*/out, which holds")),
            exporting._new_folder(target),
        ):
            pytest.fail("it is the other's")
    left = {"writes": partial, "has written": target, "gave up": target}[when]
    assert [path.name for path in tmp_path.iterdir()] == [left.name]
    assert (left / "model.safetensors").read_text() == ("of this one" if when == "gave up" else "of the other")


def test_an_export_that_fails_takes_its_part_away(home, base, tmp_path, monkeypatch):
    run = policy_run(home, base)
    weights = run.artifacts["train"].path / "policy" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # what a disk did: the size is right
    weights.write_bytes(content)
    with pytest.raises(RecipeError, match=r"model.safetensors must have sha256 [0-9a-f]+, got another"):
        exported(run.id)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_a_policy_comes_from_the_shared_store(home, base, tmp_path, monkeypatch):
    url = f"file://{tmp_path}/shared"
    run = policy_run(home, base, store=Store(home / "artifacts", Remote(url)))
    artifact = run.artifacts["train"].path
    digest = file_sha256(artifact / "policy" / "model.safetensors")
    shutil.rmtree(artifact)
    assert shown_policy(run) is None and "BNF_STORE" in policy_lines(run)[0]
    with pytest.raises(RecipeError, match=r"must have its policy, got a damaged one .* set BNF_STORE"):
        exported(run.id)
    monkeypatch.setenv("BNF_STORE", url)
    assert file_sha256(exported(run.id) / "model.safetensors") == digest


RESULTS = {
    "benchmarks": {},
    "train": None,
    "judges": {},
    "lm_eval": {},
    "contamination": {},
    "stages": [],
    "data": {"num_groups": 5, "num_preferred": 4, "num_dispreferred": 3},
}


def scored_summary() -> dict[str, Any]:
    sides = {"n": 10, "n_expected": 10, "n_benchmark": 10, "partial": False, "no_answer": 0.0, "accuracy_of_present": 40.0}
    return {
        **RESULTS,
        "benchmarks": {
            "gsm8k": {
                **{"source": "hub", "title": "GSM8K", "n_benchmark": 10, "delta": 20.0, "delta_ci": [1.0, 39.0]},
                **{"verdict": "gain", "mcnemar_p_holm": 0.04, "n_paired": 10},
                "base": {**sides, "accuracy": 40.0, "ci": [1.0, 99.0]},
                "aligned": {**sides, "accuracy": 60.0, "ci": [1.0, 99.0]},
            }
        },
    }


def test_the_card_has_results_data_licence_and_the_way_to_make_it_again(home, base, tmp_path):
    run = policy_run(home, base, summary=scored_summary(), seed=7)
    out = exported(run.id)
    card = (out / "README.md").read_text()
    assert "| gsm8k | 40.0 | 60.0 | +20.0 [+1.0, +39.0] | gain | 0.040 |" in card
    assert f"| pairs | mine.jsonl | {'5' * 64} |" in card and "5 prompt groups with 4 preferred" in card
    assert front_matter(out)["license"] == "llama3" and "base-model`: llama3." in card
    assert re.search(r"git checkout [0-9a-f]{40}    # bnf \d", card) or not (ROOT / ".git").exists()
    # transformers 5 returns a mapping by itself, 4 only when it is asked for one.
    assert "return_dict=True" in card and "generate(**ids" in card
    assert "changed since: bnf." in card and "bnf run recipe.yaml" in card and run.id in card
    # Nothing of it says where it was made.
    assert str(tmp_path) not in card and str(tmp_path) not in (out / "recipe.yaml").read_text()
    assert "\nseed: 7\n" in card and "global_batch_size" not in card


def test_the_recipe_of_an_export_runs_with_its_data_beside_it(home, base, tmp_path):
    out = exported(policy_run(home, base, seed=7, prepare={"mask_fraction": 0.5}).id)
    (out / "mine.jsonl").write_text("{}")
    recipe = load_recipe(str(out / "recipe.yaml"))
    assert (recipe.seed, recipe.prepare.mask_fraction) == (7, 0.5)
    assert recipe.sources()[0].path == str(out / "mine.jsonl")


def test_a_base_model_of_the_hub_is_named_as_the_hub_names_it(home, base, monkeypatch):
    hub = {"model_name_or_path": "owner/name", "revision": "v1", "train": {"lora_r": 12, "objective": "dpo"}}
    asked = []

    def model_info(self, name, *, timeout):
        asked.append((name, timeout))
        return SimpleNamespace(card_data=SimpleNamespace(license="other", license_name="terms", license_link="LINK"))

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    (base / "README.md").unlink()
    run = policy_run(home, base, adapter=lora(base, home)[1], prepare={"pairing": "all"}, **hub)
    matter = front_matter(exported(run.id, adapter=True))
    assert matter == {
        **{"base_model": "owner/name", "base_model_relation": "adapter", "library_name": "peft"},
        **{"license": "other", "license_name": "terms", "license_link": "LINK"},
        **{"pipeline_tag": "text-generation", "tags": ["bnf", "dpo", "alignment", "lora"]},
    }
    config = json.loads(Path("out/adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/name", "v1") and asked == [("owner/name", 10.0)]


def test_the_working_folder_is_not_replaced_below_whoever_works_there(home, base, tmp_path, monkeypatch):
    run = policy_run(home, base)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(RecipeError, match=r"--to must be another folder than the working folder, got .*; write .*/empty/NAME"):
        exported(run.id, ".")
    assert Path.cwd().exists() and (exported(run.id, "mine") / "config.json").exists()
