"""What a person can mend: errors whose message is all they need."""


class RecipeError(ValueError):
    """A recipe or a command line that can't be run: exit code 2."""
