"""docs/security.md promises what is tested, where it says."""

import re

import pytest

from bnf.process import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| What isn't trusted")]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_each_promise_names_its_code_and_its_test(row):
    _, _, _, where, test, _ = (cell.strip() for cell in row.split("|"))
    for path in re.findall(r"`([^`]+)`", where):
        assert (ROOT / path).exists(), path
    file, _, name = test.strip("`").partition("::")
    assert f"\ndef {name}(" in (ROOT / file).read_text(encoding="utf-8"), test


def test_every_table_row_is_looked_at():
    assert len(ROWS) > 25 and all(row.count("|") == 5 for row in ROWS)
