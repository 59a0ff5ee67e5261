"""Whether the models' thoughts can be found and limited as the recipe says: asked of their tokenizers before anything is generated, and
again once a model is fetched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from evaluation.answers.thoughts import OTHER_MARKERS
from evaluation.engines import is_remote
from flows.dag.checks import Check
from flows.dag.engine_checks import engine_key
from flows.dag.on_policy import BASE
from flows.dag.trainable import resolved_folder
from tasks.nodes import Forecast, Node

NAME = "think_tokens"
_NONE: Mapping[str, Path] = MappingProxyType({})
# The stages whose models may think.
_STAGES = ("sample", "label", "generate", "lm_eval", "judge")
# The files of a model that say which tokens it has, and how it writes a conversation.
_OF_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"),
    *("tokenizer.model", "tekken.json", "chat_template.jinja"),
)


def thought_checks(forecasts: Iterable[Forecast], fetched: Mapping[str, Path] = _NONE) -> Iterator[Check]:
    """A check of each model here that will generate, where the recipe or the model's files say anything of thoughts but the usual.

    Args:
        fetched: folders of models that the forecasts don't know of, by the id of the node that resolved them.
    """
    known = {entry.node.id: entry for entry in forecasts}
    groups: dict[tuple[str, str], list[Node]] = {}
    for entry in known.values():
        node = entry.node
        if entry.cached is True or node.stage not in _STAGES or "engine" not in node.settings:
            continue
        if is_remote(name := node.settings["engine"]["name"]) or name == "reward_model":
            continue
        model = known[node.inputs.get("judge") or node.inputs["model"]].node
        # A policy has the tokenizer of the model that it is trained from.
        resolved = model.id if model.stage == "resolve" else BASE
        groups.setdefault((resolved, _key(node)), []).append(node)
    for (resolved, key), nodes in groups.items():
        folder = fetched.get(resolved) or resolved_folder(known[resolved])
        if folder is not None and (check := _check(folder, known[resolved].node, key, nodes)) is not None:
            yield check


def _key(node: Node) -> str:
    """The recipe's key of the markers that the node goes by."""
    return f"{engine_key(node)}.{NAME}" if node.stage in ("judge", "label") else NAME


def _check(folder: Path, resolve: Node, key: str, nodes: Sequence[Node]) -> Check | None:
    given = nodes[0].settings.get(NAME)
    limited = [node for node in nodes if node.settings.get("max_thinking_tokens") is not None]
    template = resolve.files.get("template")
    files = [folder / file for file in _OF_TOKENIZER] + ([template] if template is not None else [])
    # Loading a tokenizer takes seconds, which most plans needn't wait for.
    if given is None and not limited and not _names_markers(files):
        return None
    from bnf.data.rendering import load_tokenizer
    from evaluation.generation.thinking import check_markers, end_of_thought, thought_markers

    try:
        tokenizer = load_tokenizer(folder, nodes[0].settings["date"])
        if template is not None:
            tokenizer.chat_template = template.read_text(encoding="utf-8")
        markers = thought_markers(tokenizer, given)
        check_markers(tokenizer, markers)
        num_added = len(end_of_thought(tokenizer, markers)) if limited else 0
    except (ValueError, OSError) as error:
        said = str(error)
        return Check(key, f"{key.removesuffix(NAME)}{said}" if said.startswith(NAME) else said)
    for node in limited:
        limit, most = node.settings["max_thinking_tokens"], node.settings.get("max_new_tokens")
        if most is not None and limit + num_added >= most:
            return Check(
                key,
                f"evaluation.max_thinking_tokens must be below {most - num_added} for {node.benchmark}, whose {most} new tokens hold the "
                f"{num_added} that end a thought too, got {limit}; lower it",
            )
    return Check(key, None, f"thoughts are between {' and '.join(markers)}")


def _names_markers(files: Iterable[Path]) -> bool:
    """Whether the files hold a marker that isn't a usual one."""
    others = [marker.encode() for pair in OTHER_MARKERS for marker in pair]
    return any(other in text for file in files if file.is_file() for text in (file.read_bytes(),) for other in others)
