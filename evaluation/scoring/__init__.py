"""Scoring: whether stored completions are right, and what that gives in all.

reading: reads completions and their items.
score: scores completions with their benchmark's rule, and sums up.
zeroeval: reads outputs that ZeroEval recorded.
"""
