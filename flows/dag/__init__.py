"""From a recipe to the plan of a run: its tasks, which of them may execute, and the checks before the first.

plan: `make_plan`, the plan that every command and the flow take
graph: the tasks of a recipe
evaluating: the tasks that evaluate models: by rules, lm-eval and judges
on_policy: the tasks of rounds of sampling, labelling and training
checkpoints: the tasks of policies of a training's way, and which of these a run kept
parts: what several tasks are made from
selection: the options of a run, and which tasks they let execute
schedule: which tasks begin now, given what is done and what is at work
resources: what the schedule counts: devices, CPU slots, endpoints
preflight: the checks
objective_checks: whether the data give what the objective needs
system_prompt_check: whether the chat template takes the recipe's system prompt
thought_checks: whether thoughts can be found and limited as the recipe says
trainable: whether the model and the groups can be trained
reference_check: whether another model can be the reference
hub: what a hub has of a model or a data set, and at which commit
wanted: what tasks read of hubs and URLs
bundling: the folder into which `bnf fetch` brings it
estimate: what a training will take, from the model's config.json alone
estimate_tables: the same as people read it
judged_check: whether a judge's files can be read, and answer the questions
endpoint_check: whether an endpoint answers, and serves what the recipe asks of it
engine_checks: whether engines can load their models as the recipe says
ray_checks: whether Ray is there where the recipe says
memory_check: whether a training has the memory
completions: how many completions of benchmarks will be made, and the most tokens that they may take
costs: what the samples of dev prompts will cost, and what endpoints take
outlook: what each task will take, by earlier runs and estimates
outlook_tables: the same as people read it
points: the runs of a sweep
sharing: what these share, and which of them begin first
choosing: settings chosen on the dev set
sweep_plan: the plan of a sweep
sweep_outlook: what it will take
checks: `Check`, what one check says
"""
