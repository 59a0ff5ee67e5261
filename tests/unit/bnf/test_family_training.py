"""What training needs of a family beside exact rows: adapters, samples of dev prompts, and a reference that the policy equals."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from bnf.data.groups import DEV, Completion, PromptGroup, write_groups
from bnf.data.longest import longest_sequence
from bnf.data.packing import Row, pack
from bnf.model.families import is_mixture
from bnf.model.logps import row_logps
from bnf.training.adapters import add_adapter
from bnf.training.checks import check_lengths
from bnf.training.config import TrainConfig
from bnf.training.dev import sample
from tests.unit.bnf.helpers import VOCABULARY, random_groups
from tests.unit.bnf.models import MODELS, configuration, make
from tests.unit.bnf.training import BASE, metrics, run, workplace_of

# One model of each family that is Llama with a difference, and those with a window. Mixtures of experts have tests of their own.
NAMES = [
    name
    for name in MODELS
    if not name.startswith(("llama", "mistral", "qwen", "gemma")) and not is_mixture(configuration(name))
]


@pytest.mark.parametrize("name", NAMES)
def test_all_linear_reaches_every_matrix_but_the_head_and_starts_at_zero(name: str) -> None:
    row = Row(tuple(random_groups(3)), (0, 1, 2))
    expected = row_logps(make(name, torch.float32), row, bf16=True).logps
    model = make(name, torch.float32)
    head = model.get_output_embeddings()
    matrices = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    adapted = add_adapter(model, TrainConfig(**(BASE | {"lora_r": 2, "lora_target_modules": "all-linear"})))
    logps = row_logps(adapted, row, bf16=True).logps
    assert torch.equal(logps, expected)
    logps.sum().backward()
    reached = {n: p.grad for n, p in adapted.named_parameters() if p.grad is not None}
    assert len(reached) == 2 * len(matrices) and all(".lora_" in n for n in reached)
    assert all(gradient.any() for n, gradient in reached.items() if "lora_B" in n)


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_drawn_from_what_packed_rows_compute(name: str) -> None:
    """With a cache and padding to the left: each token is the one in whose share of the packed distribution its number falls."""
    model = make(name, torch.float32)
    model.generation_config.eos_token_id = VOCABULARY - 1
    prompts = [tuple(range(5, 17)), (40, 41, 42), (7,)]
    drawn = sample(model, prompts, max_new_tokens=4, max_tokens=4096, seed=3, bf16=False)
    numbers = torch.rand(len(prompts), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for each, own in zip(drawn, numbers, strict=True):
        for step, token in enumerate(each.token_ids):
            every = tuple(Completion((other,), 1) for other in range(VOCABULARY))
            row = Row((PromptGroup("g", each.prompt_ids + each.token_ids[:step], every),), (0,))
            shares = row_logps(model, row, bf16=False).logps.detach().double().exp().cumsum(0)
            below = float(shares[token - 1]) if token else 0.0
            assert below - 1e-5 <= float(own[step]) <= float(shares[token]) + 1e-5


@pytest.mark.parametrize(("name", "lora_r"), [("phi3_longrope", 0), ("olmo3", 0), ("granite", 4)])
def test_training_begins_at_the_reference_and_learns(name: str, lora_r: int, tiny_model_dir: Path, tmp_path: Path) -> None:
    """The step-0 check is on: it refuses a policy that is not the reference to the bit. The policy loads anywhere."""
    folder = workplace_of(name, tmp_path, bf16=True, tokenizer_of=tiny_model_dir)
    settings = {"num_train_epochs": 2, "lora_r": lora_r, "learning_rate": 1e-2, "gradient_checkpointing": True}
    run(folder, tmp_path / "out", bf16=True, **settings)
    first, *_, last = metrics(tmp_path / "out")
    assert first["rewards/margins"] == 0 and last["rewards/margins"] > 0.1
    before, after = (load_file(path / "model.safetensors") for path in (folder / "model", tmp_path / "out" / "policy"))
    assert before.keys() == after.keys() and any(not torch.equal(before[n], after[n]) for n in before)
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "policy", attn_implementation="eager")
    assert policy.config.model_type == json.loads((folder / "model" / "config.json").read_text())["model_type"]


@pytest.mark.parametrize("name", ["phi3", "olmo2", "smollm3", "granite", "glm4", "cohere", "ministral3"])
def test_how_groups_are_packed_changes_nothing(name: str) -> None:
    """Alone, in rows of several sizes, and in the other order."""
    model, groups = make(name), random_groups(6, most=4)

    def by_group(rows: list[Row]) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for row in rows:
            logps = row_logps(model, row, bf16=False).logps.detach()
            sizes = [sum(len(completion.token_ids) for completion in group.completions) for group in row.groups]
            found |= zip((group.id for group in row.groups), logps.split(sizes), strict=True)
        return found

    packings = [by_group(pack(order, size)) for order in (groups, groups[::-1]) for size in (45, 80, 1000)]
    for one, other in pairwise([*packings, by_group([Row((group,), (0,)) for group in groups])]):
        assert one.keys() == other.keys() == {group.id for group in groups}
        for identity, logps in one.items():
            torch.testing.assert_close(logps, other[identity], rtol=1e-5, atol=1e-6)


def test_the_longest_sequence_of_groups_and_dev_groups(tmp_path: Path) -> None:
    """The longest prompt and the longest completion are of other groups."""
    groups = [
        PromptGroup("a", (1,) * 9, (Completion((2,), 1), Completion((2, 2), -1))),
        PromptGroup("b", (1,) * 3, (Completion((2,) * 7, 1), Completion((2,), -1))),
    ]
    write_groups(tmp_path, groups)
    assert longest_sequence(tmp_path) == 11
    write_groups(tmp_path / DEV, [PromptGroup("c", (1,) * 8, (Completion((2,) * 4, 1),))])
    assert longest_sequence(tmp_path) == 12


def test_sequences_past_longropes_bound_are_found_from_the_folder(tmp_path: Path) -> None:
    for name in ("phi3_longrope", "phi3", "olmo2"):
        make(name).config.save_pretrained(tmp_path / name)
        check_lengths(tmp_path / name, 32)
    check_lengths(tmp_path / "phi3", 33)
    with pytest.raises(ValueError, match=r"must be of at most 32 tokens .* got 33"):
        check_lengths(tmp_path / "phi3_longrope", 33)
