"""What is exported, and how an export is read."""

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from flows.commands.exporting import export

# Where an active environment has its programs.
PROGRAMS = Path(sys.executable).parent


def lora(base: Path, folder: Path) -> tuple[Path, Path]:
    """A merged policy and the adapter that was merged, as training leaves them."""
    torch.manual_seed(1)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(r=12, target_modules="all-linear", init_lora_weights=False),
    )
    adapted.save_pretrained(folder / "adapter")
    merged: Any = adapted.merge_and_unload()
    merged.save_pretrained(folder / "policy")
    for file in base.glob("tokenizer*"):
        shutil.copy(file, folder / "policy")
    return folder / "policy", folder / "adapter"


def front_matter(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "README.md").read_text().split("---")[1])


def exported(run: str, to: str = "out", **options: Any) -> Path:
    export(run, to, **{"adapter": False, "hub_id": None, "as_json": False, **options})
    return Path(to).absolute()
