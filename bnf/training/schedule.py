"""The learning rate of every optimizer step, as a share of the highest.

transformers' schedules give the first step of a warm-up a rate of 0: a training of one step trains nothing, and every other one loses a
step. Here step n of W warm-up steps (n from 0) has (n + 1)/W. The decay after them is transformers': it begins at the whole rate with
step W, and would reach 0 one step after the last.
"""

import math

SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")


def num_warmup_steps(name: str, warmup_ratio: float, num_steps: int) -> int:
    """W: `warmup_ratio` of all steps, rounded up; 0 for `constant`."""
    # 0.07 · 100 is 7.000000000000001 in floating point.
    return 0 if name == "constant" else math.ceil(round(warmup_ratio * num_steps, 9))


def rate_share(step: int, *, name: str, num_warmup: int, num_steps: int) -> float:
    """The rate of step `step` (from 0) of `num_steps`, as a share of the highest: above 0, and at most 1."""
    if step < num_warmup:
        return (step + 1) / num_warmup
    if name not in ("linear", "cosine"):
        return 1.0
    left = (num_steps - step) / max(1, num_steps - num_warmup)
    # sin²(πx/2) is (1 − cos πx)/2, and exact for small x too.
    return left if name == "linear" else math.sin(math.pi / 2 * left) ** 2
