"""A tiny engine for tests of resume and judge logic: its completions are a function of the prompt and of the seed."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable

from evaluation.engines import unheard
from evaluation.types import Generation


class FakeEngine:
    """`answer(prompt)` gives the text, or a Generation; after `kill_after` completions the process kills itself with -9."""

    def __init__(self, answer: Callable | None = None, *, takes="messages", choices=False, kill_after: int | None = None):
        self.takes, self.supports_choices = takes, choices
        self.version, self.max_model_len = "fake 1", None
        self.asked: list = []
        self._answer, self._kill_after = answer, kill_after
        self._rng = random.Random(0)

    def generate(self, prompts, sampling, received=unheard):
        for index, prompt in enumerate(prompts):
            if self._kill_after is not None and len(self.asked) == self._kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
            self.asked.append(prompt)
            found = [self._one(prompt, sampling) for _ in range(sampling.n)]
            received(index, found)
            yield index, found

    def _one(self, prompt, sampling):
        if self._answer is None:
            ids = [self._rng.randrange(3, 100) for _ in range(4)]
            return Generation(" ".join(map(str, ids)), [*ids, 2], "stop", len(prompt), 5)
        given = self._answer(prompt)
        return given if isinstance(given, Generation) else Generation(given, [], "stop", 1, 1)

    def reseed(self, seed):
        self._rng = random.Random(seed)

    def close(self):
        pass


def no_progress(done, total, note):
    pass
