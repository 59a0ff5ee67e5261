"""Training: a model folder, prompt groups and their cached reference in; a policy, metrics and a summary out.

config: the settings, checked without torch.
checks: what a training would refuse, found before anything costly.
trainer: `train`, in this process.
launch: `launch`, the same in several processes.
own_reference: the reference that a training computes itself, and why.
summary: what train_summary.json holds.
collapse: when a training is of no use from here on.

Inside: preparation (what both begin with), worker (one of several processes), row_trainer (transformers' Trainer over rows), rows, losses,
parallel, arguments, schedule, adapters (LoRA), identity (the check before the first step), dev (samples of dev prompts), means, metrics and
loggers (what is logged), remedies (what to try).
"""
