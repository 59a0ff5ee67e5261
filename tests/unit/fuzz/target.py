"""What reads inputs of others, and what holds of each input: it is taken, refused with a message, or on record as left out.

A `check` returns how an input fared, in one word, and raises where a rule is broken: an error of another kind (a KeyError, an error of a
parser's own), a message that names nothing, a row that is in no record, or the same input read in two ways.
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from flows.errors import RecipeError
from tasks.keys import ROOT

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct"
# The longest message: a few lines, whatever the input's length.
MOST_SAID = 4000


@dataclass(frozen=True)
class Target:
    """Inputs of one kind.

    Attributes:
        strategy: draws an input.
        check: says how it fared.
        fares: the words that must all be among the results, so that the inputs are neither all refused nor all taken.
        quick: how many are drawn in the unit tests.
        nightly: how many at night.
    """

    name: str
    strategy: st.SearchStrategy[Any]
    check: Callable[[Any], str]
    fares: tuple[str, ...] = ("taken", "refused")
    quick: int = 60
    nightly: int = 3_000


def refused(act: Callable[[], object], *named: str) -> str:
    """`taken`, or `refused` where an error of the project says why. Its subclasses are parsers' own, whose messages have no remedy."""
    try:
        act()
    except (ValueError, FileNotFoundError) as error:
        assert type(error) in (ValueError, RecipeError, FileNotFoundError), (
            f"{type(error).__name__} is no error of ours: {error}"
        )
        said = str(error)
        assert said and len(said) < MOST_SAID, said[:MOST_SAID]
        assert all(name in said for name in named), f"{named} isn't in {said}"
        said.encode()
        return "refused"
    return "taken"


def in_folder(check: Callable[[Path, Any], str]) -> Callable[[Any], str]:
    """The check with an empty folder for each input."""

    def checked(value: Any) -> str:
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        try:
            return check(folder, value)
        finally:
            shutil.rmtree(folder)

    return checked
