"""Records become prompt groups: tokenized once, labelled, counted. The product is the data and the ledger of what became of it."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bnf.groups import Completion, PromptGroup, write_groups
from data._ledger import Ledger
from data.sources._rows import BadRow, PairRow
from evaluation._records import Record, read_repaired
from evaluation._types import Progress

Prepared = tuple[PromptGroup, dict[str, Any]]  # a group and its texts, as write_groups takes them


@dataclass(frozen=True)
class PrepareConfig:
    """The recipe's `prepare` section.

    `max_preferred` and `max_dispreferred` limit the completions of a prompt (None keeps all); `mask_fraction` of the pairs keep
    one side only; lengths are in tokens; `truncation` says what happens to what is longer; `max_dropped_share` is the share of
    input rows that may be lost before the stage fails. `pairing` sets which completions are compared as pairs: none,
    the best with the worst (the others are left out), or every preferred with every dispreferred.
    """

    max_preferred: int | None = None
    max_dispreferred: int | None = None
    mask_fraction: float = 0.0
    pairing: Literal["none", "best_worst", "all"] = "none"
    max_length: int = 2048
    max_prompt_length: int = 1800
    truncation: Literal["drop", "raise"] = "drop"
    max_dropped_share: float = 0.5
    seed: int = 0


_Kept = tuple[int, Completion, str]  # a sample's index, and what is kept of it


class _Left(Exception):
    """A row that gives no group: its outcome for the ledger, and a detail."""

    def __init__(self, outcome: str, detail: str = "") -> None:
        super().__init__(outcome, detail)
        self.outcome, self.detail = outcome, detail


def prepare_labelled(
    labelled_file: Path, model_dir: Path, output_dir: Path, config: PrepareConfig, *, progress: Progress
) -> None:
    """Groups of sampled completions, from labelled.jsonl; each completion keeps exactly the token ids that were sampled.

    A completion whose turn did not end (it ran into the limit) is kept as dispreferred as it is: it gets no terminator that the
    model never wrote. As preferred it would teach not to stop, so such a completion is left out. `model_dir` is not read: the
    samples hold their ids.

    Raises:
        ValueError: where more than `max_dropped_share` of the prompts are lost, or one is too long and `truncation` is "raise".
    """
    records = read_repaired(labelled_file)
    ledger = Ledger(labelled_file.name)
    prepared: list[Prepared] = []
    for number, record in enumerate(records, start=1):
        try:
            prepared.append(_group_of_samples(record, number, config, ledger))
            ledger.row(number, record["id"], "kept")
        except _Left as left:
            ledger.row(number, record["id"], left.outcome, left.detail)
        if number % 256 == 0 or number == len(records):
            progress(number, len(records), f"{len(prepared)} groups")
    _finish(prepared, ledger, output_dir, config)


def prepare_source(
    source: str, path: Path, model_dir: Path, output_dir: Path, config: PrepareConfig, *, progress: Progress
) -> None:
    """Groups of two from the pairs of `data/sources/<source>.py` in `path`, rendered with the model's chat template.

    `pairing: none` makes them labelled completions without pairs. Of the pairs that are kept, round(mask_fraction · n) keep one
    side only, chosen and rejected in turn; which ones depends on the seed and the ids, and a smaller fraction's are among a
    larger one's.

    Raises:
        ValueError: as `prepare_labelled`.
    """
    from bnf.rendering import load_tokenizer

    tokenizer = load_tokenizer(model_dir)
    ledger = Ledger(path.name)
    seen: dict[str, int] = {}
    pairs: list[tuple[PairRow, Prepared]] = []
    rows = _rows(source, path)
    for number, row in enumerate(rows):
        if number % 256 == 0:
            progress(number, len(rows), f"{len(pairs)} pairs")
        if isinstance(row, BadRow):
            ledger.row(row.line, None, row.reason, row.detail)
            continue
        try:
            pairs.append((row, _group_of_pair(row, tokenizer, config, seen)))
        except _Left as left:
            ledger.row(row.line, row.id, left.outcome, left.detail)
    masked = _mask({row.id for row, _ in pairs}, config)
    prepared = []
    for row, pair in pairs:
        side = masked.get(row.id)
        prepared.append(pair if side is None else _one_side(pair, side))
        if side is None:
            ledger.row(row.line, row.id, "kept")
        else:
            ledger.row(row.line, row.id, "masked", side="chosen" if side == 0 else "rejected")
    _finish(prepared, ledger, output_dir, config)
    progress(len(rows), len(rows), f"{len(prepared)} groups")


def _rows(source: str, path: Path) -> list[PairRow | BadRow]:
    return list(importlib.import_module(f"data.sources.{source}").rows(path))


def _finish(prepared: list[Prepared], ledger: Ledger, output_dir: Path, config: PrepareConfig) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    ledger.write(output_dir, [group for group, _ in prepared])
    ledger.check(config.max_dropped_share, output_dir / "ledger.jsonl")
    write_groups(output_dir, [group for group, _ in prepared], [texts for _, texts in prepared])


def _group_of_samples(record: Record, line: int, config: PrepareConfig, ledger: Ledger) -> Prepared:
    prompt_ids = tuple(record["prompt_ids"])
    _check_length(len(prompt_ids), 0, config, record["id"])
    kept: list[_Kept] = []
    seen: set[tuple[str, int]] = set()
    limits = {1: config.max_preferred, -1: config.max_dispreferred}
    counts = {1: 0, -1: 0}
    for index, sampled in enumerate(record["completions"]):
        label = 1 if sampled["reward"] > 0.5 else -1
        limit = limits[label]
        outcome = ""
        if sampled.get("outcome") == "error":
            outcome = "scorer_error"
        elif not sampled["token_ids"]:
            outcome = "empty"
        elif label > 0 and sampled["finish_reason"] != "stop":
            outcome = "unterminated"
        elif (sampled["text"], label) in seen:
            outcome = "duplicate"
        elif limit is not None and counts[label] >= limit:
            outcome = "over_limit"
        else:
            try:
                _check_length(len(prompt_ids), len(sampled["token_ids"]), config, record["id"])
            except _Left as left:
                outcome = left.outcome
        if outcome:
            ledger.completion(line, record["id"], index, outcome)
            continue
        seen.add((sampled["text"], label))
        counts[label] += 1
        completion = Completion(tuple(sampled["token_ids"]), label, float(sampled["reward"]), "sample")
        kept.append((index, completion, sampled["text"]))
    if not kept:
        raise _Left("no_completion", "every completion was left out")
    pairs: tuple[tuple[int, int], ...] = ()
    if config.pairing != "none":
        if not (counts[1] and counts[-1]):
            raise _Left("no_pair", f"{counts[1]} preferred and {counts[-1]} dispreferred completions")
        if config.pairing == "best_worst":
            kept, others = _best_and_worst(kept)
            for index in others:
                ledger.completion(line, record["id"], index, "unpaired")
        pairs = _pairs([completion for _, completion, _ in kept])
    group = PromptGroup(record["id"], prompt_ids, tuple(completion for _, completion, _ in kept), pairs)
    return group, {"messages": record["messages"], "completions": [text for _, _, text in kept]}


def _best_and_worst(kept: list[_Kept]) -> tuple[list[_Kept], list[int]]:
    """The first of the highest and the first of the lowest score, and the indices of the others."""
    best = max(kept, key=lambda one: one[1].score or 0.0)
    worst = min(kept, key=lambda one: one[1].score or 0.0)
    return [best, worst], [index for index, _, _ in kept if index not in (best[0], worst[0])]


def _pairs(completions: list[Completion]) -> tuple[tuple[int, int], ...]:
    preferred = [index for index, completion in enumerate(completions) if completion.label > 0]
    dispreferred = [index for index, completion in enumerate(completions) if completion.label < 0]
    return tuple((chosen, rejected) for chosen in preferred for rejected in dispreferred)


def _group_of_pair(row: PairRow, tokenizer: Any, config: PrepareConfig, seen: dict[str, int]) -> Prepared:
    from bnf.rendering import RenderingError, render_completion, render_prompt

    for side, text in (("chosen", row.chosen), ("rejected", row.rejected)):
        if not text.strip():
            raise _Left("empty", f"{side} must hold text, got {text!r}")
    if not any(message["content"].strip() for message in row.messages):
        raise _Left("empty", "prompt must hold text, got none")
    if row.chosen == row.rejected:
        raise _Left("identical_pair", "chosen and rejected are the same text")
    content = hashlib.sha256(repr((row.messages, row.chosen, row.rejected)).encode()).hexdigest()
    for name, key in (("row", content), ("id", f"id {row.id}")):
        if key in seen:
            raise _Left("duplicate" if name == "row" else "bad_schema", f"the same {name} as on line {seen[key]}")
    try:
        prompt_ids = render_prompt(tokenizer, row.messages)
        sides = [render_completion(tokenizer, row.messages, text) for text in (row.chosen, row.rejected)]
    except RenderingError as error:
        raise _Left("unrenderable", str(error)) from error
    if sides[0] == sides[1]:
        raise _Left("identical_pair", "chosen and rejected have the same token ids")
    _check_length(len(prompt_ids), max(map(len, sides)), config, f"line {row.line}")
    seen[content] = seen[f"id {row.id}"] = row.line
    completions = (Completion(tuple(sides[0]), 1, None, "chosen"), Completion(tuple(sides[1]), -1, None, "rejected"))
    pairs = () if config.pairing == "none" else ((0, 1),)
    texts = {"messages": row.messages, "completions": [row.chosen, row.rejected]}
    return PromptGroup(row.id, tuple(prompt_ids), completions, pairs), texts


def _check_length(num_prompt: int, num_completion: int, config: PrepareConfig, where: str) -> None:
    for name, length, limit in (
        ("max_prompt_length", num_prompt, config.max_prompt_length),
        ("max_length", num_prompt + num_completion, config.max_length),
    ):
        if length > limit:
            detail = f"prepare.{name} must hold the row, got {length} tokens against {limit}"
            if config.truncation == "raise":
                raise ValueError(f"{detail} at {where}; raise the limit or set prepare.truncation=drop")
            raise _Left("over_length", detail)


def _mask(ids: set[str], config: PrepareConfig) -> dict[str, int]:
    """Which of the pairs keep one side only, and which: 0 chosen, 1 rejected."""
    order = sorted(ids, key=lambda id: hashlib.sha256(f"{config.seed}:{id}".encode()).digest())
    return {id: rank % 2 for rank, id in enumerate(order[: round(config.mask_fraction * len(order))])}


def _one_side(pair: Prepared, side: int) -> Prepared:
    group, texts = pair
    alone = PromptGroup(group.id, group.prompt_ids, (group.completions[side],))
    return alone, {"messages": texts["messages"], "completions": [texts["completions"][side]]}
