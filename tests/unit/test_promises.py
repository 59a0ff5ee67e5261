"""The pages of docs/ that promise something: each line of their tables names a test that is there."""

import re

import pytest

from tasks.keys import ROOT

# Each with the number of lines that it has at least: a table of another form would have none.
PAGES = {"reliability.md": 55}
_TEST = re.compile(r"`(tests/[a-z0-9_/]+\.py)::(test_\w+)`")


def rows(page: str) -> list[str]:
    """The lines of a page's tables, but for their heads."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    return [
        line
        for line, after in zip(lines, [*lines[1:], ""], strict=True)
        if line.startswith("| ") and not after.startswith("|---")
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_promise_names_a_test_that_is_there(page):
    found = rows(page)
    assert len(found) >= PAGES[page]
    assert not [row for row in found if not _TEST.search(row)], "no test"
    named = {name for row in found for name in _TEST.findall(row)}
    assert not [
        f"{file}::{name}"
        for file, name in sorted(named)
        if not (ROOT / file).is_file() or f"\ndef {name}(" not in (ROOT / file).read_text(encoding="utf-8")
    ]
