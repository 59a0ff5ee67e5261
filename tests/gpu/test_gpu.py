"""The checks of `tests/gpu/check.sh` as tests, for a CUDA machine that has pytest: `python -m pytest -m gpu tests/gpu`."""

import pytest
import torch

from tests.gpu.check import PARTS
from tests.gpu.checks import Check, Device, Skipped
from tests.gpu.part import of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CHECKS = {f"{part}: {check.name}": check for part in PARTS for check in of(part, Device("cuda"))}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
def test_check(check: Check) -> None:
    try:
        check.run()
    except Skipped as reason:
        pytest.skip(str(reason))
