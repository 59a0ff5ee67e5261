"""Each kind of input, a few of it in each run of the tests and many at night (docs/reliability.md has the counts)."""

import resource
import time
from collections import Counter

import pytest
import transformers  # noqa: F401 the fixture that reads the tokenizer once looks for it
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.unit.fuzz.target import MODEL, Target
from tests.unit.fuzz.targets import TARGETS

# The longest that one input may take, in seconds of this process.
MOST_CPU_S = 5.0
# By how much the process may grow, in MiB.
MOST_GROWTH_MIB = 1024

pytestmark = pytest.mark.skipif(not MODEL.is_dir(), reason="the demonstration model is not there; make env fetches it")


def fuzz(target: Target, number: int, start: int) -> str:
    """A line of what was drawn and how it fared."""
    fared: Counter[str] = Counter()
    slowest = 0.0
    before = _peak_mib()
    # What the first input has to import and read is no part of its time.
    is_first = True

    @seed(start)
    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        print_blob=False,
    )
    @given(target.strategy)
    def drawn(value: object) -> None:
        nonlocal slowest, is_first
        begun = time.process_time()
        fared[target.check(value)] += 1
        took = time.process_time() - begun
        if not is_first:
            assert took < MOST_CPU_S, f"{took:.1f} s"
            slowest = max(slowest, took)
        is_first = False

    drawn()
    assert _peak_mib() - before < MOST_GROWTH_MIB
    # Of few inputs some may be of one kind alone.
    missing = [word for word in target.fares if word not in fared and number >= target.nightly]
    assert not missing, f"no input of {target.name} is {missing[0]}: {dict(fared)}"
    said = ", ".join(f"{count:,} {word}" for word, count in fared.most_common())
    return f"{target.name}: {fared.total():,} inputs, {said}; the slowest took {slowest:.2f} s"


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_an_input_is_taken_refused_or_on_record(target: Target) -> None:
    fuzz(target, target.quick, 0)


@pytest.mark.nightly
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_so_are_very_many(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    said = fuzz(target, target.nightly, 1)
    with capsys.disabled():
        print(said)


def test_at_night_a_hundred_thousand_are_tried() -> None:
    assert sum(target.nightly for target in TARGETS) >= 100_000
