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
    [{"seed": 1}, {"seed": 1, "sharding": "full"}, {"lora_r": 4, "sharding": "full"}],
    ids=["copies", "shares", "adapters in shares"],
)
def test_two_processes_keep_what_one_keeps(dev_workplace: Path, tmp_path: Path, kind: dict[str, Any]) -> None:
    settings = PATIENT | kind
    whole = launched(dev_workplace, tmp_path / "whole", **settings)
    kept = whole["kept"]
    assert kept["last_step"] == kept["step"] + 2 < 12 and whole["policies"] == {"save1": 2, "step11": kept["last_step"]}
    # A training of the same processes that ends at each step.
    folders = {kept["step"]: tmp_path / "whole" / "policy"}
    folders |= {step: policy_after(tmp_path / "whole", step) for step in whole["policies"].values()}
    ends = {name: value for name, value in settings.items() if name not in ("keep_best", "early_stopping_patience")}
    for step, folder in folders.items():
        output = tmp_path / f"of{step}"
        place = Folders(dev_workplace / "model", dev_workplace / "groups", dev_workplace / "reference_False", output)
        config = TrainConfig(**(BASE | ends | {"max_steps": step, "eval_steps": 100}))
        launch(config, place, step0_check=True, progress=ignore)
        assert same(load_file(folder / "model.safetensors"), weights(output)), step
    if "lora_r" in kind:
        adapters = [tmp_path / of / ADAPTER / "adapter_model.safetensors" for of in ("whole", f"of{kept['step']}")]
        assert same(*map(load_file, adapters))
    # Killed by -9 with all its processes at the last step before its end; the checkpoint before has counted one evaluation.
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from tests.integration.test_shared_policies import launched\n"
        "def kill(done, total, note):\n"
        f"    if done == {kept['last_step']}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"launched(Path({str(dev_workplace)!r}), Path({str(tmp_path / 'killed')!r}), kill, **{settings!r})\n"
    )
    process = subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT, env=dict(os.environ))
    assert process.returncode == -signal.SIGKILL
    again = launched(dev_workplace, tmp_path / "killed", **settings)
    assert (again["kept"], again["policies"]) == (kept, whole["policies"]) and again["resumed_from_step"] > 0
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
