"""What stands between marks in a text that models or people wrote, in linear time."""

from collections.abc import Sequence


def texts_between(text: str, marks: Sequence[str]) -> list[str] | None:
    """The texts between each mark and the next, as large as they can be: the last mark at its last place, each before it at its last place
    before that, and the first mark at its first place. None where the marks don't stand in this order.

    The expression `mark(.*)mark(.*)mark` says the same, and takes hours over a prompt of a thousand marks.
    """
    places: list[int] = []
    end = len(text)
    for mark in reversed(marks[1:]):
        end = text.rfind(mark, 0, end)
        if end < 0:
            return None
        places.insert(0, end)
    first = text.find(marks[0], 0, end)
    if first < 0:
        return None
    places.insert(0, first)
    starts = [place + len(mark) for place, mark in zip(places, marks, strict=True)]
    return [text[start:stop] for start, stop in zip(starts, places[1:], strict=False)]
