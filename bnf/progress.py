"""What is reported while something runs. Of a training: step, loss, reward accuracy, tokens a second, time left."""

import math
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

# progress(done, total, note): the note says what is counted, and what else there is to say.
Progress = Callable[[int, int, str], None]

_INTERVAL_S = 1.0
_OF_DEV = "dev: "


class TrainingProgress:
    """Reports each optimizer step once, and the progress of an evaluation once a second."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.first_step, self.step, self.num_steps, self.eval_steps = 0, 0, 0, 0.0
        self.started_s = self.evaluation_started_s = self.sampling_started_s = self.last_s = time.monotonic()
        self.evaluation_s: list[float] = []
        self.logged: Mapping[str, float] = {}

    def begin(self, step: int, num_steps: int, eval_steps: float | None) -> None:
        """The training begins after `step` of `num_steps`, and is evaluated every `eval_steps` and at its end, or never."""
        self.first_step = self.step = step
        self.num_steps, self.eval_steps = num_steps, eval_steps or 0.0
        self.started_s = time.monotonic()

    def end_step(self, step: int, logged: Mapping[str, float]) -> None:
        """Reports a step, with what was last logged."""
        self.step, self.logged = step, logged
        words = [f"loss {logged['loss']:.4f}"] if logged else []
        if (accuracy := logged.get("rewards/accuracies")) is not None:
            words.append(f"accuracy {accuracy:.2f}")
        words += [f"{logged['tokens_per_second']:.0f} tokens/s"] if logged else []
        self.progress(step, self.num_steps, ", ".join(["steps", *words, f"{clock(self.left_s())} left"]))

    def left_s(self) -> float:
        """Seconds until the end, if the steps and evaluations to come take as long as those so far."""
        training_s = time.monotonic() - self.started_s - sum(self.evaluation_s)
        left_s = training_s / max(self.step - self.first_step, 1) * (self.num_steps - self.step)
        if self.evaluation_s and self.step < self.num_steps:
            evaluations = math.ceil((self.num_steps - self.step) / self.eval_steps) if self.eval_steps else 1
            left_s += evaluations * sum(self.evaluation_s) / len(self.evaluation_s)
        return left_s

    def begin_evaluation(self) -> None:
        self.evaluation_started_s = self.last_s = time.monotonic()

    def end_evaluation(self) -> None:
        self.evaluation_s.append(time.monotonic() - self.evaluation_started_s)

    def on_dev_row(self, done: int, total: int) -> None:
        """Reports how many of the dev groups' rows are computed."""
        self._say(f"dev: {done} of {total} rows")

    def on_samples(self, done: int, total: int, tokens: int, most_left: int) -> None:
        """Reports how many samples are done, how many tokens are sampled, and how many more there are at most."""
        if not tokens:
            self.sampling_started_s = time.monotonic()
            return
        rate = tokens / max(time.monotonic() - self.sampling_started_s, 1e-9)
        self._say(f"dev: {done} of {total} samples, {rate:.0f} tokens/s, at most {clock(most_left / rate)} left")

    def _say(self, what: str) -> None:
        now_s = time.monotonic()
        if now_s - self.last_s >= _INTERVAL_S:
            self.last_s = now_s
            self.progress(self.step, self.num_steps, f"steps, {what}")


class Pace:
    """Adds to a task's notes how fast it goes and how long it still takes, where the task doesn't say so itself."""

    def __init__(self) -> None:
        # When which part of how much was done first: what was there before the task began has no pace.
        self._first: tuple[float, int, int] | None = None

    def __call__(self, done: int, total: int, note: str) -> str:
        """The note of (done, total, note), with rate and time left: `rows, 4.3 rows/s, 0:00:21 left`.

        What is counted of the dev groups comes as `dev: rows`, and follows a number: `394/394 dev rows`.
        """
        if note.startswith(_OF_DEV):
            note = f"dev {note.removeprefix(_OF_DEV)}"
        now_s = time.monotonic()
        if self._first is None or self._first[2] != total or done < self._first[1]:
            self._first = (now_s, done, total)
        if " left" in note or "/s" in note or " of " in note:
            return note
        elapsed_s, more = now_s - self._first[0], done - self._first[1]
        if more <= 0 or elapsed_s < _INTERVAL_S or done >= total:
            return note
        rate, counted = more / elapsed_s, note.split(",")[0].removeprefix("dev ")
        unit = f" {counted}" if counted.isalpha() else ""
        digits = 0 if rate >= 10 else 1 if rate >= 1 else 2
        return ", ".join(filter(None, [note, f"{rate:.{digits}f}{unit}/s", f"{clock((total - done) / rate)} left"]))


def clock(seconds: float) -> str:
    """Seconds as `0:02:05`."""
    return str(timedelta(seconds=round(seconds)))
