"""The library: training with BNF and other objectives on prompt groups, without the pipeline around it.

Its rooms, of which upper ones import lower ones only: train (`python -m bnf.train`); training and analysis; reference; model; objectives;
data; and modules that need none of these: plugins, permissions, plain_yaml, progress.
"""
