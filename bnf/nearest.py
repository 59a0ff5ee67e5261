"""What was meant by a name that there isn't: the known names that are most like it."""

from collections.abc import Iterable
from difflib import SequenceMatcher

# A name this like another may be a slip of the pen for it; one that is so much less like it than the best isn't offered beside it.
_LIKE, _AS_GOOD = 0.6, 0.2
# The beginning of a name stands for it, however long the rest is.
_OF_BEGINNING, _SHORTEST_BEGINNING = 0.9, 3
_MOST = 3


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """`did you mean dpop or dpo?`, as the end of an error; None where nothing is like it."""
    likeness = {one: _likeness(name.lower(), one) for one in known}
    best = max(likeness.values(), default=0.0)
    # But for capital letters it may be one of them.
    least = max(_LIKE, best - _AS_GOOD) if best < 1 else best
    near = [one for one, value in likeness.items() if value >= least]
    near = sorted(near, key=lambda one: (-likeness[one], len(one), one))[:_MOST]
    return f"did you mean {' or '.join(near)}?" if near else None


def _likeness(name: str, known: str) -> float:
    """From 0 to 1, which is the same."""
    begins = len(name) >= _SHORTEST_BEGINNING and known.startswith(name)
    return max(SequenceMatcher(None, name, known).ratio(), _OF_BEGINNING if begins else 0.0)
