"""Whether the data have what the recipe's objective and masks need: pairs, or scores. A source's file says what it gives (`GIVES`)."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence

from bnf.objectives import load_objective
from bnf.plugins import load
from bnf.training.values import written
from data.parse import Parser
from data.preparing.config import PrepareConfig
from data.reading.records import DataSource, Reader, is_hub_id
from data.rows import Row
from data.sources import SOURCES
from flows.dag.checks import Check
from flows.recipe.config import Recipe
from tasks.nodes import Node

# Where the rows of a source are no pairs by themselves, at most so many are searched for one.
_MOST_ROWS = 20_000
FIRST_ROWS = 20
_MASKS = ("mask_fraction", "mask_to_chosen", "mask_to_rejected")
# Keys of `prepare` that leave samples of a prompt out, or give some of them two labels.
_LEAVE_SOME_OUT = ("max_preferred", "max_dispreferred", "pairing", "keep", *_MASKS, "flip_fraction", "contradict_fraction")


def sources_of(node: Node) -> list[DataSource]:
    """The sources that a `prepare` node reads: none where it reads labelled samples."""
    found = []
    for number, settings in enumerate(node.settings.get("sources", ())):
        path = node.files.get(f"source{number}")
        given = {name: value for name, value in settings.items() if name != "version"}
        whole = path or node.unkeyed.get("urls", {}).get(f"source{number}")
        found.append(DataSource(**(given | {"path": str(whole)} if whole else given)))
    return found


def objective_checks(recipe: Recipe, nodes: Sequence[Node]) -> Iterator[Check]:
    """Whether the data of a recipe that trains give the pairs or scores that its objective and its masks need."""
    config, prepare = recipe.train_config(), recipe.prepare
    objective = load_objective(config.objective, config.objective_options)
    name = f"objective {config.objective}"
    sources = [source for node in nodes if node.stage == "prepare" for source in sources_of(node)]
    kinds = {source.source: load(SOURCES, source.source).GIVES for source in sources}
    wanting = None
    if objective.needs_pairs:
        wanting = f"train.objective={config.objective}"
    elif config.length_normalization == "pair_min":
        wanting = "train.length_normalization=pair_min"
    masks = [mask for mask in _MASKS if getattr(prepare, mask)]
    problem = _prompts_alone(kinds)
    if problem is None and wanting:
        problem = _without_pairs(wanting, sources, kinds, recipe)
    if problem is None and objective.needs_pairs and masks:
        masked = " and ".join(masks)
        problem = f"prepare.{masked} must be 0 for {config.objective}, which needs pairs, got {prepare.masked_share}; remove it"
    elif problem is None and masks:
        problem = _nothing_to_mask(masks, sources, kinds, recipe)
    if problem is None and objective.needs_scores:
        problem = next(filter(None, (_without_scores(config.objective, one, kinds) for one in sources)), None)
    needs = "pairs" if wanting else "scores" if objective.needs_scores else ""
    yield Check(name, problem, f"needs {needs}" if needs else "takes single completions")


def sample_checks(recipe: Recipe) -> Iterator[Check]:
    """Whether the samples of a recipe are what an objective needs that takes them for draws from the policy, all of a prompt's."""
    config, sample = recipe.train_config(), recipe.sample
    if sample is None or not load_objective(config.objective, config.objective_options).needs_every_sample:
        return
    # Beside the defaults: the distribution of the samples, and what leaves some of them out or changes them.
    wanted: dict[str, tuple[object, object]] = {
        "sample.temperature": (sample.temperature, 1.0),
        "sample.top_p": (sample.top_p, 1.0),
        "sample.offline_mix": (sample.offline_mix, 0.0),
    }
    for name in _LEAVE_SOME_OUT:
        wanted[f"prepare.{name}"] = getattr(recipe.prepare, name), type(recipe.prepare).model_fields[name].default
    wrong = [key for key, (value, right) in wanted.items() if value != right]
    for key in wrong:
        value, right = wanted[key]
        why = "all samples of a prompt" if key.startswith("prepare") else "samples of the policy's own distribution"
        remedy = "leave it out" if right is None or key.startswith("prepare") else f"write {key}={right:g}"
        yield Check(
            f"samples for {config.objective}",
            f"{key} must be {'left out' if right is None else written(right)} for train.objective={config.objective}, which needs {why}: "
            f"without them its gradient is biased, got {written(value)}; {remedy}",
        )
    if not wrong:
        yield Check(f"samples for {config.objective}", None, "all of a prompt's, at temperature 1")


def _prompts_alone(kinds: Mapping[str, str]) -> str | None:
    source = next((source for source, kind in kinds.items() if kind == "prompts"), None)
    return source and f"data.source must give preferences, got {source}, which gives prompts alone; put it under sample"


def _without_pairs(who: str, sources: Sequence[DataSource], kinds: Mapping[str, str], recipe: Recipe) -> str | None:
    """Why a source gives no pair to what needs some; None where each does, or its first rows don't tell."""
    single = [source for source, kind in kinds.items() if kind == "labels"]
    remedy = "take an objective for single completions (bnf, kto), or data with pairs"
    if recipe.prepare.pairing == "none" and single:
        return (
            f"{who} must have pairs, got data.source={', '.join(single)}: {', '.join(single)} hold no pairs; {remedy}; where several rows "
            "share a prompt, prepare.pairing=all makes some of them"
        )
    if recipe.prepare.pairing == "none":
        needing = who.rpartition("=")[2]
        return f"prepare.pairing must be best_worst or all for {needing}, got none; set prepare.pairing=best_worst"
    for source, has in _pairs(sources, kinds, recipe):
        if has is False:
            labelled = kinds[source.source] == "labels"
            why = ", one preferred and one dispreferred" if labelled else " that prepare.ratings labels differently"
            return (
                f"{who} must have pairs, got {source.path}: these {source.source} hold no pairs, no prompt has two completions{why}; "
                f"{remedy}"
            )
    return None


def _nothing_to_mask(
    masks: Sequence[str], sources: Sequence[DataSource], kinds: Mapping[str, str], recipe: Recipe
) -> str | None:
    """Why there is no pair that could be masked; None where there is one, or the first rows don't tell."""
    pairing = recipe.prepare.pairing
    single_samples = recipe.sample is not None and pairing == "none"
    if not single_samples and (not sources or any(has is not False for _, has in _pairs(sources, kinds, recipe))):
        return None
    remedy = "set prepare.pairing to best_worst or all, or remove the mask" if pairing == "none" else "remove the mask"
    what = ", ".join(kinds) or "samples"
    return f"prepare.{' and '.join(masks)} must have pairs to mask, got {what} without any under prepare.pairing={pairing}; {remedy}"


def _pairs(sources: Sequence[DataSource], kinds: Mapping[str, str], recipe: Recipe) -> Iterator[tuple[DataSource, bool | None]]:
    """Each source, and whether it gives a pair; None where that isn't known before it is read whole, or fetched."""
    # Rows that are pairs are never paired with completions of other sources.
    scanned = [source for source in sources if kinds[source.source] != "pairs" and not _is_elsewhere(source)]
    found: list[bool | None] = [None] * len(scanned)
    if scanned:
        from data.preparing.foresight import gives_pairs

        # What can't be read, the check of the source itself says.
        with contextlib.suppress(ValueError, OSError):
            found = gives_pairs(scanned, PrepareConfig.from_dict(recipe.prepare.model_dump()), _MOST_ROWS)
    known = dict(zip(map(id, scanned), found, strict=True))
    for source in sources:
        yield source, True if kinds[source.source] == "pairs" else known.get(id(source))


def _is_elsewhere(source: DataSource) -> bool:
    return is_hub_id(source.path) or "://" in source.path


def _without_scores(objective: str, source: DataSource, kinds: Mapping[str, str]) -> str | None:
    """Why a source's completions have no scores; None where its first rows have."""
    problem = f"train.objective={objective} must have scores, got {source.path}, whose completions have none; take rated data"
    if kinds[source.source] == "labels":
        return problem
    if _is_elsewhere(source):
        return None
    parse = Parser(source)
    try:
        rows = [parse(raw)[1] for raw in itertools.islice(Reader(source), FIRST_ROWS)]
    except (ValueError, OSError):
        # The check of the source itself says what is wrong.
        return None
    labelled = [one for row in rows if isinstance(row, Row) for one in row.candidates if one.label is not None]
    return problem if any(one.score is None for one in labelled) else None
