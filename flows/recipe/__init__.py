"""What a recipe may say, how it is read, and the messages for one that breaks a rule.

config: `Recipe`, `load_recipe` and `make_recipe`
section: the base of every section, and `read_as`, which checks that a section has the keys that its stage reads
data_sections: the sections on data and preparation
benchmark_sections: the sections on benchmarks and lm-eval's tasks
reference_section: the reference of a recipe's choice
judge_sections: the sections on judges and labels
ray_section: where Ray is
sections: the other sections
checkpoints: the policies of a training's way that a recipe asks for
engine_options: the keys that say which engine runs a model, and how it loads it
sweep_file: a sweep's file; study_section: the section that makes it a study; studies: the project's
overrides: settings given as key=value
keys: dotted keys, and those in which recipes differ
docs: the tables of keys in docs/recipes.md
messages: pydantic's errors as the project's messages
known_names: what other programs call a key of a recipe
writing: the text of a first recipe
schema: the JSON schema of recipes, for editors
paths: where the paths of a recipe lead
"""
