"""Makes prompt groups of records: tokenized once, labelled and counted, with a ledger of what became of every row.

Rows are read and rendered in a stream and put into staging. Then labels are resolved prompt by prompt, seeded choices are made over all
preferences, and groups are written one at a time. The bytes of the groups depend on the rows, the tokenizer and the settings alone: not
on the number of processes, nor on where the data lie.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bnf.data.groups import DEV, TEXTS_FILE, PromptGroup, read_groups
from bnf.data.marked import context_of
from bnf.host import own_cores
from data.preparing.config import PrepareConfig
from data.preparing.group_counter import GroupCounter
from data.preparing.label_resolution import resolve_all
from data.preparing.languages import language_of_prompt
from data.preparing.ledger import Ledger
from data.preparing.pool import Setting, render_rows
from data.preparing.render import Left, RenderedCandidate, RenderedRow, check_length, prompt_digest
from data.preparing.select import check_selection, mark_sides_still_there, select
from data.preparing.staged import StagedRow, staged
from data.preparing.staging import Staging
from data.preparing.write import Writing, write_groups
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
    preferred one would teach the model not to stop, and is left out, but for `every_sample`.

    Raises:
        ValueError: more than `max_dropped_share` of the prompts are lost, a prompt is too long and `truncation` is "raise", or there are
            fewer offline groups than `offline_mix` asks for.
    """
    records = [record for record in read_repaired(labelled_file) if not record["held_out"]]
    rows = (staged(_sampled_row(record, number, config), config.seed) for number, record in enumerate(records, start=1))

    def say(done: int) -> None:
        progress(done, len(records), "")

    _prepare(rows, [labelled_file.name], output_dir, config, [], say, offline_dir=offline_dir)
    progress(len(records), len(records), "")


def prepare_sources(
    sources: Sequence[DataSource],
    model_dir: Path,
    output_dir: Path,
    config: PrepareConfig,
    *,
    num_proc: int | None = None,
    ray: str | None = None,
    progress: Progress,
) -> None:
    """Makes groups of the sources' rows, rendered with the model's chat template by `num_proc` processes (None: one per core), of this
    machine or of the Ray cluster at the address `ray`.

    All that the data say of one prompt is one group; groups are in the order in which their prompts first appear.

    Raises:
        FileNotFoundError, ValueError: a source can't be read; and as `prepare_labelled`.
    """
    rows = render_rows(Setting(model_dir, sources, config), num_proc, progress, ray=ray)
    names = [Path(source.path).name for source in sources]
    # Sources of one name get their numbers, as their rows' ids do.
    names = [f"{number}:{name}" if names.count(name) > 1 else name for number, name in enumerate(names)]
    # What is in staging lies on this machine, and processes of this machine write it.
    _prepare(
        rows,
        names,
        output_dir,
        config,
        sources,
        lambda done: None,
        num_proc=min(num_proc or len(own_cores()), len(own_cores())),
    )


def _prepare(
    rows: Iterable[StagedRow],
    names: Sequence[str],
    output_dir: Path,
    config: PrepareConfig,
    sources: Sequence[DataSource],
    on_row: Callable[[int], None],
    *,
    num_proc: int = 1,
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
        staging.share()

        def offline(num_sampled: int) -> list[tuple[PromptGroup, Record]]:
            return _offline(staging, offline_dir, num_sampled, config) if offline_dir is not None else []

        origins = [source.source for source in sources] or ["sample"]
        kind = Writing(origins, config.pairing != "none", dev=False, every_sample=config.every_sample)
        dev_groups = GroupCounter()
        # A round may have no dev prompt.
        if staging.number("select count(*) from prompts where live = 1 and dev = 1"):
            dev_groups = write_groups(staging, output_dir / DEV, kind._replace(dev=True), num_proc)
        groups = write_groups(staging, output_dir, kind, num_proc, offline)
        ledger.write(output_dir, groups.statistics(), dev_groups.statistics())


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
    elif label != -1 and sampled["finish_reason"] != "stop" and not config.every_sample:
        outcome = "unterminated"
    else:
        try:
            check_length("max_length", num_prompt_tokens + len(sampled["token_ids"]), config, where)
        except Left as left:
            outcome = left.outcome
    score = None if sampled["reward"] is None else float(sampled["reward"])
    return RenderedCandidate(Candidate(sampled["text"], label, score), sampled["token_ids"], outcome)
