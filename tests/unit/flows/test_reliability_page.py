"""docs/reliability.md promises what a test shows, and nothing else."""

import re

from tasks.keys import ROOT

PAGE = ROOT / "docs" / "reliability.md"


def test_every_promise_names_a_test_that_is_there():
    named = re.findall(r"`([a-z0-9_/]+\.py)::(test_\w+)`", PAGE.read_text())
    assert len(named) > 50
    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / "tests" / file).read_text()]
    assert not missing


def test_every_line_of_a_table_has_one():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    rows = [line for line in lines if not line.startswith("|---") and not line.endswith("| what is promised | test |")]
    assert rows and all("::test_" in row for row in rows)
