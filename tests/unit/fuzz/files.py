"""Files that a run left and something damaged: items and completions, manifests, records of runs, prepared data."""

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from bnf.data.groups import Completion, PromptGroup, read_groups, write_groups
from evaluation.records import Record
from evaluation.scoring.score import score_completions
from flows.runs.record import all_runs, unreadable_records
from tasks.keys import Ingredients
from tasks.store import Store
from tests.unit.fuzz.inputs import changed, damaged, json_lines, pieces
from tests.unit.fuzz.target import Target, in_folder, refused

_SAMPLE_ITEMS = [{"id": f"i{number}", "question": f"{number} + 1?", "answer": str(number + 1)} for number in range(3)]
_SAMPLE_COMPLETIONS = [
    {
        "id": f"i{number}",
        "completion": '{"answer": "1"}',
        "finish_reason": "stop",
        "num_completion_tokens": 5,
        "answer_start": 0,
    }
    for number in range(3)
]


@in_folder
def _scored_files(folder: Path, drawn: tuple[bytes, bytes]) -> str:
    """A score is over all lines of the file, or the file is refused by its name."""
    items, said = drawn
    (folder / "items.jsonl").write_bytes(items)
    file = folder / "completions.jsonl"
    file.write_bytes(said)

    def read() -> None:
        score = score_completions("gsm8k", file)
        lines = [line for line in said.split(b"\n") if line.strip()]
        assert sum(score[key] for key in ("num_correct", "num_wrong", "num_no_answer", "num_error") if key in score) in (
            0,
            len(lines),
        )

    return refused(read, str(folder))


_MADE_OF = Ingredients("score", {"limit": 3}, {"completions": "abc"}, {"tasks.stages.score": "def"})


@in_folder
def _manifest(folder: Path, drawn: tuple[str, Any]) -> str:
    """An artifact whose manifest or pointer was damaged is found whole, or not at all; it is never an error."""
    which, data = drawn
    store = Store(folder / "artifacts", verify=True)
    work = store.work_folder("score", _MADE_OF.key())
    (work / "scores.jsonl").write_text("content")
    artifact = store.commit(_MADE_OF, work, content=("*.jsonl",), fingerprint=None, about={"seconds": 1.0})
    file = artifact.path / "manifest.json" if which == "manifest" else artifact.path.parent / f"{_MADE_OF.key()}.json"
    whole = file.read_bytes()
    file.write_bytes(_damage(whole, data))
    store = Store(folder / "artifacts", verify=True)
    found = store.find("score", _MADE_OF.key())
    if found is None:
        said = store.problem("score", _MADE_OF.key())
        assert said is None or str(folder) in said
        return "refused"
    assert (found.path / "scores.jsonl").read_text() == "content"
    return "taken"


def _damage(whole: bytes, how: tuple[int, int, bytes]) -> bytes:
    start, length, other = how
    start %= len(whole) + 1
    return whole[:start] + other + whole[start + length :]


_RUN: Record = {
    "run": "a-1",
    "recipe": "a",
    "state": "completed",
    "started": "2026-11-30T08:00:00+00:00",
    "flow_run_id": None,
    "overrides": {},
    "changed": {},
    "tasks": {
        "score": {"stage": "score", "key": "k", "fingerprint": "f", "path": "/x/score/k.f", "cached": False, "seconds": 1.0}
    },
    "also_working": [{"stage": "train", "key": "k", "task": "train"}],
    "ended": "2026-11-30T08:01:00+00:00",
    "why": None,
}


@in_folder
def _run_record(folder: Path, data: bytes) -> str:
    """A damaged record is among the runs or among the unreadable ones, and hides no other."""
    for name in ("a-1", "b-1"):
        (folder / "runs" / name).mkdir(parents=True)
        (folder / "runs" / name / "run.json").write_text(json.dumps({**_RUN, "run": name}))
    (folder / "runs" / "a-1" / "run.json").write_bytes(data)
    runs, unreadable = all_runs(folder), unreadable_records(folder)
    assert [run.folder.name for run in runs if run.folder.name == "b-1"] == ["b-1"]
    assert len(runs) + len(unreadable) == 2
    for run in runs:
        assert run.state
    return "refused" if unreadable else "taken"


_GROUPS = [
    PromptGroup(f"g{number}", [5, 6, 7], (Completion([8, 9], 1), Completion([9, 8, 7], -1)), ((0, 1),)) for number in range(3)
]


@in_folder
def _groups(folder: Path, how: tuple[int, int, bytes]) -> str:
    """Prepared data that were damaged are refused, or are groups as they can be."""
    write_groups(folder, _GROUPS)
    file = next(path for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".npz", ".bin"))
    file.write_bytes(_damage(file.read_bytes(), how))
    return refused(lambda: [group.num_tokens for group in read_groups(folder)], str(folder))


_CUTS = st.tuples(
    st.integers(0, 5000),
    st.sampled_from([0, 1, 2, 9, 100, 10**6]),
    st.one_of(st.binary(max_size=9), pieces.map(lambda text: text.encode(errors="surrogatepass"))),
)

TARGETS = [
    Target(
        "files of completions",
        st.tuples(
            json_lines(st.one_of(st.sampled_from(_SAMPLE_ITEMS), changed(_SAMPLE_ITEMS))),
            json_lines(st.one_of(st.sampled_from(_SAMPLE_COMPLETIONS), changed(_SAMPLE_COMPLETIONS))),
        ),
        _scored_files,
    ),
    Target("manifests", st.tuples(st.sampled_from(["manifest", "pointer"]), _CUTS), _manifest),
    Target("records of runs", damaged(changed([_RUN]).map(lambda value: json.dumps(value).encode())), _run_record),
    Target("prepared data", _CUTS, _groups),
]
