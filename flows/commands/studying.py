"""`bnf study`: what a study without a language model found, as tables and as a page of the docs."""

from __future__ import annotations

from flows.commands.study_page import STUDIES, run, write
from flows.display import print_json, print_table
from flows.errors import RecipeError
from tasks.keys import ROOT


def study(name: str, *, write_page: bool, as_json: bool) -> None:
    """Runs a study; with `write_page` writes its page and its figure into the docs of this checkout."""
    if name not in STUDIES:
        raise RecipeError(f"NAME must be one of {', '.join(STUDIES)}, got {name!r}; correct it")
    results = run(name)
    paths = write(results, ROOT / "docs") if write_page else []
    if as_json:
        print_json({"study": name, **results.to_json(), "files": [str(path) for path in paths]})
        return
    for title, rows in results.tables():
        print_table(title, rows)
    print_table("compared", results.comparison_rows(), words=True)
    for path in paths:
        print(f"written: {path}")
