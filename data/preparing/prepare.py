"""Makes prompt groups of records: tokenized once, labelled and counted, with a ledger of what became of every row.

Rows are read and rendered in a stream and put into staging. Then labels are resolved prompt by prompt, seeded choices are made over all
preferences, and groups are written one at a time. The bytes of the groups depend on the rows, the tokenizer and the settings alone: not
on the number of processes, nor on where the data lie.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bnf.data.groups import DEV, TEXTS_FILE, Completion, GroupsWriter, PromptGroup, read_groups
from bnf.data.marked import context_of
from data.preparing.config import PrepareConfig
from data.preparing.group_counter import GroupCounter
from data.preparing.label_resolution import resolve_all
from data.preparing.languages import language_of_prompt
from data.preparing.ledger import Ledger
from data.preparing.pool import num_cores, render_rows
from data.preparing.render import Left, RenderedCandidate, RenderedRow, check_length, prompt_digest
from data.preparing.select import check_selection, mark_sides_still_there, select
from data.preparing.staging import CandidateEntry, Staging
from data.reading.records import DataSource
from data.rows import Candidate
from evaluation.records import Record, read_repaired
from evaluation.types import Progress


def prepare_labelled(
    labelled_file: Path, output_dir: Path, config: PrepareConfig, *, offline_dir: Path | None = None, progress: Progress
) -> None:
    """Makes groups of the sampled completions in labelled.jsonl, with exactly the token ids that were sampled and without held-out prompts.

    With `offline_mix` that share of the groups comes from `offline_dir`, in an order that follows from the seed: different ones in each
    round, as long as there are some.

    A dispreferred completion whose turn did not end (it ran into the limit) is kept without the end that the model never wrote. A
    preferred one would teach the model not to stop, and is left out.

    Raises:
        ValueError: more than `max_dropped_share` of the prompts are lost, a prompt is too long and `truncation` is "raise", or there are
            fewer offline groups than `offline_mix` asks for.
    """
    records = [record for record in read_repaired(labelled_file) if not record["held_out"]]
    rows = (_sampled_row(record, number, config) for number, record in enumerate(records, start=1))
    _prepare(rows, [labelled_file.name], output_dir, config, [], lambda done: progress(done, len(records), ""), offline_dir)
    progress(len(records), len(records), "")


def prepare_sources(
    sources: Sequence[DataSource],
    model_dir: Path,
    output_dir: Path,
    config: PrepareConfig,
    *,
    num_proc: int | None = None,
    progress: Progress,
) -> None:
    """Makes groups of the sources' rows, rendered with the model's chat template by `num_proc` processes (None: one per core).

    All that the data say of one prompt is one group; groups are in the order in which their prompts first appear.

    Raises:
        FileNotFoundError, ValueError: a source can't be read; and as `prepare_labelled`.
    """
    rows = render_rows(sources, model_dir, config, num_proc or num_cores(), progress)
    names = [Path(source.path).name for source in sources]
    # Sources of one name get their numbers, as their rows' ids do.
    names = [f"{number}:{name}" if names.count(name) > 1 else name for number, name in enumerate(names)]
    _prepare(rows, names, output_dir, config, sources, lambda done: None)


def _prepare(
    rows: Iterable[RenderedRow],
    names: Sequence[str],
    output_dir: Path,
    config: PrepareConfig,
    sources: Sequence[DataSource],
    on_row: Callable[[int], None],
    offline_dir: Path | None = None,
) -> None:
    with Staging(output_dir, config.seed) as staging:
        unread: dict[int, Counter[str]] = {}
        for number, row in enumerate(rows, start=1):
            staging.add(row)
            if row.unread:
                unread.setdefault(row.source, Counter()).update(row.unread)
            on_row(number)
        resolve_all(staging, config)
        select(staging, sources, config)
        staging.set_row_outcomes()
        mark_sides_still_there(staging)
        ledger = Ledger(staging, names, unread)
        try:
            if len(sources) > 1:
                ledger.check_sources(output_dir / "ledger.jsonl")
            check_selection(staging, sources, names, config)
            ledger.check(config.max_dropped_share, output_dir / "ledger.jsonl")
        except ValueError:
            ledger.write(output_dir, GroupCounter().statistics(), GroupCounter().statistics())
            raise
        origins = [source.source for source in sources] or ["sample"]
        dev_groups = GroupCounter()
        # A round may have no dev prompt.
        if staging.number("select count(*) from prompts where live = 1 and dev = 1"):
            dev_groups = _write_groups(staging, output_dir / DEV, origins, config, dev=True)
        groups = _write_groups(staging, output_dir, origins, config, dev=False, offline_dir=offline_dir)
        ledger.write(output_dir, groups.statistics(), dev_groups.statistics())


def _write_groups(
    staging: Staging,
    folder: Path,
    origins: Sequence[str],
    config: PrepareConfig,
    *,
    dev: bool,
    offline_dir: Path | None = None,
) -> GroupCounter:
    counter = GroupCounter()
    with GroupsWriter(folder) as writer:
        for no, id, messages, context, ids, language in staging.run(
            "select no, id, messages, context, ids, language from prompts where live = 1 and dev = ? order by no", dev
        ):
            completions, pairs = _completions(staging, no, with_pairs=config.pairing != "none")
            prompt_ids = array("i")
            prompt_ids.frombytes(ids)
            group = PromptGroup(
                id,
                prompt_ids,
                tuple(
                    Completion(one.ids, label, one.score, "/".join(filter(None, [origins[one.source], one.origin])))
                    for one, label in completions
                ),
                pairs,
            )
            prompt = {"messages": json.loads(messages), **json.loads(context)}
            writer.add(group, {**prompt, "completions": [one.text for one, _ in completions]})
            texts = {one.text for one, _ in completions}
            counter.add(group, language, len(completions) - len(texts))
        if offline_dir is not None:
            for group, text in _offline(staging, offline_dir, counter.num_groups, config):
                writer.add(group, text)
                counter.add(group, language_of_prompt(text["messages"]), 0, offline=True)
    return counter


def _offline(staging: Staging, folder: Path, num_sampled: int, config: PrepareConfig) -> list[tuple[PromptGroup, Record]]:
    """The round's share of the offline groups, with their texts, without the prompts of the dev set."""
    pool = [
        (group, text)
        for group, text in zip(read_groups(folder), read_repaired(folder / TEXTS_FILE), strict=True)
        if not staging.is_put_aside(prompt_digest(text["messages"], context_of(text)), config.dev_fraction)
    ]
    number = round(num_sampled * config.offline_mix / (1 - config.offline_mix))
    if number > len(pool):
        raise ValueError(
            f"sample.offline_mix must leave room for the data's prompts, got {config.offline_mix:g}, which takes {number} of them beside "
            f"{num_sampled} sampled ones, of {len(pool)} there are; lower it, or sample fewer prompts"
        )
    order = sorted(pool, key=lambda one: hashlib.sha256(f"{config.seed}:{one[0].id}".encode()).digest())
    first = (config.round - 1) * number
    taken = [order[place % len(order)] for place in range(first, first + number)]
    return [
        (
            group,
            {
                "messages": text["messages"],
                **context_of(text),
                "completions": [one["text"] for one in text["completions"]],
            },
        )
        for group, text in taken
    ]


def _completions(
    staging: Staging, prompt: int, *, with_pairs: bool
) -> tuple[list[tuple[CandidateEntry, int]], tuple[tuple[int, int], ...]]:
    """A prompt's completions with their labels, one for each text and label, and the pairs among them, by the selected preferences."""
    candidates = {one.no: one for one in staging.candidates(prompt)}
    kept: dict[tuple[str, int], CandidateEntry] = {}
    links: dict[tuple[tuple[str, int], tuple[str, int]], None] = {}
    for preference in staging.selected(prompt):
        for sign in preference.signs:
            sides = [(candidates[no].text, label * sign) for no, label in preference.sides]
            for (no, _), side in zip(preference.sides, sides, strict=True):
                kept.setdefault(side, candidates[no])
            if with_pairs and len(sides) == 2:
                links[(sides[0], sides[1]) if sign > 0 else (sides[1], sides[0])] = None
    # A text that is both preferred and dispreferred is there twice.
    order = sorted(kept, key=lambda side: (kept[side].no, -side[1]))
    place = {side: index for index, side in enumerate(order)}
    return [(kept[side], side[1]) for side in order], tuple((place[chosen], place[rejected]) for chosen, rejected in links)


def _sampled_row(record: Record, line: int, config: PrepareConfig) -> RenderedRow:
    """A prompt with its samples; a sample that can't be used has the outcome that says why."""
    id, prompt_ids = record["id"], record["prompt_ids"]
    try:
        check_length("max_prompt_length", len(prompt_ids), config, id)
    except Left as left:
        return RenderedRow("", line, id, outcome=left.outcome, detail=left.detail)
    return RenderedRow(
        "",
        line,
        id,
        messages=record["messages"],
        context=context_of(record),
        prompt_ids=prompt_ids,
        candidates=[_sampled(one, len(prompt_ids), config, id) for one in record["completions"]],
        listed=True,
        language=language_of_prompt(record["messages"]),
    )


def _sampled(sampled: Record, num_prompt_tokens: int, config: PrepareConfig, where: str) -> RenderedCandidate:
    # `prepare.ratings` decides the label of a rating on a scale of its own.
    label = None if sampled.get("outcome") in ("own_scale", "unrated") else 1 if sampled["reward"] > 0.5 else -1
    outcome = ""
    if sampled.get("outcome") in ("error", "unrated"):
        outcome = "scorer_error" if sampled["outcome"] == "error" else "unrated"
    elif not sampled["token_ids"]:
        outcome = "empty"
    elif label != -1 and sampled["finish_reason"] != "stop":
        outcome = "unterminated"
    else:
        try:
            check_length("max_length", num_prompt_tokens + len(sampled["token_ids"]), config, where)
        except Left as left:
            outcome = left.outcome
    score = None if sampled["reward"] is None else float(sampled["reward"])
    return RenderedCandidate(Candidate(sampled["text"], label, score), sampled["token_ids"], outcome)
