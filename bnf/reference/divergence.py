"""KL(policy ‖ reference) on completions that the policy sampled at temperature 1.

The estimate is the sum of `r/p − 1 − log(r/p)` over their tokens, k3 of http://joschu.net/blog/kl-approx.html. It is unbiased, as the
plain log-ratio is, but never negative and with less noise. On completions that the policy didn't sample it would be biased.
"""

from torch import Tensor


def sampled_kl(policy_logps: Tensor, reference_logps: Tensor) -> float:
    """KL(policy ‖ reference) in nats, summed over tokens that the policy sampled; (N,), (N,)."""
    difference = reference_logps - policy_logps
    return float((difference.expm1() - difference).sum())
