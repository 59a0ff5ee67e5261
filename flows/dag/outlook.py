"""What each task that would run will take: time and memory as in the nearest earlier run on this machine, else as they are estimated;
the partial work that it would go on from; and the money of endpoints. A plan says it before anything costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from bnf.model.device import device_kind
from bnf.plugins import load
from evaluation.records import read_json
from flows.dag.completions import kept_completions
from flows.dag.costs import Money, endpoint_cost
from flows.dag.estimate import Asked, RecipeEstimate, estimate_recipe
from flows.dag.on_policy import BASE
from flows.dag.plan import Plan
from flows.errors import RecipeError
from flows.recipe.keys import dotted
from flows.recipe.sections import GREEDY
from flows.runs.record import Run, all_runs
from flows.runs.run_json import TaskRecord
from tasks.execute import machine
from tasks.job import Settings
from tasks.keys import KEY_CHARACTERS
from tasks.manifest import Manifest
from tasks.memory import Memory
from tasks.nodes import Node
from tasks.partial import partial_work
from tasks.stages import MODEL, STAGES

# Settings in which an earlier task must be the same: with others it says nothing of the time.
_SAME = ("benchmark", "task", "form", "judge_name", "labeler", "engine.name", "engine.model", "engine.base_url")
# Settings that say how much there is to do, by the last part of their keys: the time of another amount is not this one's.
_AMOUNTS = {
    *("limit", "max_new_tokens", "num_samples", "max_steps", "num_train_epochs", "num_prompts", "samples_per_prompt"),
    *("prompts_per_round", "epochs_per_round", "dev_max_new_tokens", "max_judgment_tokens"),
}
# Runs that are looked at, the newest.
_MOST_RUNS = 200


@dataclass(frozen=True)
class Past:
    """A task of an earlier run on this machine: which it was, and what it took.

    Attributes:
        host, device: bytes; None where the run didn't write them down.
        differs: the settings that were other ones.
    """

    run: str
    seconds: float
    host: int | None
    device: int | None
    usd: float | None
    differs: tuple[str, ...] = ()

    @property
    def amounts(self) -> tuple[str, ...]:
        """Those of the other settings that say how much there was to do."""
        return tuple(key for key in self.differs if key.rsplit(".", 1)[-1] in _AMOUNTS)


@dataclass(frozen=True)
class Outlook:
    """What a task will take. What isn't known is None.

    Attributes:
        seconds, host, device: of the nearest earlier run, which `past` names, or else of the estimate. Sizes are bytes. The time of a
            run with another amount of work is none of this task's.
        after: the ids of tasks before it that differ from that run's in their settings, or have no earlier run: its input will be another.
        partial: the work that is there already, in words.
        money: of requests to an endpoint whose prices are known.
    """

    seconds: float | None = None
    host: float | None = None
    device: float | None = None
    past: Past | None = None
    after: tuple[str, ...] = ()
    estimated: bool = False
    partial: str | None = None
    money: Money | None = None

    def to_json(self) -> dict[str, object]:
        """The outlook as `bnf plan --json` has it under `takes`."""
        return {
            "seconds": self.seconds,
            "host_bytes": self.host,
            "device_bytes": self.device,
            "run": self.past.run if self.past else None,
            "seconds_of_run": self.past.seconds if self.past else None,
            "differs": list(self.past.differs) if self.past else [],
            "after": list(self.after),
            "estimated": self.estimated,
            "partial": self.partial,
            "usd_least": self.money.least if self.money else None,
            "usd_most": self.money.most if self.money else None,
            "usd_of_run": self.past.usd if self.past else None,
        }


def outlooks(plan: Plan, history: History | None = None) -> dict[str, Outlook]:
    """The outlook of every task that isn't certain to be cached, by node id. Plans of one home and model may share a history."""
    todo = [entry for entry in plan.forecasts.values() if entry.cached is not True]
    if not todo:
        return {}
    history = history or History(plan.home, base_model(plan))
    found: dict[str, Outlook] = {}
    nodes = {node.id: node for node in plan.nodes}
    training = _Estimated(plan)
    for entry in todo:
        node, work = entry.node, None
        if entry.key is not None and entry.cached is False and node.stage not in plan.selection.refresh:
            work = partial_work(node.stage, plan.store.root / node.stage / f"{entry.key}.work", _wanted(node))
            # Of a policy that is trained again there are none.
            if all(plan.forecasts[name].cached is True for name in node.inputs.values()):
                work = work or kept_completions(entry)
        past = history.nearest(node)
        after = dict.fromkeys(other for name in node.inputs.values() if name in found for other in _others(name, found[name]))
        outlook = Outlook(past=past, after=tuple(after), partial=work, money=endpoint_cost(node, nodes, plan.recipe))
        if past is not None:
            seconds = None if past.amounts else past.seconds
            outlook = replace(outlook, seconds=seconds, host=past.host, device=past.device)
        elif node.stage == "train":
            estimate_s, host, device = training.takes()
            outlook = replace(outlook, seconds=estimate_s, host=host, device=device, estimated=True)
        found[node.id] = outlook
    return found


def base_model(plan: Plan) -> str | None:
    """The digest of the base model as artifacts have it; None of a hub's that isn't resolved yet."""
    base = plan.forecasts.get(BASE)
    if base is None:
        return None
    if base.artifact is not None:
        return base.artifact.fingerprint
    folder = base.node.files.get("model")
    if folder is None or not (folder / "config.json").exists():
        return None
    return plan.store.outside_fingerprint(folder)[:KEY_CHARACTERS]


def _others(name: str, outlook: Outlook) -> tuple[str, ...]:
    """What makes a task's output another than that of the earlier run: the task itself, or those before it."""
    return (name,) if outlook.past is None or outlook.past.differs else outlook.after


@dataclass
class History:
    """The tasks that earlier runs of a home executed on this machine.

    Args:
        model: the digest of the base model. Tasks of runs with another one are passed over, where a model has a part in them.
    """

    home: Path
    model: str | None
    _machine: Mapping[str, object] = field(default_factory=machine)
    _runs: list[Run] | None = None
    _manifests: dict[Path, Manifest | None] = field(default_factory=dict)

    def nearest(self, node: Node) -> Past | None:
        """The task that was most like this one: of the same stage, benchmark and engine, with the fewest other settings; the same task
        before others, a newer before an older. None where there is none."""
        now, best = _told(node.settings), None
        for age, (run, name, task) in enumerate(self._of_stage(node.stage)):
            manifest = self._manifest(task)
            if manifest is None or not self._has_model(node.stage, run):
                continue
            then = _told(manifest["ingredients"]["settings"])
            if any(now.get(key) != then.get(key) for key in _SAME):
                continue
            differs = tuple(sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key) and _counts(key)))
            rank = (len(differs), name != node.id, age)
            if best is None or rank < best[0]:
                best = rank, run, task, manifest, differs
        if best is None:
            return None
        _, run, task, manifest, differs = best
        memory = _memory(manifest)
        return Past(run.id, task.seconds, memory.get("host"), memory.get("device"), _paid(task), differs)

    def _of_stage(self, stage: str) -> Iterator[tuple[Run, str, TaskRecord]]:
        if self._runs is None:
            self._runs = all_runs(self.home)[:_MOST_RUNS]
        for run in self._runs:
            for name, task in run.record.tasks.items():
                if task.artifact.stage == stage and not task.cached:
                    yield run, name, task

    def _has_model(self, stage: str, run: Run) -> bool:
        if MODEL not in load(STAGES, stage).READS.values():
            return True
        base = run.record.tasks.get(BASE)
        return self.model is not None and base is not None and base.artifact.fingerprint == self.model

    def _manifest(self, task: TaskRecord) -> Manifest | None:
        """The manifest of a task's artifact, if this machine made it and still has it."""
        path = task.artifact.path
        if path not in self._manifests:
            try:
                manifest = task.artifact.manifest
                here = manifest.get("machine") == self._machine
            except (OSError, ValueError):
                here = False
            self._manifests[path] = manifest if here else None
        return self._manifests[path]


def _wanted(node: Node) -> int | None:
    """Of a generation the completions of each item, of sampling the prompts; None of other stages."""
    settings = node.settings
    if node.stage == "generate":
        return int(settings.get("sampling", GREEDY)["num_samples"])
    if node.stage == "sample":
        return int((settings["prompts_per_round"] or settings["num_prompts"]) + settings["held_out_prompts"])
    return None


def _told(settings: Settings) -> dict[str, object]:
    """Settings by dotted keys. Where nothing says how completions are drawn there is a greedy one of each item."""
    return dotted({"sampling": GREEDY, **settings})


def _counts(key: str) -> bool:
    """Whether a setting may change what a task takes: the report's are the whole recipe, which it only shows."""
    return not key.startswith("recipe.")


def _memory(manifest: Manifest) -> Memory:
    """What a stage's manifest says of its memory. `Manifest` has no field for it: the report reads manifests, and would be made anew."""
    return cast(Memory, manifest.get("memory", {}))


def _paid(task: TaskRecord) -> float | None:
    """What the judgments of a task cost, whichever run paid for them."""
    if task.artifact.stage != "judge":
        return None
    try:
        usd = (read_json(task.artifact.path / "summary.json").get("cost") or {}).get("usd")
    except (OSError, ValueError):
        # Damaged since, or deleted: then nothing is known of it.
        return None
    return float(usd) if usd is not None else None


class _Estimated:
    """The estimate of the recipe's training, computed when it is asked for."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._found: Mapping[str, RecipeEstimate] | None = None

    def takes(self) -> tuple[float | None, float | None, float | None]:
        """Seconds, and bytes of host and device; None what isn't known."""
        on_gpu = device_kind() == "cuda"
        if self._found is None:
            try:
                self._found = {"": estimate_recipe(self._plan.recipe, Asked(gpu=None if on_gpu else "cpu"), self._plan.home)}
            except RecipeError:
                # The preflight says what is wrong with model or data.
                self._found = {}
        found = self._found.get("")
        if found is None:
            return None, None, None
        total = found.memory.device.total
        if not on_gpu:
            return None, total * found.config.nproc_per_node, None
        hours = next((gpu.hours for gpu in found.gpus if gpu.hours is not None), None)
        return None if hours is None else 3600 * hours, None, total
