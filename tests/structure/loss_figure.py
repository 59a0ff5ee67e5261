"""Draws docs/images/bnf_gradient.svg, the figure of docs/bnf.md: `python -m tests.structure.loss_figure`."""

from __future__ import annotations

import matplotlib
import torch
from torch import Tensor

from bnf.objectives.bnf import feedback_weights
from bnf.process import ROOT

PATH = ROOT / "docs" / "images" / "bnf_gradient.svg"
REFERENCES = {0.1: "#c2553f", 0.5: "#3f6fc2", 0.9: "#3f8f5a"}


def weights(p: Tensor, r: float) -> Tensor:
    """BNF's weight of a token, by the objective's own function."""
    return feedback_weights(torch.logit(p), torch.logit(torch.full_like(p, r)))


def push(p: Tensor, r: float) -> Tensor:
    """By how much a step raises a preferred token's logit, or lowers a dispreferred one's: `w·(1 − p)`."""
    return weights(p, r) * (1 - p)


def main() -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {
        "svg.hashsalt": "bnf",
        "svg.fonttype": "none",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    p = torch.linspace(0.0005, 0.9995, 400, dtype=torch.float64)
    for r, colour in REFERENCES.items():
        left.plot(p, weights(p, r), color=colour, label=f"r = {r}")
        right.plot(p, push(p, r), color=colour)
        right.plot([r], [1 - r], "o", color=colour)
    right.plot(p, 1 - p, "--", color="#777777", label="signed likelihood (w = 1)")
    left.set(xlabel="p, the policy's probability of the token", ylabel="weight w", ylim=(0, 1.05))
    right.set(xlabel="p, the policy's probability of the token", ylabel="push on the token's logit", ylim=(0, 1.05))
    left.legend(frameon=False, loc="lower right")
    right.legend(frameon=False, loc="upper right")
    figure.savefig(PATH, metadata={"Date": None})
    print(PATH)


if __name__ == "__main__":
    main()
