"""Entropy and KL of a round's samples, against the same figures from models in memory."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bnf.analysis.policy_divergence import policy_divergence
from bnf.data.groups import Completion, PromptGroup
from bnf.model.loading import load_model
from bnf.training.dev import Sample
from bnf.training.metrics import sample_metrics
from tests.unit.bnf.training import ignore

GROUPS = [
    PromptGroup("a", (5, 6, 7), (Completion((10, 11), 1), Completion((12,), 1))),
    PromptGroup("b", (8,), (Completion((12, 13, 14, 15), 1),)),
]


def test_a_policy_against_another_model(tiny_model_dir: Path, tmp_path: Path) -> None:
    other = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight.mul_(1.3)
    other.save_pretrained(tmp_path / "policy")
    seen: list[tuple[int, int]] = []
    settings = {"max_tokens_per_row": 7, "bf16": False}
    found = policy_divergence(
        GROUPS, tmp_path / "policy", tiny_model_dir, **settings, progress=lambda done, total, note: seen.append((done, total))
    ).to_json()
    samples = [Sample(group.prompt_ids, one.token_ids, True) for group in GROUPS for one in group.completions]
    policy, reference = load_model(tmp_path / "policy"), load_model(tiny_model_dir)
    expected = sample_metrics(samples, policy, nullcontext(reference), bf16=False).to_json()
    assert found["kl"] > 1e-4
    for name in ("kl", "kl_per_token", "entropy"):
        assert found[name] == pytest.approx(expected[f"samples/{name}"], rel=1e-4)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_model_is_not_away_from_itself(tiny_model_dir: Path) -> None:
    found = policy_divergence(GROUPS, tiny_model_dir, tiny_model_dir, max_tokens_per_row=64, bf16=True, progress=ignore)
    assert found.kl == 0 and found.entropy > 0
