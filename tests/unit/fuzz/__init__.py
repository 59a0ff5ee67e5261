"""Inputs that nobody would write, drawn by Hypothesis: each is taken, refused with a message, or on record as left out.

inputs: texts, values, and files that were damaged
target: what a kind of input is, and what must hold of each input
recipes, rows, completions, judges, files: the kinds
targets: all of them
"""
