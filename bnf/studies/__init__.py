"""Studies of the objectives that need no language model.

bandit: objectives on a policy over a hundred tokens, of which one is best.
"""
