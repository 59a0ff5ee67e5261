"""QLoRA of the demonstration model on real prompts: the first step is the reference, the loss falls, and the policy is a plain folder."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from bnf.data.groups import Completion, PromptGroup, write_groups
from bnf.data.packing import pack
from bnf.model.loading import load_model
from bnf.model.logps import row_logps
from bnf.reference.cache import cache_reference
from tasks.keys import ROOT
from tests.unit.bnf.training import ignore, metrics, run

pytestmark = pytest.mark.integration
pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct"
PAIRS = (
    ("What is the capital of France?", "Paris.", "I would rather not say."),
    ("2 + 2 =", "4", "22"),
    ("Name a colour of the rainbow.", "Green.", "Brown, I think, or maybe pink."),
    ("Is water wet?", "Yes.", "Bananas are yellow."),
)


def test_a_real_model_learns_in_4_bits(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    groups = [
        PromptGroup(
            f"g{number}",
            tuple(tokenizer(prompt)["input_ids"]),
            tuple(Completion(tuple(tokenizer(f" {text}")["input_ids"]), label) for text, label in ((good, 1), (bad, -1))),
            ((0, 1),),
        )
        for number, (prompt, good, bad) in enumerate(PAIRS)
    ]
    write_groups(tmp_path / "groups", groups)
    (tmp_path / "model").symlink_to(MODEL)
    rows = {"max_tokens_per_row": 128, "bf16": True, "load_in_4bit": True}
    cache_reference(tmp_path / "model", tmp_path / "groups", tmp_path / "reference_True", progress=ignore, **rows)
    settings = rows | {"objective": "dpo", "lora_r": 8, "learning_rate": 1e-3, "global_batch_size": 4, "max_steps": 4}
    run(tmp_path, tmp_path / "out", **settings)
    losses = [entry["loss"] for entry in metrics(tmp_path / "out") if "loss" in entry]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6) and losses[-1] < 0.5

    # In float32, so that only the policy's own dtype, bf16, lies between it and what was trained.
    from peft import PeftModel

    [row] = pack(groups, 128)
    trained = PeftModel.from_pretrained(load_model(MODEL, load_in_4bit=True), tmp_path / "out" / "adapter_checkpoint").eval()
    policy, original = load_model(tmp_path / "out" / "policy").eval(), load_model(MODEL).eval()
    with torch.no_grad():
        expected, found, base = (row_logps(model, row, bf16=False).logps for model in (trained, policy, original))
    assert (found - expected).abs().mean() < 0.05 < (base - expected).abs().mean()
