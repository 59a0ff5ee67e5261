"""Scoring: whether stored completions are right, and what that gives in all.

reading: reads completions and their items.
score: scores completions with their benchmark's rule.
aggregate: sums up what that gives.
zeroeval: reads outputs that ZeroEval recorded.
"""
