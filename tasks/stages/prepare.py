"""Prepare: labelled samples or preference sources become prompt groups and a ledger."""

from __future__ import annotations

from pathlib import Path

from evaluation.records import read_json
from tasks.job import Job

ORDER = 50
READS = {"model": "model", "source*": "file", "labelled": "label", "offline": "prepare"}
CONTENT = ("groups.safetensors", "groups.jsonl", "dev/groups.safetensors", "dev/groups.jsonl")
REPORT = "data"
RAY = True


def run(job: Job) -> None:
    from data.preparing.config import PrepareConfig
    from data.preparing.prepare import prepare_labelled, prepare_sources
    from data.reading.records import DataSource

    config = PrepareConfig.from_dict(job.settings["prepare"])
    if "labelled" in job.inputs:
        labelled, offline = job.inputs["labelled"] / "labelled.jsonl", job.inputs.get("offline")
        prepare_labelled(labelled, job.output, config, offline_dir=offline, progress=job.progress)
        return
    sources = []
    for number, settings in enumerate(job.settings["sources"]):
        # A URL with a signature is whole outside the key.
        local = job.inputs.get(f"source{number}") or job.settings.get("urls", {}).get(f"source{number}")
        given = {name: value for name, value in settings.items() if name != "version"}
        sources.append(DataSource(**(given | {"path": str(local)} if local else given)))
    prepare_sources(
        sources,
        job.inputs["model"],
        job.output,
        config,
        num_proc=job.settings["num_proc"],
        ray=job.settings.get("ray"),
        progress=job.progress,
    )


def outcome(output: Path) -> str:
    """How many rows were kept and dropped, and why, in a line: who trains on them should have seen it."""
    from data.preparing.counts import LedgerCounts

    counts = LedgerCounts.from_json(read_json(output / "ledger.json"))
    rows = ", ".join(f"{number} {name}" for name, number in sorted(counts.rows.items(), key=lambda entry: -entry[1]))
    changed = f", {counts.num_changed} of them changed by the chat template" if counts.num_changed else ""
    unread = "".join(
        f"; columns of {source} not read: {', '.join(f'{name} ({_rows(number)})' for name, number in columns.items())}"
        for source, columns in counts.columns_not_read.items()
    )
    return f"{_rows(counts.num_rows)}: {rows}{changed}; {counts.groups.num_groups} groups{unread}; each row in {output / 'ledger.jsonl'}"


def _rows(number: int) -> str:
    return f"{number} row" if number == 1 else f"{number} rows"
