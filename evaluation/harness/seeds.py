"""The random numbers that lm-eval's program gives its tasks: some shuffle choices or draw parts of a prompt, and name no seed.

`lm_eval.evaluator.simple_evaluate` sets the seeds and leaves them so. Here the process's own random numbers go on afterwards as if nothing
had been drawn. https://github.com/EleutherAI/lm-evaluation-harness/pull/1412
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

# lm-eval's, of Python, of NumPy and torch, and of the choice of examples.
PYTHON_SEED, OTHER_SEED, FEWSHOT_SEED = 0, 1234, 1234


def seed_all(num_answered: int = 0) -> None:
    """Sets the seeds of Python, NumPy and torch.

    Args:
        num_answered: How many requests have an answer already. torch's numbers are other ones then: a task that samples one prompt many
            times would else get the samples again that it has.
    """
    import numpy as np
    import torch

    random.seed(PYTHON_SEED)
    np.random.seed(OTHER_SEED)
    torch.manual_seed(OTHER_SEED + num_answered)


@contextmanager
def own_random_numbers() -> Iterator[None]:
    """What is drawn or seeded inside changes nothing outside."""
    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    # A process that hasn't used a GPU doesn't begin to.
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
