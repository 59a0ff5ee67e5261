"""Which tasks of a run begin now: those whose inputs are there and whose resources are free, in the order of the plan.

Nothing here knows what a task or a resource is: tasks have names, resources are counted. The same state always gives the same answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Waiting:
    """A task of the plan: its name, the names of the tasks that it waits for, and how much of each resource it takes."""

    name: str
    inputs: Collection[str] = ()
    needs: Mapping[str, int] = field(default_factory=dict)


def startable(
    tasks: Sequence[Waiting], finished: Collection[str], running: Collection[str], totals: Mapping[str, int]
) -> list[str]:
    """The names of the tasks that begin now, in the order of the plan.

    A task passes an earlier one only where the earlier waits for inputs, or for a resource that the later doesn't need. So a task that
    needs much of a resource gets it in the end: while it waits, no later task takes any of it.

    Args:
        tasks: the plan, a task behind all that it waits for.
        finished: the tasks that are done.
        running: the tasks that are at work.
        totals: how much there is of each resource; of one that isn't named, 1.
    """
    taken: Counter[str] = Counter()
    for task in tasks:
        if task.name in running:
            taken.update(task.needs)
    begin: list[str] = []
    kept: set[str] = set()  # resources that an earlier task waits for
    for task in tasks:
        if task.name in finished or task.name in running or any(name not in finished for name in task.inputs):
            continue
        short = {resource for resource, number in task.needs.items() if taken[resource] + number > totals.get(resource, 1)}
        kept |= short
        if not short and kept.isdisjoint(task.needs):
            begin.append(task.name)
            taken.update(task.needs)
    return begin
