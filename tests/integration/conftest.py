"""What tests of several processes share with the unit tests: the tiny model, and what its trainings start from."""

from tests.unit.bnf.conftest import dev_workplace, workplace  # noqa: F401
from tests.unit.conftest import tiny_model_dir  # noqa: F401
