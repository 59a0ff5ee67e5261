"""A sweep through the command line, with a tiny model: killed and finished, with settings chosen, and with runs that fail."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evaluation.report.study_results import Cell, StudyResults
from flows.commands import studying
from flows.recipe import studies
from tests.e2e.conftest import Bnf
from tests.unit.conftest import DEMONSTRATION_MODEL

pytestmark = [pytest.mark.integration]

BASE = """
model_name_or_path: tiny
data: {source: pairs, path: mine.jsonl}
prepare: {dev_fraction: 0.25}
train: {global_batch_size: 4, max_tokens_per_row: 256, max_steps: 1, dev_max_new_tokens: 2, dev_prompts: 2, eval_steps: 1}
evaluation: {engine: transformers, max_new_tokens: 2, benchmarks: {number_comparison: {limit: 4}}}
"""
# The groups of a broken run's data don't fit into its rows: found in the midst of the run, once the data are there.
SWEEP = """
base: base.yaml
sweep:
  variant: [{name: whole}, {name: broken, train.max_tokens_per_row: 8}]
  train.learning_rate: [1e-4, 1e-3]
select: {on: dev, by: eval_loss, over: [train.learning_rate]}
"""


@pytest.fixture
def bnf(tmp_path) -> Bnf:
    model = tmp_path / "tiny"
    model.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMONSTRATION_MODEL / file, model)
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
    config = LlamaConfig(**shape, vocab_size=49152, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(model)
    rows = [json.dumps({"prompt": f"Say {n}.", "chosen": f"{n}", "rejected": f"No. {n} {n}"}) for n in range(16)]
    (tmp_path / "mine.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "small.yaml").write_text(SWEEP)
    return Bnf(tmp_path)


def runs_of(bnf: Bnf) -> dict[str, dict]:
    return {run["name"]: run for run in json.loads(record(bnf).read_text())["runs"]}


def record(bnf: Bnf) -> Path:
    return bnf.home / "state" / "sweeps" / "small" / "sweep.json"


def trainings(bnf: Bnf) -> set[str]:
    return {path.parent.name for path in (bnf.home / "state" / "artifacts" / "train").glob("*/manifest.json")}


def test_a_killed_sweep_is_finished_by_the_same_command_and_chooses_before_it_evaluates(bnf):
    first = "small-whole-lr0.0001"
    process = bnf.process("sweep", "small.yaml")
    bnf.wait(process, lambda: record(bnf).exists())
    bnf("sweep", "small.yaml", code=2)
    assert "name must be another than that of a sweep at work" in bnf.err
    bnf.wait(process, lambda: runs_of(bnf)[first]["state"] == "completed")
    process.kill()
    process.communicate(timeout=60)
    bnf.wait_for_no_processes()
    before = trainings(bnf)
    num_complete = sum(run["state"] == "completed" for run in runs_of(bnf).values())
    [run_before] = runs_of(bnf)[first]["runs"]

    found = bnf.json("sweep", "small.yaml", code=1)
    assert f"{num_complete} of 4 runs are complete already" in bnf.err
    assert runs_of(bnf)[first]["runs"][0] == run_before, "it isn't trained again"
    assert before <= trainings(bnf) and len(trainings(bnf)) == 2
    assert [one["settings"]["variant"] for one in found["runs"]] == ["whole"] * 2
    assert {one["settings"]["variant"]: one["why"].split(",")[0] for one in found["failed"]}.keys() == {"broken"}
    assert all("max_tokens_per_row" in one["why"] for one in found["failed"])
    for file in (found["results"], found["page"]):
        assert Path(file).stat().st_size

    [choice] = json.loads(record(bnf).read_text())["chosen"]
    means = {one["settings"]["train.learning_rate"]: one["mean"] for one in choice["candidates"]}
    assert len(means) == 2 and choice["settings"]["train.learning_rate"] == min(means, key=means.get)
    stages = {
        one["settings"]["train.learning_rate"]: {name.split("/")[0] for name in bnf.json("show", one["run"])["tasks"]}
        for one in found["runs"]
    }
    evaluated = {rate for rate, names in stages.items() if "generate" in names}
    assert evaluated == {choice["settings"]["train.learning_rate"]}, (
        "the other settings are trained and looked at on the dev set alone"
    )

    listed = bnf.json("runs")["runs"]
    assert {run["sweep"] for run in listed} == {"small"}
    again = bnf.json("sweep", "small.yaml", code=1)
    assert again["runs"] == found["runs"], "what is complete is taken as it is"

    # No check is passed any more, as after the machine was changed: what is complete is shown all the same.
    page = Path(found["page"])
    page.unlink()
    changed = bnf.json("sweep", "small.yaml", "resources.devices=99", code=1)
    assert changed["runs"] == found["runs"] and page.stat().st_size
    assert all("resources.devices must be at most" in one["why"] for one in changed["failed"])


STUDY = """
base: base.yaml
study:
  title: Rates
  question: What does a wild learning rate do?
  design: [Two rates.]
  columns: [gain, tax, delta, eval_loss, kl, tokens, chosen_shift, rejected_shift, collapsed, grad_norm, loss_std, gini]
sweep:
  train.learning_rate: [1e-3, 100.0]
  # Preferred completions far below the reference at two evaluations.
  train.max_steps: [3]
"""


def test_a_study_tells_a_collapse_and_its_page_needs_its_folder_alone(bnf, monkeypatch):
    (bnf.home / "rates.yaml").write_text(STUDY)
    swept = bnf.json("sweep", "rates.yaml", code=1)
    [failed] = swept["failed"]
    assert failed["settings"]["train.learning_rate"] == 100 and "must stay within 1 nat per token" in failed["why"]
    folder = Path(swept["results"]).parent
    # Without anything of the runs, and without one: a collapse would come again.
    state = bnf.home / "state"
    for name in ("runs", "artifacts"):
        (state / name).rename(state / f"{name}-away")
    monkeypatch.setenv("BNF_HOME", str(state))
    monkeypatch.setattr(studies, "FOLDER", bnf.home)
    monkeypatch.setattr(studying, "ROOT", bnf.home)
    monkeypatch.setattr(studying, "run_sweep", lambda *words, **more: pytest.fail("a complete study isn't run"))
    assert studying.study("rates", write_page=True, as_json=False) == 1
    page = (bnf.home / "docs" / "results" / "rates.md").read_text()
    found = StudyResults.read(folder)
    assert found is not None and found.made.seconds > 0 and "torch" in found.made.versions
    good, wild = found.rows
    assert dict(wild.cells) == {"collapsed": Cell(100, None, 1)} and "1 collapsed" in page
    # Two of three steps are too few for the spread of a loss.
    expected = {"tax", "eval_loss", "kl", "tokens", "chosen_shift", "rejected_shift", "collapsed", "grad_norm", "gini"}
    assert expected <= good.cells.keys() and "loss_std" not in good.cells
    assert 0 < good.cells["gini"].mean < 1 and good.cells["grad_norm"].mean > 0
    assert (bnf.home / "docs" / "images" / "rates.svg").read_text().startswith("<svg")
