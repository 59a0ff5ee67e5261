"""What a person can mend: errors whose message is all they need."""

from bnf.urls import without_secrets


class RecipeError(ValueError):
    """A recipe or a command line that can't be run: exit code 2. The message is without the secrets of its URLs."""

    def __init__(self, message: str) -> None:
        super().__init__(without_secrets(message))


class Stopped(RuntimeError):
    """A signal ended a run. `code` is the command's exit code by it: 128 and the signal's number."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
