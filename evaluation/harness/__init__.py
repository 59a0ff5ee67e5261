"""Harness: lm-evaluation-harness beside the project's own scoring.

replay: scores stored completions with lm-eval's tasks, as a cross-check.
tasks: runs lm-eval's tasks on the project's engines.
definitions: where their definitions lie.
sets: which data sets of the hub they read, and at which commits.
model: the language model that lm-eval then sees.
replies: what its engine gave, kept for a task that is killed.
room: how many requests didn't fit into the model's context.
seeds: the random numbers of lm-eval's program.
"""
