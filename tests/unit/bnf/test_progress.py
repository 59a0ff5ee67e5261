import re
from pathlib import Path
from typing import Any

import pytest

from bnf import progress
from bnf.progress import Pace, TrainingProgress, clock
from tests.unit.bnf.training import metrics, run


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def test_time_left_is_that_of_steps_and_evaluations_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Clock(monkeypatch)
    notes: list[tuple[int, int, str]] = []
    training = TrainingProgress(lambda *values: notes.append(values))
    # Resumed after 2 of 10 steps; evaluated after 4, 8 and 10.
    training.begin(2, 10, 4)
    time.now += 7
    training.end_step(3, {"loss": 0.5, "tokens_per_second": 123.4})
    time.now += 7
    training.end_step(4, {"loss": 0.25, "tokens_per_second": 120})
    assert notes == [
        (3, 10, "steps, loss 0.5000, 123 tokens/s, 0:00:49 left"),
        (4, 10, "steps, loss 0.2500, 120 tokens/s, 0:00:42 left"),
    ]
    training.begin_evaluation()
    time.now += 0.5
    training.on_dev_row(1, 3)
    time.now += 0.5
    training.on_dev_row(2, 3)
    time.now += 0.9
    training.on_samples(0, 4, 0, 1024)
    time.now += 0.05
    training.on_samples(0, 4, 4, 1020)
    time.now += 3.95
    training.on_samples(0, 4, 40, 984)
    time.now += 24.1
    training.end_evaluation()
    # Once a second; 984 tokens at 10 a second.
    assert [note for *_, note in notes[2:]] == [
        "steps, dev: 2 of 3 rows",
        "steps, dev: 0 of 4 samples, 10 tokens/s, at most 0:01:38 left",
    ]
    time.now += 7
    training.end_step(5, {"loss": 0.2, "tokens_per_second": 120})
    # Five steps of 7 s, and two evaluations of 30 s.
    assert notes[-1] == (5, 10, "steps, loss 0.2000, 120 tokens/s, 0:01:35 left")
    training.end_step(10, {})
    assert notes[-1] == (10, 10, "steps, 0:00:00 left")


def test_the_accuracy_of_the_rewards_is_said_where_it_is_logged() -> None:
    notes: list[tuple[int, int, str]] = []
    training = TrainingProgress(lambda *values: notes.append(values))
    training.begin(0, 1, None)
    training.end_step(1, {"loss": 0.5, "rewards/accuracies": 0.754, "tokens_per_second": 123.4})
    assert notes == [(1, 1, "steps, loss 0.5000, accuracy 0.75, 123 tokens/s, 0:00:00 left")]


def test_a_task_that_only_counts_gets_a_rate_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    time, pace = Clock(monkeypatch), Pace()
    # What was there before it began has no pace.
    assert pace(400, 1000, "rows") == "rows"
    time.now += 0.5
    assert pace(410, 1000, "rows") == "rows", "half a second says nothing yet"
    time.now += 9.5
    assert pace(500, 1000, "rows") == "rows, 10 rows/s, 0:00:50 left"
    assert pace(500, 1000, "") == "10/s, 0:00:50 left"
    assert pace(500, 1000, "dev: rows") == "dev rows, 10 rows/s, 0:00:50 left"
    assert pace(500, 1000, "tokens, some cached") == "tokens, some cached, 10 tokens/s, 0:00:50 left"
    for own in ("steps, loss 0.5, 0:00:10 left", "37 tokens/s", "steps, dev: 2 of 3 rows"):
        assert pace(500, 1000, own) == own
    assert pace(1000, 1000, "rows") == "rows"
    # Something else is counted from here on.
    assert pace(3, 60, "dev: tokens") == "dev tokens"
    time.now += 4
    assert pace(4, 60, "dev: tokens") == "dev tokens, 0.25 tokens/s, 0:03:44 left"


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0.2, 125, 4000)] == ["0:00:00", "0:02:05", "1:06:40"]


@pytest.mark.parametrize("logging_steps", [1, 3])
def test_every_step_of_a_training_is_reported_once(workplace: Path, tmp_path: Path, logging_steps: int) -> None:
    reported: list[tuple[Any, ...]] = []
    steps = run(workplace, tmp_path, lambda *values: reported.append(values), logging_steps=logging_steps, num_train_epochs=2)[
        "steps"
    ]
    assert [(done, total) for done, total, _ in reported] == [(step, steps) for step in range(1, steps + 1)]
    losses = {line["step"]: f"{line['loss']:.4f}, accuracy {line['rewards/accuracies']:.2f}" for line in metrics(tmp_path)}
    for step, _, note in reported:
        last = max((known for known in losses if known <= step), default=None)
        said = rf"loss {losses[last]}, \d+ tokens/s, " if last else ""
        assert re.fullmatch(rf"steps, {said}\d:\d\d:\d\d left", note)
