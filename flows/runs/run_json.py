"""What `run.json` holds: a run's state, its tasks that have finished, and those that it is at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evaluation.fields import is_number
from tasks.store import Artifact

# Keys that every `run.json` has.
_ALWAYS = ("run", "recipe", "state", "started", "flow_run_id")


@dataclass(frozen=True)
class TaskRecord:
    """A task that has finished: its artifact, and how it came by it. `other_code` are modules that have changed since it was made.

    `started` and `ended` say when the run was at it; None where the artifact was cached, or an older version wrote the record.
    """

    artifact: Artifact
    cached: bool
    seconds: float
    other_code: Sequence[str] = ()
    started: str | None = None
    ended: str | None = None

    def to_json(self) -> dict[str, object]:
        entry: dict[str, object] = {**self.artifact.as_json(), "cached": self.cached, "seconds": self.seconds}
        if self.started is not None:
            entry |= {"started": self.started, "ended": self.ended}
        return {**entry, "other_code": list(self.other_code)} if self.other_code else entry

    @classmethod
    def from_json(cls, value: Mapping[str, Any], home: Path) -> TaskRecord:
        """A task of a run of this home, which may have been moved since: the artifact's path is the one it has now.

        Raises:
            TypeError: a value is none that a run writes.
        """
        texts = [value[name] for name in ("stage", "key", "fingerprint", "path")]
        times = [time for time in (value.get("started"), value.get("ended")) if time is not None]
        if not all(isinstance(text, str) for text in texts + times) or not is_number(value["seconds"]):
            raise TypeError(f"a task must have texts, times and seconds, got {dict(value)}")
        artifact = Artifact.from_json(value)
        artifact = replace(artifact, path=home / "artifacts" / artifact.stage / artifact.path.name)
        began, ended = value.get("started"), value.get("ended")
        return cls(artifact, value["cached"], value["seconds"], value.get("other_code", ()), began, ended)


@dataclass(frozen=True)
class Working:
    """A task that a run is at: its partial work is worth keeping until another run has done it."""

    stage: str
    key: str
    task: str


@dataclass
class RunRecord:
    """What `run.json` holds. `tasks` and `at_work` are in the order of the plan, whatever finishes first. `changed` are the recipe keys
    that the run set otherwise than its recipe's file. `flow_run_id` is None until Prefect knows the run.
    """

    run: str
    recipe: str
    state: str
    started: str
    flow_run_id: str | None
    overrides: Mapping[str, object] | None = None
    changed: Mapping[str, object] = field(default_factory=dict)
    tasks: dict[str, TaskRecord] = field(default_factory=dict)
    at_work: list[Working] = field(default_factory=list)
    ended: str | None = None
    why: str | None = None

    def to_json(self) -> dict[str, object]:
        """The record as JSON, without the keys that the run has no value for yet."""
        value: dict[str, object] = {name: getattr(self, name) for name in _ALWAYS}
        if self.overrides is not None:
            value["overrides"] = dict(self.overrides)
        if self.changed:
            value["changed"] = dict(self.changed)
        value["tasks"] = {name: task.to_json() for name, task in self.tasks.items()}
        if self.at_work or self.tasks:
            at_work = [vars(working) for working in self.at_work]
            value["working"] = at_work[0] if at_work else None
            if at_work[1:]:
                value["also_working"] = at_work[1:]
        if self.ended is not None:
            value |= {"ended": self.ended, "why": self.why}
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any], home: Path) -> RunRecord:
        at_work = [*filter(None, [value.get("working")]), *value.get("also_working", ())]
        return cls(
            **{name: value[name] for name in _ALWAYS},
            overrides=value.get("overrides"),
            changed=value.get("changed", {}),
            tasks={name: TaskRecord.from_json(entry, home) for name, entry in value["tasks"].items()},
            at_work=[Working(**working) for working in at_work],
            ended=value.get("ended"),
            why=value.get("why"),
        )
