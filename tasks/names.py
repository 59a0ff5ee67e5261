"""The name of a task of a run, in fields. Its id, its label and its place in JSON are made from the fields here, and nowhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

# Whose task it is: a model that is evaluated, a judge, the model that labels samples, the data that are not sampled, or the policy that a
# round starts from; a reference of the recipe's choice.
Role = Literal["base", "aligned", "judge", "second", "labeler", "offline", "old", "reference_model"]
_ROLES: dict[str, Role] = {role: role for role in get_args(Role)}


@dataclass(frozen=True)
class TaskName:
    """Which task of a run it is.

    Attributes:
        stage: the stage's name.
        role: whose task it is, where a stage has one for each of several models, judges or kinds of data.
        round: the on-policy round, counted from 1, where there are several.
        benchmark: the benchmark, or the task of lm-eval.
        checkpoint: which policy of a training's way it is about: `save2` that of the second save, `step8` that after step 8.
        variant: the judge protocol, where it isn't the first one that the recipe has for the benchmark.
    """

    stage: str
    role: Role | None = field(default=None, kw_only=True)
    round: int | None = field(default=None, kw_only=True)
    benchmark: str | None = field(default=None, kw_only=True)
    checkpoint: str | None = field(default=None, kw_only=True)
    variant: str | None = field(default=None, kw_only=True)

    @property
    def which(self) -> str | None:
        """What tells the tasks of a stage apart beside the benchmark: `base`, `round2`, `aligned-step8`, `second-checklist_pairwise`.

        A role that is called like its stage is left out: `judge/arena_hard` is the judge's.
        """
        number = f"round{self.round}" if self.round is not None else None
        return "-".join(filter(None, (self._named_role, number, self.checkpoint, self.variant))) or None

    @property
    def id(self) -> str:
        """`generate/aligned/gsm8k`."""
        return "/".join(filter(None, (self.stage, self.which, self.benchmark)))

    @property
    def label(self) -> str:
        """The id as Prefect's task runs and the files of a run have it: `generate-aligned-gsm8k`."""
        return self.id.replace("/", "-")

    @property
    def _named_role(self) -> Role | None:
        return None if self.role == self.stage else self.role

    def as_json(self) -> dict[str, str | None]:
        """The name in `--json` and summary.json, where `which` is called the model."""
        return {"stage": self.stage, "model": self.which, "benchmark": self.benchmark}

    @classmethod
    def from_id(cls, text: str) -> TaskName:
        """The name that an id stands for. A run's record holds only ids."""
        stage, *rest = text.split("/", 2)
        benchmark = rest.pop() if len(rest) == 2 else None
        role, number, checkpoint, variant = _parts(rest[0]) if rest else (None, None, None, None)
        if benchmark is None and variant is not None:
            # A variant stands before a benchmark alone: this is the benchmark itself.
            (benchmark,), role, number, variant = rest, None, None, None
        own = _ROLES.get(stage) if role is None else role
        return cls(stage, role=own, round=number, benchmark=benchmark, checkpoint=checkpoint, variant=variant)


def _parts(which: str) -> tuple[Role | None, int | None, str | None, str | None]:
    """Role, round, checkpoint and variant from what `which` puts together."""
    words = which.split("-")
    role = _ROLES.get(words[0])
    if role is not None:
        words = words[1:]
    match = re.fullmatch(r"round(\d+)", words[0]) if words else None
    if match:
        words = words[1:]
    checkpoint = words.pop(0) if role and words and re.fullmatch(r"(?:save|step)\d+", words[0]) else None
    return role, int(match[1]) if match else None, checkpoint, "-".join(words) or None
