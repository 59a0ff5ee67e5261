"""Analysis: what training did to a policy, from its log-probabilities and the reference's.

likelihood_shift: on the data it saw, token by token.
pair_shifts: on each pair's preferred completion, beside the pair's CHES score.
token_shifts: of a few of these completions, for people to read.
gini: how unevenly all of them moved.
policy_divergence: on completions that it sampled itself.
token_shifts: the change of the log-probability of single tokens, from what is cached.
"""
