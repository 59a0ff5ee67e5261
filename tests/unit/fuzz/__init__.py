"""Inputs that nobody would write, drawn by Hypothesis: each is taken, refused with a message, or on record as left out.

inputs: texts, values, and files that were damaged
targets: what reads inputs, and what must hold of each
"""
