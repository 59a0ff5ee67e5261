"""Families whose parts need more than decoder layers do: buffers in files, and parts that text doesn't pass through."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bnf.data.groups import write_groups
from bnf.model.loading import saved_buffers
from bnf.reference.cache import cache_reference
from tests.integration.test_parallel_training import closeness
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.models import make
from tests.unit.bnf.training import ignore, run

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = {"global_batch_size": 24, "max_steps": 4, "save_steps": 2, "learning_rate": 0.003}
FULL: dict[str, Any] = {**SETTINGS, "sharding": "full", "nproc_per_node": 2}


class Stopped(Exception):
    pass


def stop(done: int, total: int, note: str) -> None:
    if done == 3:
        raise Stopped


def workplace_of(name: str, tiny_model_dir: Path, folder: Path) -> Path:
    """A folder with a model of this family, 24 groups, and their reference."""
    model = make(name, torch.float32, attention="sdpa")
    for _, buffer in saved_buffers(model):
        # Another value than the configuration's.
        buffer *= 1.5
    model.save_pretrained(folder / "model")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "model" / file).write_bytes((tiny_model_dir / file).read_bytes())
    write_groups(folder / "groups", random_groups(24))
    reference_dir = folder / "reference_False"
    cache_reference(folder / "model", folder / "groups", reference_dir, max_tokens_per_row=48, bf16=False, progress=ignore)
    return folder


@pytest.mark.parametrize("name", ["apertus", "gemma3"])
def test_a_stopped_training_goes_on_in_shares(name: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    place = workplace_of(name, tiny_model_dir, tmp_path)
    run(place, tmp_path / "one", **SETTINGS)
    with pytest.raises(Stopped):
        run(place, tmp_path / "shares", stop, **FULL)
    assert run(place, tmp_path / "shares", **FULL)["resumed_from_step"] == 2
    closeness(tmp_path / "one", tmp_path / "shares")
    before, after = (AutoModelForCausalLM.from_pretrained(path) for path in (place / "model", tmp_path / "shares" / "policy"))
    buffers = [[(each, buffer.tolist()) for each, buffer in saved_buffers(model)] for model in (before, after)]
    assert buffers[0] == buffers[1] and bool(buffers[0]) == (name == "apertus")


def test_processes_wait_for_no_gradient_of_a_vision_tower(tiny_model_dir: Path, tmp_path: Path) -> None:
    place = workplace_of("gemma3", tiny_model_dir, tmp_path)
    run(place, tmp_path / "one", **SETTINGS)
    run(place, tmp_path / "two", **SETTINGS, nproc_per_node=2)
    closeness(tmp_path / "one", tmp_path / "two")


def test_a_sharded_model_gives_its_memory_to_the_next(tmp_path: Path) -> None:
    """Its units hold one another, so that its last reference doesn't free it; the collector comes by too late."""
    make("llama", torch.float32).save_pretrained(tmp_path)
    script = (
        "import gc, sys, weakref\n"
        "from pathlib import Path\n"
        "from bnf.model.sharding import load_sharded\n"
        "from bnf.parallel.group import meet\n"
        "from bnf.parallel.placement import Placement\n"
        "meet()\n"
        "gc.disable()\n"
        "model = load_sharded(Path(sys.argv[1]), Placement(sharding='full'))\n"
        "held = weakref.ref(next(model.parameters()))\n"
        "del model\n"
        "load_sharded(Path(sys.argv[1]), Placement(sharding='full'))\n"
        "assert held() is None\n"
    )
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, cwd=ROOT, env=os.environ | alone)
