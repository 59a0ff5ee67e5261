"""What a recipe may say, how it is read, and the messages for one that breaks a rule.

config: `Recipe`, `load_recipe` and `make_recipe`
section: what every section is, and `read_as`, which holds a section to what its stage reads
data_sections: the sections on data and preparation
sections: the other sections
docs: the tables of keys in docs/recipes.md
messages: pydantic's errors as the project's messages
paths: where the paths of a recipe lead
"""
