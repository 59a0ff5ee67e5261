"""The commands' words, options and help. Heavy libraries are imported by the commands that use them, so `--help` answers at once.

arguments: what several commands have
completing: what a shell completes
recipes: write a recipe, and the schema of recipes
running: run a recipe, evaluate, plan
watching: follow a run, look at its page in the UI
results: the runs, and what one gave
upkeep: end a run, make room, the machine
models: export a run's policy, talk with it
machines: deployments, workers, further nodes
scoring: stored completions and judgments
studies: what the objectives do, without a language model
"""
