"""The reference model's log-probabilities of every completion: computed once, cached, and read by training and analysis.

values: what is cached of a row.
cache: the pass that writes the cache, and reading it.
computing: what a pass computes, and the processes that share its rows.
on_ray: workers on Ray that compute its shards.
launch: the pass in several processes.
index: what a cache was made from and with.
ches: which pairs displace likelihood, by the hidden states of their completions.
kl_pairs: prompts with other prompts' completions, for objectives that estimate the KL to the reference.
divergence: KL to the reference on completions that the policy sampled.
"""
