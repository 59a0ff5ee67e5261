"""The length problems of arXiv 2404.14367: a policy that only decides at each token whether to go on, rewarded by a completion's length."""

from __future__ import annotations

import torch
from torch import Tensor

from bnf.studies.simulation import Tokens

# A completion that gets so long is cut off.
MAX_LENGTH = 40
# A reward falls to 1/e of the best one over so many tokens.
_WIDTH = 6.0


class Length:
    """A logit of stopping at each position, from a reference that stops after a dozen tokens or so. The outcome n − 1 is a completion of n
    tokens: it goes on n − 1 times and stops, or is cut off.
    """

    def __init__(self, best: int) -> None:
        places = torch.arange(MAX_LENGTH, dtype=torch.float64)
        self.start: Tensor = -5.5 + 0.35 * places[:-1]
        self.rewards: Tensor = (-(places + 1 - best).abs() / _WIDTH).exp()
        self.peak = slice(max(best - 2, 0), best + 1)
        # What is cut off has no token for its end.
        self.lengths = torch.arange(1, MAX_LENGTH + 1).clamp(max=MAX_LENGTH - 1)

    def outcome_logps(self, numbers: Tensor) -> Tensor:
        goes_on = torch.nn.functional.logsigmoid(-numbers).cumsum(-1)
        before = torch.cat([torch.zeros_like(goes_on[:, :1]), goes_on], dim=-1)
        stops = torch.nn.functional.logsigmoid(numbers)
        return before + torch.cat([stops, torch.zeros_like(stops[:, :1])], dim=-1)

    def token_logps(self, numbers: Tensor, tokens: Tokens) -> Tensor:
        stops = tokens.position == tokens.outcome
        logits = numbers[tokens.seed, tokens.position]
        return torch.nn.functional.logsigmoid(torch.where(stops, logits, -logits))


# The best length: the shortest, the reference's usual one, or one that it rarely has.
PROBLEMS = {"min": Length(1), "mode": Length(15), "skew": Length(21)}
