"""Prompts are loaded and completed by the policy, and the labelled samples are measured.

prompts: a source's prompts, and those of a round
sample: completions of prompts by an engine, with their token ids
rewards: what labelled samples say of the policy
"""
