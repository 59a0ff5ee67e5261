"""What trainings of the tiny model start from."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bnf.data.groups import DEV, write_groups
from bnf.reference.cache import cache_reference
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.training import ignore


@pytest.fixture(scope="session")
def workplace(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model in float32, 24 groups, and their reference."""
    folder = tmp_path_factory.mktemp("training")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    model.save_pretrained(folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "model" / name).write_bytes((tiny_model_dir / name).read_bytes())
    write_groups(folder / "groups", random_groups(24))
    for bf16 in (True, False):
        cache_reference(
            folder / "model", folder / "groups", folder / f"reference_{bf16}", max_tokens_per_row=48, bf16=bf16, progress=ignore
        )
    return folder


@pytest.fixture(scope="session")
def dev_workplace(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with 8 dev groups beside them, and a reference for every objective."""
    folder = tmp_path_factory.mktemp("training_with_dev")
    (folder / "model").symlink_to(workplace / "model")
    write_groups(folder / "groups", random_groups(24))
    write_groups(folder / "groups" / DEV, random_groups(8, seed=1))
    cache_reference(
        folder / "model",
        folder / "groups",
        folder / "reference_False",
        max_tokens_per_row=48,
        bf16=False,
        kl_pairs=True,
        progress=ignore,
    )
    return folder
