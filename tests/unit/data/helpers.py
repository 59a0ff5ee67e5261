"""Preparing small data in tests."""

import json
from pathlib import Path

import pytest

from bnf.data.groups import read_groups
from data.preparing.config import PrepareConfig
from data.preparing.prepare import prepare_sources
from data.reading.records import DataSource
from tests.unit.evaluation.fake_engine import no_progress

MODEL = Path(__file__).parents[3] / "models" / "SmolLM2-135M-Instruct"
needs_model = pytest.mark.skipif(not MODEL.is_dir(), reason="the demonstration model is not there; make env fetches it")
LENIENT = PrepareConfig(max_dropped_share=1.0)


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def prepare(output_dir, *sources, config=LENIENT, num_proc=1):
    """(groups, ledger's rows, ledger's counts) of sources: DataSource, or (name, path)."""
    sources = [one if isinstance(one, DataSource) else DataSource(one[0], str(one[1])) for one in sources]
    prepare_sources(sources, MODEL, output_dir, config, num_proc=num_proc, progress=no_progress)
    return read_groups(output_dir), *ledger(output_dir)


def ledger(folder):
    rows = [json.loads(line) for line in (folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]
    return rows, json.loads((folder / "ledger.json").read_text(encoding="utf-8"))


def texts(folder):
    """Per group: the prompt's last message, and its completions as (text, label)."""
    groups = [json.loads(line) for line in (folder / "groups.jsonl").read_text(encoding="utf-8").splitlines()]
    return {group["messages"][-1]["content"]: [(one["text"], one["label"]) for one in group["completions"]] for group in groups}
