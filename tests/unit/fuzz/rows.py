"""Rows of preferences, of seven sources."""

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from bnf.data.groups import read_groups
from data.preparing.config import PrepareConfig
from data.preparing.prepare import prepare_sources
from data.reading.records import DataSource, Reader
from evaluation.records import Record
from tests.unit.evaluation.fake_engine import no_progress
from tests.unit.fuzz.inputs import changed, json_lines
from tests.unit.fuzz.target import MODEL, Target, in_folder, refused

_CHAT = [{"role": "user", "content": "Say yes"}]
_SEEDS: dict[str, list[Record]] = {
    "pairs": [
        {"id": "a", "prompt": "Say yes", "chosen": "yes", "rejected": "no", "score_chosen": 2, "score_rejected": 1},
        {
            "prompt": _CHAT,
            "chosen": [{"role": "assistant", "content": "yes"}],
            "rejected": [{"role": "assistant", "content": "no"}],
        },
        {
            "chosen": [*_CHAT, {"role": "assistant", "content": "yes"}],
            "rejected": [*_CHAT, {"role": "assistant", "content": "no"}],
        },
    ],
    "thumbs": [
        {"prompt": "Say yes", "completion": "yes", "label": True},
        {"messages": [*_CHAT, {"role": "assistant", "content": "y"}], "label": False},
    ],
    "ratings": [{"prompt": "Say yes", "completions": ["yes", "no"], "ratings": [5, 1], "models": ["a", "b"]}],
    "implicit_pairs": [{"chosen": "Say yes: yes", "rejected": "Say yes: no"}],
    "hh_rlhf": [{"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}],
    "helpsteer": [{"prompt": "a\n<extra_id_1>Assistant\nb\n<extra_id_1>User\nc", "response": "d", "helpfulness": 3}],
    "ultrafeedback_ratings": [
        {"prompt": "a", "completions": [{"response": "b", "overall_score": 4}, {"response": "c", "overall_score": "N/A"}]}
    ],
}
_ROWS = st.sampled_from(sorted(_SEEDS)).flatmap(
    lambda source: st.tuples(
        st.just(source),
        st.sampled_from(["none", "all", "best_worst"]),
        json_lines(st.one_of(st.sampled_from(_SEEDS[source]), changed(_SEEDS[source], ("tools", "system", "tie", "context")))),
    )
)


@in_folder
def _rows(folder: Path, drawn: tuple[str, Any, bytes]) -> str:
    """Each row of the file is one of the ledger, and as many completions as the ledger says are in the groups."""
    source, pairing, data = drawn
    file = folder / "rows.jsonl"
    file.write_bytes(data)
    found = DataSource(source, str(file))
    fared = refused(
        lambda: prepare_sources(
            [found],
            MODEL,
            folder / "out",
            PrepareConfig(pairing=pairing, max_dropped_share=1.0, max_length=4096),
            num_proc=1,
            progress=no_progress,
        )
    )
    ledger = folder / "out" / "ledger.jsonl"
    if not ledger.exists():
        assert fared == "refused"
        return fared
    outcomes = [json.loads(line)["outcome"] for line in ledger.read_bytes().splitlines()]
    assert len(outcomes) == sum(1 for _ in Reader(found)), "a row is in no record"
    if fared == "refused":
        assert "kept" not in outcomes, "rows that could be kept were lost"
        return fared
    assert len(read_groups(folder / "out"))
    return "taken" if set(outcomes) == {"kept"} else "left out"


TARGETS = [Target("rows", _ROWS, _rows, ("taken", "left out", "refused"), quick=40, nightly=2_000)]
