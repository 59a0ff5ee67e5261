"""The options of a run, and which of its tasks they let execute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.dag.checkpoints import of_kept
from flows.dag.on_policy import policy_node
from flows.errors import RecipeError
from flows.recipe.config import Recipe
from flows.runs.record import Need, find_run
from tasks.nodes import Forecast, Node, ancestors
from tasks.stages import evaluation_stages, in_order
from tasks.store import Artifact, Store

# The sections of a recipe that say how a model is evaluated, and on what.
EVALUATION_SECTIONS = ("evaluation", "judge", "spending", "resources", "ray")
# Of a model that is evaluated by itself the recipe also says how its conversations are rendered and read.
CONVERSATION_KEYS = ("system_prompt", "date", "chat_template", "chat_template_kwargs", "think_tokens")
# Without training the recipe names the model itself.
MODELS = Need("an aligned model", lambda run: run.recipe.train is None or policy_node(run.recipe) in run.artifacts)


@dataclass(frozen=True)
class Options:
    """How a recipe is run: which stages may execute, which must, and which artifacts are taken as they are.

    Args:
        only: the stages that may execute; what they need besides must be cached.
        from_stage: the first stage that may execute.
        refresh: stages that execute although they are cached.
        keep: stages whose artifacts are taken where they differ in code alone.
        verify: compare artifacts with their manifests by content, not by size alone.
        evaluate_run: the run whose models are taken as they are; evaluation stages alone execute.
    """

    only: Sequence[str] | None = None
    from_stage: str | None = None
    refresh: Sequence[str] | None = None
    keep: Sequence[str] | None = None
    verify: bool = False
    evaluate_run: str | None = None


@dataclass(frozen=True)
class Selection:
    """The ids of the nodes that a run needs, those of them that may execute, and the stages that are forced or kept.

    `option` is the option that limits the run, as messages name it.
    """

    needed: frozenset[str]
    allowed: frozenset[str]
    refresh: frozenset[str]
    keep: frozenset[str]
    option: str

    def refusal(self, node: Node) -> str:
        """The message for a node that would have to execute and may not."""
        return (
            f"{self.option} must select every stage that has to execute, got none for {node.label}, which is not cached; "
            f"add {node.stage}, or run the recipe without {self.option.split()[0]}"
        )

    def problems(self, known: Mapping[str, Forecast], pinned: Mapping[str, Artifact]) -> list[str]:
        """Why the run is sure to fail: a node is not cached and may not execute, or `--keep` names a stage without an artifact to keep."""
        found = []
        for name, entry in known.items():
            if entry.cached is False and name not in self.allowed | pinned.keys():
                found.append(self.refusal(entry.node))
            elif entry.cached is False and entry.node.stage in self.keep:
                other = (
                    ", ".join(change["key"] for change in entry.changed if not change["key"].startswith("code."))
                    or "no artifact"
                )
                found.append(
                    f"--keep {entry.node.stage} must find an artifact that differs in code alone, got {other}; run without --keep"
                )
        # The nodes after the first one fail because of it.
        return found[:1]


def select(nodes: Sequence[Node], options: Options) -> Selection:
    """Which of the nodes a run with these options needs, and which of those it may execute.

    Raises:
        RecipeError: an option names an unknown stage (the message lists the stages), or two options contradict each other.
    """
    only, from_stage = options.only, options.from_stage
    named = {
        "--only": only,
        "--from": [from_stage] if from_stage else None,
        "--refresh": options.refresh,
        "--keep": options.keep,
    }
    every = in_order()
    for option, names in named.items():
        for name in names or ():
            if name not in every:
                raise RecipeError(f"{option} must name stages, got {name!r}; the stages are {', '.join(every)}")
    if only and from_stage:
        raise RecipeError("--only must stand without --from, got both; name the stages with --only")
    refresh, keep = frozenset(options.refresh or ()), frozenset(options.keep or ())
    if refresh & keep:
        raise RecipeError(f"--refresh must name other stages than --keep, got {', '.join(sorted(refresh & keep))} in both")
    needed = {node.id for node in nodes}
    stages: Sequence[str] = every
    option = ""
    if only:
        stages, option = [*only, "resolve"], f"--only {','.join(only)}"
        needed = ancestors(nodes, [node.id for node in nodes if node.stage in only])
        if not needed:
            raise RecipeError(
                f"--only must name stages of this recipe, got {', '.join(only)}; its stages are "
                f"{', '.join(name for name in every if name in {node.stage for node in nodes})}"
            )
    elif from_stage:
        stages, option = [*every[every.index(from_stage) :], "resolve"], f"--from {from_stage}"
    elif options.evaluate_run:
        stages, option = evaluation_stages(), f"evaluate {options.evaluate_run}"
    allowed = {node.id for node in nodes if node.stage in (*stages, *refresh)}
    return Selection(frozenset(needed), frozenset(allowed & needed), refresh, keep, option)


def evaluated_recipe(home: Path, recipe: Recipe, evaluate_run: str | None) -> Recipe:
    """The recipe as it is run. To evaluate a run's models is to run that run's recipe, with the name and the evaluation of this one.

    Raises:
        RecipeError: there is no such run.
    """
    if evaluate_run is None:
        return recipe
    asked = {name: getattr(recipe, name) for name in ("name", *EVALUATION_SECTIONS)}
    run = find_run(home, evaluate_run, MODELS)
    return of_kept(home, run.recipe.model_copy(update=asked), run)


def pinned_artifacts(home: Path, evaluate_run: str, selection: Selection, store: Store) -> dict[str, Artifact]:
    """The artifacts of a run that an evaluation takes for the stages that it doesn't execute, whatever their keys would be now.

    Raises:
        RecipeError: one of them is gone or altered.
    """
    artifacts = find_run(home, evaluate_run, MODELS).artifacts
    pinned = {name: artifact for name, artifact in artifacts.items() if name in selection.needed - selection.allowed}
    check_pinned(evaluate_run, pinned, store)
    return pinned


def check_pinned(evaluate_run: str, pinned: Mapping[str, Artifact], store: Store) -> None:
    """Check that the pinned artifacts of a run are still there.

    Raises:
        RecipeError: one of them is gone or altered.
    """
    for name, artifact in pinned.items():
        if not store.available(artifact):
            wrong = store.damage(artifact)
            raise RecipeError(
                f"{evaluate_run} must have its artifact of {name}, got a damaged one ({wrong}); run its recipe again"
            )
