"""Which policies outlast a training that two processes share: as in one process, also after a kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from bnf.training.choosing import policy_after
from bnf.training.config import TrainConfig
from bnf.training.launch import launch
from bnf.training.policies import ADAPTER
from bnf.training.preparation import Folders
from tasks.keys import ROOT
from tests.unit.bnf.test_policies import STEADY
from tests.unit.bnf.training import BASE, ignore, same, weights

pytestmark = pytest.mark.integration

PATIENT: dict[str, Any] = STEADY | {
    **{"eval_steps": 1, "keep_best": "eval_loss", "max_steps": 12, "save_steps": 2, "early_stopping_patience": 2},
    **{"nproc_per_node": 2},
}
ASKED = ["save1", "step11"]


def launched(workplace: Path, output: Path, progress: Any = ignore, **settings: Any) -> dict[str, Any]:
    folders = Folders(workplace / "model", workplace / "groups", workplace / "reference_False", output)
    config = TrainConfig(**(BASE | settings))
    return launch(config, folders, step0_check=True, progress=progress, checkpoints=ASKED).to_json()


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param({"seed": 1}, id="copies", marks=pytest.mark.nightly),
        pytest.param({"seed": 1, "sharding": "full"}, id="shares"),
        pytest.param({"lora_r": 4, "sharding": "full"}, id="adapters in shares", marks=pytest.mark.nightly),
    ],
)
def test_two_processes_keep_what_one_keeps(dev_workplace: Path, tmp_path: Path, kind: dict[str, Any]) -> None:
    settings = PATIENT | kind
    # Killed by -9 with all its processes in the step after the best one, whose evaluation no checkpoint knows yet.
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from tests.integration.test_shared_policies import launched\n"
        "def kill(done, total, note):\n"
        "    if done == 6:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"launched(Path({str(dev_workplace)!r}), Path({str(tmp_path / 'killed')!r}), kill, **{settings!r})\n"
    )
    process = subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT, env=dict(os.environ))
    assert process.returncode == -signal.SIGKILL
    summary = launched(dev_workplace, tmp_path / "killed", **settings)
    kept = summary["kept"]
    assert summary["resumed_from_step"] > 0 and kept["last_step"] == kept["step"] + 2 < 12
    assert summary["policies"] == {"save1": 2, "step11": kept["last_step"]}
    # A training of the same processes that isn't killed, and ends with the best step.
    config = TrainConfig(**(BASE | STEADY | kind | {"nproc_per_node": 2, "max_steps": kept["step"]}))
    place = Folders(*(dev_workplace / name for name in ("model", "groups", "reference_False")), output_dir=tmp_path / "ended")
    launch(config, place, step0_check=True, progress=ignore, checkpoints=["step2"])
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "ended"))
    second = [load_file(policy_after(tmp_path / of, 2) / "model.safetensors") for of in ("killed", "ended")]
    last = load_file(policy_after(tmp_path / "killed", kept["last_step"]) / "model.safetensors")
    assert same(*second) and not same(last, second[0]) and not same(last, weights(tmp_path / "killed"))
    if "lora_r" in kind:
        adapters = [tmp_path / of / ADAPTER / "adapter_model.safetensors" for of in ("killed", "ended")]
        assert same(*map(load_file, adapters))
