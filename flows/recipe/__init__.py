"""What a recipe may say, how it is read, and what is said of one that breaks a rule.

config: `Recipe`, `load_recipe` and `make_recipe`
sections: the recipe's sections
messages: pydantic's errors as the project's messages
paths: where the paths of a recipe lead
"""
