"""All kinds of input, each of a file beside this one."""

from tests.unit.fuzz import completions, files, judges, recipes, rows

TARGETS = [target for kind in (recipes, rows, completions, judges, files) for target in kind.TARGETS]
