"""docs/objectives.md says what there is: every objective, what it needs, its options with their defaults, and tests that exist."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from bnf.objectives import OBJECTIVES, load_objective
from bnf.plugins import names

TESTS = Path(__file__).parent
DOCUMENT = (TESTS.parents[2] / "docs" / "objectives.md").read_text()
_TABLE = [re.split(r"(?<!\\)\|", line)[1:-1] for line in DOCUMENT.splitlines() if line.startswith("| `")]
# Of each objective: needs, options, loss, compared with.
ROWS = {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in _TABLE}


def test_every_objective_has_its_row() -> None:
    without = sorted(set(names(OBJECTIVES)) - set(ROWS))
    assert not without, (
        f"docs/objectives.md must have a row for each objective; add `| `{without[0]}` | needs | options | loss | test |`"
    )
    assert sorted(ROWS) == names(OBJECTIVES)


@pytest.mark.parametrize("name", names(OBJECTIVES))
def test_the_row_is_true(name: str) -> None:
    assert name in ROWS, "see the test above"
    needs, options, _, compared = ROWS[name]
    objective = load_objective(name)
    flags = {
        "reference": objective.needs_reference,
        "old": objective.needs_old,
        "pairs": objective.needs_pairs,
        "mismatched completions": objective.needs_kl_pairs,
        "scores": objective.needs_scores,
    }
    always = needs.partition(";")[0]
    assert [need for need in always.split(", ") if need] == [need for need, needed in flags.items() if needed]
    assert not objective.needs_prompts

    documented = dict(re.findall(r"`(\w+)` ([^,]+)", options))
    defaults = {option.name: getattr(objective, option.name) for option in fields(objective)}
    assert documented == {key: "none" if value is None else str(value) for key, value in defaults.items()}

    there = {test for file in TESTS.glob("test_*.py") for test in re.findall(r"^def (test_\w+)", file.read_text(), re.M)}
    named = set(re.findall(r"`(test_\w+)`", compared))
    assert named and named <= there


def test_prompts_are_needed_where_it_says_so() -> None:
    said = {name: needs.partition("prompts with ")[2].strip("`") for name, (needs, *_) in ROWS.items() if "prompts" in needs}
    assert said == {"orpo": "nll_scope: all"}
    assert load_objective("orpo", {"nll_scope": "all"}).needs_prompts
