"""Preference pairs from a file, whole and masked, through the same flow."""

import json
from pathlib import Path

import pytest

from bnf.model.digests import model_digest
from tests.e2e.conftest import Bnf

pytestmark = [pytest.mark.e2e]

RECIPE = "flows/recipes/pairs.yaml"
SMALL = ("train.max_steps=2", "evaluation.benchmarks={number_comparison: {limit: 4}}", "evaluation.engine=transformers")


def test_masked_pairs_go_through_the_same_flow(model, shared_api, tmp_path):
    bnf = Bnf(tmp_path, PREFECT_API_URL=shared_api)
    rows = [json.dumps({"prompt": f"Say {n}.", "chosen": f"{n}", "rejected": f"No. {n} {n}"}) for n in range(12)]
    (tmp_path / "mine.jsonl").write_text("\n".join([*rows, "{broken"]) + "\n")
    shown = bnf.json("run", RECIPE, "data.path=mine.jsonl", "prepare.mask_fraction=0.5", *SMALL)
    assert shown["state"] == "completed"
    prepared = bnf.home / "state" / "runs" / shown["run"] / "artifacts" / "prepare"
    groups = [json.loads(line) for line in (prepared / "groups.jsonl").read_text().splitlines()]
    assert sorted(len(group["completions"]) for group in groups) == [1] * 6 + [2] * 6
    ledger = [json.loads(line) for line in (prepared / "ledger.jsonl").read_text().splitlines()]
    assert len(ledger) == 13
    assert {"delta", "delta_ci", "mcnemar_p"} <= set(shown["summary"]["benchmarks"]["number_comparison"])

    folder = shown["policy"]["folder"]
    assert shown["policy"]["serve"].endswith(folder)
    bnf("export", shown["run"], "--to", "my-model")
    assert model_digest(tmp_path / "my-model") == model_digest(Path(folder))
    assert "| number_comparison |" in (tmp_path / "my-model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train.objective=dpoo",), "did you mean dpo or "),
        (("train.objective=dpo",), "prepare.pairing must be best_worst or all for dpo, got none"),
        (("data.path=nowhere.jsonl",), "nowhere.jsonl must exist"),
        (("evaluation.benchmarks=[gsm9k]",), "did you mean gsm8k?"),
        (("model_name_or_path=models/none",), "models/none must exist"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_runs(model, tmp_path, words, message):
    bnf = Bnf(tmp_path)
    bnf("run", RECIPE, *words, code=2)
    assert message in bnf.err and "Traceback" not in bnf.err
    assert not (tmp_path / "state" / "runs").exists()


def test_a_benchmark_file_of_the_wrong_form_is_refused_with_its_line(model, tmp_path):
    bnf = Bnf(tmp_path)
    (tmp_path / "gsm.jsonl").write_text('{"quest": "?"}\n')
    bnf("run", RECIPE, "evaluation.benchmarks={gsm8k: {source: gsm.jsonl}}", code=2)
    assert "evaluation.benchmarks.gsm8k.source" in bnf.err and "Traceback" not in bnf.err


def test_any_model_folder_can_be_evaluated(model, shared_api, tmp_path):
    bnf = Bnf(tmp_path, PREFECT_API_URL=shared_api)
    small = ("evaluation.benchmarks={number_comparison: {limit: 4}}", "evaluation.engine=transformers")
    shown = bnf.json("evaluate", str(model), *small)
    entry = shown["summary"]["benchmarks"]["number_comparison"]
    assert entry["base"]["n"] == 4 and "aligned" not in entry
    bnf("evaluate", str(model), "train.learning_rate=1", code=2)
    assert "evaluate must change keys of evaluation, judge, spending, resources, ray alone" in bnf.err
    bnf("evaluate", "no-such-run", code=2)
    assert "RUN must be a run of" in bnf.err
