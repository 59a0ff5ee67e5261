"""What the runs of a sweep share: tasks that are the same work in several of them, and the order in which such work comes first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tasks.keys import digest
from tasks.nodes import Node


def work_of(nodes: Sequence[Node]) -> dict[str, str]:
    """What each task of a run computes, by node id: two tasks with the same value will have the same key, whatever their runs are called.

    A key names what the tasks before it gave, which isn't known yet. This names what they are.
    """
    found: dict[str, str] = {}
    for node in nodes:
        found[node.id] = digest(
            {
                "stage": node.stage,
                "settings": node.settings,
                "plugins": list(node.plugins),
                "files": {role: str(path) for role, path in node.files.items()},
                "inputs": {role: found[name] for role, name in node.inputs.items()},
            }
        )
    return found


def shared_first(runs: Sequence[Mapping[str, str]]) -> list[int]:
    """The places of the runs in the order in which they begin: first those that make most of what others take from the cache, each counted
    once; the rest as given.

    Args:
        runs: what each computes, as `work_of` gives it.
    """
    users = Counter(work for run in runs for work in set(run.values()))
    shared = [{work for work in run.values() if users[work] > 1} for run in runs]
    order: list[int] = []
    made: set[str] = set()
    left = list(range(len(runs)))
    while left:
        best = max(left, key=lambda place: (len(shared[place] - made), -place))
        if not shared[best] - made:
            break
        order.append(best)
        left.remove(best)
        made |= shared[best]
    return order + left
