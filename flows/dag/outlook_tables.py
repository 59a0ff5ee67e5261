"""What tasks will take, as people read it: a row of a table for each, and lines about all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evaluation.formats import duration
from flows.dag.outlook import Outlook

_GIB = 2**30
# Of the settings that were other ones in an earlier run so many are named.
_MOST_NAMED = 2
# Tasks that take less are no row of their own.
_SHORT_S = 1.0


def outlook_table(takes: Mapping[str, Outlook]) -> tuple[str, list[dict[str, str]]]:
    """A title and the rows of tasks that take a second or more, cost something, or have partial work; columns in which nothing stands are
    left out. Where all is as in one run, the title names it."""
    runs = {outlook.past.run for outlook in takes.values() if outlook.past is not None}
    (run,) = runs if len(runs) == 1 else (None,)
    told = {name: outlook for name, outlook in takes.items() if _says_something(outlook)}
    shown = {name: outlook for name, outlook in told.items() if not _is_short(outlook)}
    if not shown:
        return "", []
    rows = [{"task": name.replace("/", "-"), **_row(outlook, run)} for name, outlook in shown.items()]
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    title = "what they take" + ("" if run is None else f", as in {run}")
    if short := len(told) - len(shown):
        title += f"; {short} more {'takes' if short == 1 else 'take'} less than {_SHORT_S:g} s" + (" each" if short > 1 else "")
    if unknown := len(takes) - len(told):
        title += f"; of {unknown} nothing is known yet"
    return title, [{column: row[column] for column in columns} for row in rows]


def _says_something(outlook: Outlook) -> bool:
    known = (outlook.seconds, outlook.past, outlook.host, outlook.device, outlook.partial, outlook.money)
    return any(value is not None for value in known)


def _is_short(outlook: Outlook) -> bool:
    seconds = outlook.past.seconds if outlook.seconds is None and outlook.past is not None else outlook.seconds
    return seconds is not None and seconds < _SHORT_S and not (outlook.partial or _cost(outlook))


def _row(outlook: Outlook, run: str | None) -> dict[str, str]:
    """A task's time, memory and money, where they are from, and what is there already; empty what isn't known."""
    device = "" if outlook.device is None else f"{outlook.device / _GIB:.1f} GiB of a GPU"
    host = "" if outlook.host is None else f"{outlook.host / _GIB:.1f} GiB"
    return {
        "time": "" if outlook.seconds is None else duration(outlook.seconds),
        "memory": " and ".join(filter(None, (host, device))),
        "cost": _cost(outlook),
        "as in" if run is None else "but": _source(outlook, run),
        "there already": outlook.partial or "",
    }


def outlook_totals(takes: Mapping[str, Outlook]) -> list[str]:
    """The sum of the times that are known, as if one task came after another, and of the money."""
    known = [outlook.seconds for outlook in takes.values() if outlook.seconds is not None]
    lines = []
    if known:
        left = len(takes) - len(known)
        rest = f", without {left} {'task' if left == 1 else 'tasks'} of unknown time" if left else ""
        whole = ", what is there already included" if any(outlook.partial for outlook in takes.values()) else ""
        lines.append(f"{duration(sum(known))} of work{rest}{whole}")
    money = [outlook.money for outlook in takes.values() if outlook.money is not None]
    if money:
        least, most = (sum(getattr(one, bound) for one in money) for bound in ("least", "most"))
        lines.append(
            f"{sum(one.num_requests for one in money):,} requests to endpoints: from {_usd(least)}, what is known of their prompts, to "
            f"{_usd(most)}, every text as long as it may be"
        )
    return lines


def _cost(outlook: Outlook) -> str:
    if outlook.money is not None:
        return f"{_usd(outlook.money.least)} to {_usd(outlook.money.most)}" + (
            f"; {_usd(outlook.past.usd)} then" if outlook.past and outlook.past.usd is not None else ""
        )
    return _usd(outlook.past.usd) if outlook.past and outlook.past.usd is not None else ""


def _source(outlook: Outlook, run: str | None) -> str:
    """Which run says so, unless it is the one that the title names, and how the task was another there."""
    if outlook.past is None:
        return "estimated" if outlook.host is not None or outlook.device is not None else ""
    amounts, parts = outlook.past.amounts, []
    if outlook.past.differs:
        took = f"{duration(outlook.past.seconds)} " if amounts else ""
        others = [key for key in outlook.past.differs if key not in amounts]
        parts.append(f"{took}with another {_first([*amounts, *others])}")
    if outlook.after:
        parts.append(f"after another {_first([name.replace('/', '-') for name in outlook.after])}")
    return ", ".join([*([outlook.past.run] if outlook.past.run != run else []), *parts])


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _usd(value: float) -> str:
    """Dollars and cents; of less than a cent what there is of it."""
    return f"${value:,.2f}" if value >= 0.01 or not value else f"${value:.4f}"
