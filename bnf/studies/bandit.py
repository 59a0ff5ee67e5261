"""The didactic problem of arXiv 2404.14367 (section 4): a policy over 100 tokens, rewards that are highest at one of them."""

from __future__ import annotations

import torch
from torch import Tensor

from bnf.studies.simulation import Tokens

NUM_TOKENS = 100
# The reference's tokens lie around this one, so far apart.
_MODE, _SPREAD = 25.0, 12.0
# A reward falls to 1/e of the best one over so many tokens.
_WIDTH = 15.0


class Bandit:
    """A softmax over 100 free logits. A completion is one token."""

    def __init__(self, best: int) -> None:
        places = torch.arange(NUM_TOKENS, dtype=torch.float64)
        self.start: Tensor = (-((places - _MODE) ** 2) / (2 * _SPREAD**2)).log_softmax(-1)
        self.rewards: Tensor = (-(places - best).abs() / _WIDTH).exp()
        self.peak = slice(best - 2, best + 3)
        self.lengths = torch.ones(NUM_TOKENS, dtype=torch.long)

    def outcome_logps(self, numbers: Tensor) -> Tensor:
        return numbers.log_softmax(-1)

    def token_logps(self, numbers: Tensor, tokens: Tokens) -> Tensor:
        return numbers.log_softmax(-1)[tokens.seed, tokens.outcome]


# The best token: one that the reference gives often, or one that it hardly gives.
PROBLEMS = {"likely": Bandit(35), "rare": Bandit(50)}
