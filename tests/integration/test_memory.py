"""The estimate against the real peak of trainings on a CPU (`python -m tests.performance.memory` has more of them)."""

import pytest

from tests.performance.memory import Case, measure

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "case",
    [Case("middle", 3, {}), pytest.param(Case("middle", 3, {"lora_r": 16, "bf16": False}), marks=pytest.mark.nightly)],
    ids=lambda case: case.name,
)
def test_the_estimate_is_within_15_percent_of_the_peak(tmp_path, case):
    assert measure(case, tmp_path)["ratio"] == pytest.approx(1, abs=0.15)
