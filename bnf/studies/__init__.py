"""Studies of the objectives that need no language model.

simulation: objectives train small policies on rows of their samples
bandit: a policy over a hundred tokens, of which one is best
length: a policy that decides when to stop, rewarded by length
"""
