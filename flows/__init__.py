"""The command line, the recipes, and the flow that runs a recipe's stages.

cli: the command line
words: the commands' words and options
commands: what the commands do
align: the Prefect flow, which runs a plan
sweep: the Prefect flow of a sweep, whose subflows are runs
sweep_end: its comparison, from what its runs have left
service: Prefect: its server, workers, deployments and limits
dag: from a recipe to a plan: the tasks, and the checks before a run
runs: the home, and the records of the runs in it
recipe: what a recipe may say, and how it is read
display: tables and live output
wording: values and paths as people read them
errors: what a person can mend
"""
