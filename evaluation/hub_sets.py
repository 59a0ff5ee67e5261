"""Data sets on the hub that a benchmark and a training source read, each in a split of its own."""

from __future__ import annotations

from evaluation.types import Hub

# https://arxiv.org/abs/2103.03874
MATH = Hub(
    "EleutherAI/hendrycks_math",
    [
        "algebra",
        "counting_and_probability",
        "geometry",
        "intermediate_algebra",
        "number_theory",
        "prealgebra",
        "precalculus",
    ],
)
