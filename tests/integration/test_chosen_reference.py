"""A run through the command line whose reference is a smaller model at a temperature, and one without: what is measured from what."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.e2e.conftest import Bnf
from tests.unit.conftest import DEMONSTRATION_MODEL

pytestmark = [pytest.mark.integration]

RECIPE = """
model_name_or_path: tiny
data: {source: pairs, path: mine.jsonl}
prepare: {dev_fraction: 0.25}
train: {global_batch_size: 4, max_tokens_per_row: 256, max_steps: 2, dev_max_new_tokens: 2, dev_prompts: 2, learning_rate: 1e-3}
"""


@pytest.fixture
def bnf(tmp_path: Path) -> Bnf:
    for name, width, seed in (("tiny", 24, 0), ("smaller", 16, 1)):
        model = tmp_path / name
        model.mkdir()
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(DEMONSTRATION_MODEL / file, model)
        torch.manual_seed(seed)
        shape = {"hidden_size": width, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
        config = LlamaConfig(**shape, vocab_size=49152, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(model)
    rows = [json.dumps({"prompt": f"Say {n}.", "chosen": f"{n}", "rejected": f"No. {n} {n}"}) for n in range(16)]
    (tmp_path / "mine.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "mine.yaml").write_text(RECIPE)
    return Bnf(tmp_path)


def keys(run: dict) -> dict[str, str]:
    return {name: task["key"] for name, task in run["tasks"].items()}


def test_shifts_and_kl_are_from_the_base_model_whatever_the_reference_is(bnf: Bnf) -> None:
    plain = bnf.json("run", "mine.yaml")
    chosen = bnf.json("run", "mine.yaml", "reference={model_name_or_path: smaller, temperature: 2}")
    assert "the step-0 check is skipped: the reference is of another model" in bnf.err + "".join(
        path.read_text() for path in bnf.home.rglob("*.log")
    )
    before, after = (keys(bnf.json("show", run["run"])) for run in (plain, chosen))
    assert before["prepare"] == after["prepare"] and before["reference"] == after["reference/base"]
    assert all(before[name] != after[name] for name in ("reference", "train", "analyze", "report"))

    def of(stage: str, run: dict) -> Path:
        return Path(run["folder"]) / "artifacts" / stage

    lines = (of("train", chosen) / "metrics.jsonl").read_text().splitlines()
    first = next(entry for entry in map(json.loads, lines) if "eval_loss" in entry)
    assert first["eval_logps_shift/chosen"] == first["eval_samples/kl"] == 0
    # Against the reference nothing is equal.
    assert first["eval_weights/chosen"] != 1 and first["eval_rewards/chosen"] != 0
    shifts = json.loads((of("analyze", chosen) / "shifts.json").read_text())
    base = json.loads((of("analyze", plain) / "shifts.json").read_text())
    assert shifts["preferred"]["logps_per_token"]["reference"] == base["preferred"]["logps_per_token"]["reference"]
    page = (of("report", chosen) / "report.html").read_text()
    assert "smaller at temperature 2, in the objective" in page and "against the base model, in nats" in page
    assert "before the first step doesn&#39;t hold, and was skipped" in page or "doesn't hold, and was skipped" in page
