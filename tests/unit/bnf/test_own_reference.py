"""A reference that another kind of device made: the training computes its own, and says so, instead of failing."""

import json
import sys
from pathlib import Path

import pytest
import torch

from bnf.analysis.likelihood_shift import likelihood_shift
from bnf.model import device
from bnf.reference.cache import cache_reference
from bnf.reference.index import made_elsewhere
from tests.unit.bnf.training import ignore, metrics, run, same, weights

ON_CUDA = 2**27


@pytest.fixture
def elsewhere(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workplace with a reference as CUDA would have made it."""
    for name in ("model", "groups"):
        (tmp_path / name).symlink_to(workplace / name)
    with monkeypatch.context() as there:
        there.setattr("bnf.reference.index.logits_budget", lambda: ON_CUDA)
        arguments = {"max_tokens_per_row": 48, "bf16": False, "progress": ignore}
        cache_reference(workplace / "model", workplace / "groups", tmp_path / "reference_False", **arguments)
    return tmp_path


def test_training_computes_its_own(elsewhere: Path, workplace: Path) -> None:
    assert made_elsewhere(elsewhere / "reference_False") == f"head_logits {ON_CUDA}, here {2**25}"
    assert made_elsewhere(workplace / "reference_False") is None
    summary = run(elsewhere, elsewhere / "out")
    assert summary["reference_made_elsewhere"] == f"head_logits {ON_CUDA}, here {2**25}"
    assert summary["reference_mismatch"] is None
    run(workplace, elsewhere / "here")
    assert same(weights(elsewhere / "out"), weights(elsewhere / "here"))
    assert metrics(elsewhere / "out")[0]["weights/chosen"] == 1
    assert not (elsewhere / "out" / "own_reference").exists() and not list((elsewhere / "out").glob("reference_mismatch*"))


def test_a_later_round_computes_that_of_its_reference_model(elsewhere: Path, workplace: Path) -> None:
    """The policy starts elsewhere than the reference, and is not taken for it."""
    run(workplace, elsewhere / "before", seed=3)
    shared = {"check": False, "reference_model_dir": workplace / "model"}
    for name, reference in (("there", elsewhere / "reference_False"), ("here", workplace / "reference_False")):
        folder = elsewhere / f"round_{name}"
        folder.mkdir()
        (folder / "model").symlink_to(elsewhere / "before" / "policy")
        (folder / "groups").symlink_to(workplace / "groups")
        (folder / "reference_False").symlink_to(reference)
        run(folder, elsewhere / name, **shared)
    assert same(weights(elsewhere / "there"), weights(elsewhere / "here"))


def test_what_cannot_be_computed_again_says_so(elsewhere: Path, workplace: Path) -> None:
    run(workplace, elsewhere / "before", seed=3)
    (elsewhere / "model").unlink()
    (elsewhere / "model").symlink_to(elsewhere / "before" / "policy")
    with pytest.raises(
        ValueError, match=r"reference_dir must be of this kind of device, got .* and of other weights than .*; name"
    ):
        run(elsewhere, elsewhere / "out", check=False)


def test_an_analysis_takes_values_that_are_near(elsewhere: Path, tmp_path: Path) -> None:
    arguments = {"max_tokens_per_row": 48, "bf16": False, "progress": ignore}
    shifts = likelihood_shift(
        elsewhere / "model", elsewhere / "groups", elsewhere / "reference_False", tmp_path / "shifts", **arguments
    )
    assert shifts.preferred is not None and shifts.preferred.tokens > 0


@pytest.fixture
def fresh() -> None:
    device.device_kind.cache_clear()


def test_the_kind_of_device_is_torchs_own_answer(fresh: None) -> None:
    assert device.device_kind() == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("cuda", "devices", "kind"),
    [("'12.8'", 2, "cuda"), ("'12.8'", 0, "cpu"), ("None", 2, "cpu")],
    ids=["both", "driver", "build"],
)
def test_a_build_for_cuda_and_a_device_make_it_cuda(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda: str, devices: int, kind: str
) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "version.py").write_text(
        f"from typing import Optional\n__version__ = '2'\ncuda: Optional[str] = {cuda}\nhip = '1'\n"
    )
    monkeypatch.setattr(
        device.importlib.util, "find_spec", lambda name: type("Spec", (), {"origin": str(package / "__init__.py")})
    )
    monkeypatch.setattr(device, "_num_devices", lambda: devices)
    assert device.device_kind() == kind
    device.device_kind.cache_clear()


def test_torch_is_not_imported_for_it() -> None:
    import subprocess

    code = "import sys\nfrom bnf.model.device import device_kind\ndevice_kind()\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_note_is_whole_or_not_there(tmp_path: Path) -> None:
    from bnf.training.own_reference import Mismatch, note_mismatch, noted_mismatch

    assert noted_mismatch(tmp_path) is None
    for mismatch in (Mismatch(0.5), Mismatch(elsewhere="head_logits 1, here 2")):
        note_mismatch(tmp_path, mismatch)
        assert noted_mismatch(tmp_path) == mismatch
    assert json.loads((tmp_path / "reference_mismatch.json").read_text())["mean_weight"] is None
