"""The learning rate of every step: hand-computed, as the optimizer is given it, as it is logged, and after a kill."""

from collections.abc import Iterator
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bnf.training.schedule import SCHEDULES, num_warmup_steps, rate_share
from tests.unit.bnf.training import metrics, run, same, weights

# (number of steps, warmup_ratio) → what each step has of the highest rate.
LINEAR: dict[tuple[int, float], list[float]] = {
    (1, 0.1): [1],
    (1, 0.0): [1],
    (2, 0.1): [1, 1],
    (2, 0.0): [1, 1 / 2],
    (2, 0.9): [1 / 2, 1],
    (3, 0.1): [1, 1, 1 / 2],
    (3, 0.0): [1, 2 / 3, 1 / 3],
    (3, 0.5): [1 / 2, 1, 1],
    (10, 0.1): [1, 1, 8 / 9, 7 / 9, 6 / 9, 5 / 9, 4 / 9, 3 / 9, 2 / 9, 1 / 9],
    (10, 0.4): [1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6],
    (10, 0.95): [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1],
}
# Half a period of the cosine, from 1: (1 + cos(πx))/2 at thirds, quarters and sixths.
COSINE: dict[tuple[int, float], list[float]] = {
    (1, 0.1): [1],
    (2, 0.1): [1, 1],
    (2, 0.0): [1, 1 / 2],
    (3, 0.0): [1, 3 / 4, 1 / 4],
    (3, 0.1): [1, 1, 1 / 2],
    (4, 0.0): [1, (1 + sqrt(1 / 2)) / 2, 1 / 2, (1 - sqrt(1 / 2)) / 2],
    (10, 0.4): [1 / 4, 2 / 4, 3 / 4, 1, 1, (1 + sqrt(3) / 2) / 2, 3 / 4, 1 / 2, 1 / 4, (1 - sqrt(3) / 2) / 2],
}
WARMED: dict[tuple[int, float], list[float]] = {
    (1, 0.1): [1],
    (2, 0.9): [1 / 2, 1],
    (3, 0.5): [1 / 2, 1, 1],
    (10, 0.3): [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 1],
}
CONSTANT: dict[tuple[int, float], list[float]] = {(1, 0.1): [1], (3, 0.1): [1, 1, 1], (10, 0.1): [1] * 10}
CASES = [
    (name, *case, shares)
    for name, cases in (("linear", LINEAR), ("cosine", COSINE), ("constant_with_warmup", WARMED), ("constant", CONSTANT))
    for case, shares in cases.items()
]


def shares_of(name: str, num_steps: int, warmup_ratio: float) -> list[float]:
    num_warmup = num_warmup_steps(name, warmup_ratio, num_steps)
    return [rate_share(step, name=name, num_warmup=num_warmup, num_steps=num_steps) for step in range(num_steps)]


@pytest.mark.parametrize(("name", "num_steps", "warmup_ratio", "expected"), CASES)
def test_shares_by_hand(name: str, num_steps: int, warmup_ratio: float, expected: list[float]) -> None:
    assert shares_of(name, num_steps, warmup_ratio) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_step_is_lost_and_the_highest_rate_is_reached(name: str) -> None:
    for num_steps in (*range(1, 60), 1000):
        for warmup_ratio in (0.0, 0.03, 0.1, 0.5, 0.99):
            shares = shares_of(name, num_steps, warmup_ratio)
            assert min(shares) > 0 and max(shares) == 1
            num_warmup = num_warmup_steps(name, warmup_ratio, num_steps)
            assert shares[num_warmup:] == sorted(shares[num_warmup:], reverse=True)


def test_a_share_of_steps_that_is_whole_is_not_rounded_up() -> None:
    assert num_warmup_steps("cosine", 0.07, 100) == 7 and 0.07 * 100 > 7
    assert num_warmup_steps("cosine", 0.1, 11) == 2
    assert num_warmup_steps("cosine", 0.1, 1) == 1


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The rates with which the optimizer really steps."""
    rates: list[float] = []
    plain = torch.optim.AdamW.step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    yield rates


@pytest.mark.parametrize(("name", "num_steps", "warmup_ratio", "expected"), CASES)
def test_the_optimizer_has_them_and_they_are_what_is_told(
    workplace: Path, tmp_path: Path, applied: list[float], name: str, num_steps: int, warmup_ratio: float, expected: list[float]
) -> None:
    summary = run(workplace, tmp_path, lr_scheduler_type=name, warmup_ratio=warmup_ratio, max_steps=num_steps)
    rates = [1e-3 * share for share in expected]
    assert applied == pytest.approx(rates, abs=1e-15)
    assert [line["learning_rate"] for line in metrics(tmp_path)] == applied
    assert summary["learning_rates"].pop("warmup_steps") == num_warmup_steps(name, warmup_ratio, num_steps)
    assert summary["learning_rates"] == {"first": applied[0], "highest": max(applied), "last": applied[-1]}


@pytest.mark.integration
@pytest.mark.parametrize(
    "name", ["cosine", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("linear", "constant_with_warmup"))]
)
def test_they_go_on_after_a_kill(workplace: Path, tmp_path: Path, applied: list[float], name: str) -> None:
    settings: dict[str, Any] = {"lr_scheduler_type": name, "warmup_ratio": 0.5, "max_steps": 6, "save_steps": 1}
    run(workplace, tmp_path / "whole", **settings)
    whole = list(applied)
    # Within the warm-up, at its end, and after it.
    for stop in (1, 3, 5):
        applied.clear()

        def interrupt(done: int, of: int, note: str, stop: int = stop) -> None:
            if done == stop + 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(workplace, tmp_path / str(stop), interrupt, **settings)
        summary = run(workplace, tmp_path / str(stop), **settings)
        assert applied == whole[: stop + 1] + whole[stop:]
        assert summary["resumed_from_step"] == stop and summary["learning_rates"]["first"] == whole[0]
        assert same(weights(tmp_path / "whole"), weights(tmp_path / str(stop)))


def test_a_training_of_one_step_trains(workplace: Path, tmp_path: Path) -> None:
    assert run(workplace, tmp_path, max_steps=1)["steps"] == 1
    assert metrics(tmp_path)[0]["learning_rate"] == 1e-3
    assert not same(load_file(workplace / "model" / "model.safetensors"), weights(tmp_path))
