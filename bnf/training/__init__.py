"""Training: a model folder, prompt groups and their cached reference in; a policy, metrics and a summary out.

settings: the settings' names, types and defaults.
config: the settings, checked without torch.
fields: groups of the settings, by what depends on them.
checks: what a training would refuse, found before anything costly.
budget: the largest row that fits, found by trials.
memory: how much memory and disk a training takes, by arithmetic.
cost: its steps, tokens, floating-point operations and hours.
fitting: what to change where it doesn't fit.
gpus: GPUs by name, with memory and peak rate.
trainer: `train`, in this process.
launch: `launch`, the same in several processes.
choosing: which policies outlast a training, by their names and steps.
preparation: `Folders`, what a training reads and writes; how `train` and `launch` begin.
own_reference: the reference that a training computes itself, and why.
summary: what train_summary.json holds.
collapse: the rules by which a training counts as collapsed and is stopped.

Inside: values (rules of the settings' values), row_memory and optimizer_states (parts of the estimate), trial (the process of a trial),
worker (one of several processes), row_trainer (transformers' Trainer over rows), rows, losses, parallel, checkpointed_trainer and
checkpoints (what a killed training goes on from), arguments, schedule, optimizers (of bf16 weights), adapters (LoRA), policies (the
policies that are kept and written), leftovers (what is only needed on the way), identity (the check before the first step), evaluating
(the dev groups on the way), dev (samples of dev prompts), means and metrics (what is logged), loggers and logger_runs (where to), remedies
(what to try).
"""
