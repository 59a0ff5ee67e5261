"""Which stages of a run may execute, and which must come from the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.errors import RecipeError
from flows.graph import EVALUATION_STAGES, STAGES
from tasks.nodes import Node, ancestors, forecast
from tasks.store import Artifact, Store


@dataclass(frozen=True)
class Selection:
    """Node ids that the run needs and those of them that may execute; stages that are forced."""

    needed: frozenset[str]
    allowed: frozenset[str]
    refresh: frozenset[str]
    option: str

    def refusal(self, node: Node) -> str:
        return (
            f"{self.option} must select every stage that has to execute, got none for {node.label}, which is not cached; "
            f"add {node.stage}, or run the recipe without {self.option.split()[0]}"
        )

    def check(self, nodes: Sequence[Node], store: Store, last: Mapping[str, Artifact], pinned: Mapping[str, Artifact]) -> None:
        """Refuse before anything runs what is sure to fail: a needed stage outside the selection that is not cached.

        Raises:
            RecipeError: naming the first such stage.
        """
        if self.needed <= self.allowed | pinned.keys():
            return
        for name, entry in forecast([node for node in nodes if node.id in self.needed], store, last, pinned).items():
            if entry.cached is False and name not in self.allowed:
                raise RecipeError(self.refusal(entry.node))


def select(
    nodes: Sequence[Node],
    *,
    only: Sequence[str] | None = None,
    from_stage: str | None = None,
    refresh: Sequence[str] | None = None,
    evaluate_run: str | None = None,
) -> Selection:
    """The selection that the options ask for.

    Raises:
        RecipeError: for an unknown stage, with those there are, or options that contradict one another.
    """
    for option, names in (("--only", only), ("--from", [from_stage] if from_stage else None), ("--refresh", refresh)):
        for name in names or ():
            if name not in STAGES:
                raise RecipeError(f"{option} must name stages, got {name!r}; the stages are {', '.join(STAGES)}")
    if only and from_stage:
        raise RecipeError("--only must stand without --from, got both; name the stages with --only")
    needed = {node.id for node in nodes}
    stages: Sequence[str] = STAGES
    option = ""
    if only:
        stages, option = [*only, "resolve"], f"--only {','.join(only)}"
        needed = ancestors(nodes, [node.id for node in nodes if node.stage in only])
        if not needed:
            raise RecipeError(
                f"{option} must name stages of this recipe, got none of its {', '.join(sorted({n.stage for n in nodes}))}"
            )
    elif from_stage:
        stages, option = [*STAGES[STAGES.index(from_stage) :], "resolve"], f"--from {from_stage}"
    elif evaluate_run:
        stages, option = EVALUATION_STAGES, f"evaluate {evaluate_run}"
    allowed = {node.id for node in nodes if node.stage in (*stages, *(refresh or ()))}
    return Selection(frozenset(needed), frozenset(allowed & needed), frozenset(refresh or ()), option)
