"""Whether another model reads the token ids of prompt groups as the policy does: the same vocabulary, and the same ids for a text."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from bnf.data.groups import DEV, read_groups
from bnf.model_folders import KEY, open_tokenizer

# Texts that are tokenized at once.
_BATCH = 256


def check_same_tokenizer(model_dir: Path, other_dir: Path, groups_dir: Path | None = None) -> None:
    """Checks that the model in `other_dir` has the tokenizer of the one in `model_dir`. With `groups_dir`, every sequence of the groups is
    tokenized by both: tokenizers of one vocabulary may split a text differently.

    Raises:
        ValueError: naming the first difference.
    """
    ours, theirs = open_tokenizer(model_dir), open_tokenizer(other_dir, key=f"reference.{KEY}")
    difference = _of_vocabularies(ours, theirs) or _of_embeddings(model_dir, other_dir, ours)
    if difference is None and groups_dir is not None and not _is_one_pipeline(ours, theirs):
        difference = _of_groups(ours, theirs, groups_dir)
    if difference is not None:
        raise ValueError(
            f"reference.model_name_or_path must have the tokenizer of {model_dir}, whose token ids the data hold, got {other_dir}: "
            f"{difference}; take a model of the same family"
        )


def _of_vocabularies(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> str | None:
    own, other = ours.get_vocab(), theirs.get_vocab()
    different = sorted((token for token in own.keys() | other.keys() if own.get(token) != other.get(token)), key=str)
    if not different:
        return None
    # The first by id says most: what lies behind a token that is missing is often moved by one.
    first = min(different, key=lambda token: min(own.get(token, len(own)), other.get(token, len(other))))
    here, there = (f"id {found[first]}" if first in found else "no token" for found in (own, other))
    return f"{first!r} is {here} in the policy's vocabulary and {there} in the other ({len(different)} tokens differ)"


def _of_embeddings(model_dir: Path, other_dir: Path, ours: PreTrainedTokenizerBase) -> str | None:
    """A model that has no embedding for some tokens. Rows beyond the vocabulary, which pad it, don't matter."""
    own, other = (_num_embeddings(folder) for folder in (model_dir, other_dir))
    needed = min(own, max(ours.get_vocab().values()) + 1)
    return None if other >= needed else f"it has embeddings for {other} token ids, and needs {needed}"


def _num_embeddings(folder: Path) -> int:
    config = json.loads((folder / "config.json").read_text())
    return int(config.get("vocab_size") or config["text_config"]["vocab_size"])


def _is_one_pipeline(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> bool:
    """Whether both are the same steps from text to ids, written in one way."""
    pipelines = [getattr(tokenizer, "backend_tokenizer", None) for tokenizer in (ours, theirs)]
    if None in pipelines:
        return False
    written = [json.loads(pipeline.to_str()) for pipeline in pipelines]  # type: ignore[union-attr]
    # How a batch would be cut and padded: neither is done to the data.
    return bool(written[0] | {"truncation": None, "padding": None} == written[1] | {"truncation": None, "padding": None})


def _of_groups(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase, groups_dir: Path) -> str | None:
    parts = ["", DEV] if (groups_dir / DEV).is_dir() else [""]
    sequences = (each for part in parts for each in _sequences(groups_dir / part))
    while batch := list(islice(sequences, _BATCH)):
        texts = [str(ours.decode(ids)) for _, ids in batch]
        found = [tokenizer(texts, add_special_tokens=False)["input_ids"] for tokenizer in (ours, theirs)]
        for (group, _), own, other in zip(batch, *found, strict=True):
            if own != other:
                shared = min(len(own), len(other))
                at = next((place for place in range(shared) if own[place] != other[place]), shared)
                return (
                    f"in group {group!r} it reads {ours.decode(own[at : at + 8])!r} as {other[at : at + 8]}, and the policy's tokenizer as "
                    f"{own[at : at + 8]}"
                )
    return None


def _sequences(groups_dir: Path) -> Iterator[tuple[str, list[int]]]:
    for group in read_groups(groups_dir):
        for completion in group.completions:
            yield group.id, [*group.prompt_ids, *completion.token_ids]
