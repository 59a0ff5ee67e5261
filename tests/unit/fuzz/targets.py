"""What reads inputs of others, and what holds of each input: it is taken, refused with a message, or on record as left out.

A `check` returns how an input fared, in one word, and raises where a rule is broken: an error of another kind (a KeyError, an error of a
parser's own), a message that names nothing, a row that is in no record, or the same input read in two ways.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st

from bnf.data.groups import Completion, PromptGroup, read_groups, write_groups
from bnf.plain_yaml import dump
from bnf.plugins import load, names, own_names
from data.preparing.config import PrepareConfig
from data.preparing.prepare import prepare_sources
from data.reading.records import DataSource, Reader
from evaluation.answers.thoughts import MARKERS, OTHER_MARKERS, answer_of, ends_alone, noted, spoken
from evaluation.benchmarks import BENCHMARKS
from evaluation.engines._chat_reply import completions, usage
from evaluation.item_files import OUTCOMES
from evaluation.judging.protocols import PROTOCOLS
from evaluation.judging.recorded.score import judge_score
from evaluation.judging.recorded.tables import judgment_rows
from evaluation.records import Record
from evaluation.scoring.score import score_completions
from flows.errors import RecipeError
from flows.recipe.config import load_recipe, make_recipe
from flows.runs.record import all_runs, unreadable_records
from tasks.keys import ROOT, Ingredients
from tasks.store import Store
from tests.unit.evaluation.fake_engine import no_progress
from tests.unit.evaluation.judgment_files import PROMPT, REFERENCE, comparison
from tests.unit.evaluation.test_arena_hard_v2 import CREATIVE, HARD, WON, row
from tests.unit.fuzz.inputs import changed, damaged, json_lines, pieces, texts, values

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct"
# The longest message: a few lines, whatever the input's length.
MOST_SAID = 4000


@dataclass(frozen=True)
class Target:
    """Inputs of one kind.

    Attributes:
        strategy: draws an input.
        check: says how it fared.
        fares: the words that must all be among the results, so that the inputs are neither all refused nor all taken.
        quick: how many are drawn in the unit tests.
        nightly: how many at night.
    """

    name: str
    strategy: st.SearchStrategy[Any]
    check: Callable[[Any], str]
    fares: tuple[str, ...] = ("taken", "refused")
    quick: int = 60
    nightly: int = 3_000


def refused(act: Callable[[], object], *named: str) -> str:
    """`taken`, or `refused` where an error of the project says why. A subclass would be a parser's own error, which has no remedy."""
    try:
        act()
    except (ValueError, FileNotFoundError) as error:
        assert type(error) in (ValueError, RecipeError, FileNotFoundError), (
            f"{type(error).__name__} is no error of ours: {error}"
        )
        said = str(error)
        assert said and len(said) < MOST_SAID, said[:MOST_SAID]
        assert all(name in said for name in named), f"{named} isn't in {said}"
        said.encode()
        return "refused"
    return "taken"


def in_folder(check: Callable[[Path, Any], str]) -> Callable[[Any], str]:
    """The check with an empty folder for each input."""

    def checked(value: Any) -> str:
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        try:
            return check(folder, value)
        finally:
            shutil.rmtree(folder)

    return checked


# Recipes

_RECIPES = [path.read_bytes() for path in sorted((ROOT / "flows" / "recipes").glob("*.yaml"))]
_TRAINED: Record = {
    "name": "mine",
    "model_name_or_path": "org/model",
    "data": {"source": "pairs", "path": "pairs.jsonl"},
    "prepare": {"max_length": 512, "ratings": {"threshold": 3}},
    "train": {"objective": "bnf", "learning_rate": 1e-5, "objective_options": {}},
    "evaluation": {"benchmarks": {"gsm8k": {"limit": 4}, "math": None}, "num_samples": 1},
    "judge": {"model_name_or_path": "org/judge", "benchmarks": ["mt_bench"]},
}
_KEYS = [f"{section}.{key}" for section, held in _TRAINED.items() if isinstance(held, dict) for key in held] + [
    *_TRAINED,
    "seed",
    "chat_template_kwargs",
]


@in_folder
def _recipe_file(folder: Path, data: bytes) -> str:
    file = folder / "mine.yaml"
    file.write_bytes(data)
    return refused(lambda: _same_again(load_recipe(str(file))))


def _recipe_values(drawn: tuple[Any, list[tuple[str, str]]]) -> str:
    raw, overrides = drawn
    if not isinstance(raw, dict):
        raw = {"name": raw}
    return refused(lambda: _same_again(make_recipe(raw, [f"{key}={text}" for key, text in overrides])))


def _same_again(recipe: Any) -> None:
    """A recipe that is taken is written into its run's folder: what is read from there is the same."""
    values = recipe.model_dump(mode="json", exclude_unset=True)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        (folder / "recipe.yaml").write_text(dump(values))
        assert load_recipe(str(folder / "recipe.yaml")).model_dump() == recipe.model_dump()
    finally:
        shutil.rmtree(folder)


# Rows

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


# Completions

_SCORED = [name for name in names(BENCHMARKS) if own_names(load(BENCHMARKS, name), ["score"]) and name != "ifeval"]
_ITEMS: dict[str, Record] = {
    **{
        name: {"id": "0", "question": "q", "answer": "4"}
        for name in ("gsm8k", "math", "math_l5", "math_500", "aime_2024", "aime_2025")
    },
    **{
        name: {"id": "0", "question": "q", "choices": ["a", "b", "c", "d"], "answer": "B"}
        for name in ("mmlu_redux", "mmlu_pro", "gpqa_diamond")
    },
}


def _first_item(name: str) -> Record:
    if name in _ITEMS:
        return _ITEMS[name]
    return load(BENCHMARKS, name).load("sample" if not load(BENCHMARKS, name).MAKES_ITS_ITEMS else None, 1)[0]


def _completion(drawn: tuple[str, str, str]) -> str:
    """It has one verdict, the same each time, which can be written; and counts as an error only where its generation failed."""
    name, text, finish_reason = drawn
    item = _first_item(name)
    completion = {"id": item["id"], "completion": text, "finish_reason": finish_reason, "num_completion_tokens": 3}
    scored = load(BENCHMARKS, name)
    verdict = scored.score(item, text, finish_reason)
    assert verdict == scored.score(item, text, finish_reason)
    assert verdict.outcome in OUTCOMES and (verdict.outcome != "error")
    assert all(math.isfinite(value) for value in verdict.metrics.values()), verdict.metrics
    json.dumps({**completion, "answer": verdict.answer, "rule": verdict.rule}).encode()
    return str(verdict.outcome)


def _thought(drawn: tuple[str, bool, tuple[str, str]]) -> str:
    """The answer is the completion's end, the same from the record as from the text."""
    text, begun, markers = drawn
    said = spoken(text, begun=begun, markers=markers)
    record = {"completion": text, **noted(text, begun=begun, markers=markers)}
    if markers == MARKERS and not begun:
        assert answer_of({"completion": text}) == said
    assert answer_of(record) == said or (begun and "answer_start" not in record)
    ends_alone(text, markers)
    if said is None:
        return "unfinished"
    assert text.endswith(said) and (said == text or not said[:1].isspace())
    return "whole" if said == text else "cut off"


# Judges

_REPLIES: list[Record] = [
    {
        "choices": [
            {
                "finish_reason": "stop",
                "message": {"content": "[[A>B]]"},
                "logprobs": {"content": [{"top_logprobs": [{"token": "A", "logprob": -0.1}, {"token": "B", "logprob": -3.0}]}]},
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
]


def _verdict(drawn: tuple[str, str]) -> str:
    name, reply = drawn
    protocol = load(PROTOCOLS, name)
    verdict = protocol.parse(reply)
    assert verdict == protocol.parse(reply)
    protocol.wants_more(reply)
    if verdict is None:
        return "none"
    assert verdict in protocol.LABELS.values() or (isinstance(verdict, float) and 1 <= verdict <= 10), verdict
    return "verdict"


def _reply(drawn: tuple[Any, bool]) -> str:
    """A server's JSON, as the client gives it: objects for mappings."""
    value, with_logprobs = drawn
    reply = _as_object(value)
    told = usage(reply)
    assert told is None or all(number >= 0 for number in told)

    def read() -> None:
        for one in completions(reply, 1, with_logprobs=with_logprobs):
            assert isinstance(one.text, str) and isinstance(one.finish_reason, str)

    return refused(read)


def _as_object(value: Any) -> Any:
    if isinstance(value, dict):
        return SimpleNamespace(**{str(key): _as_object(inner) for key, inner in value.items()})
    return [_as_object(inner) for inner in value] if isinstance(value, list) else value


_GAME = {
    "form": "pairwise",
    "question_id": "q0",
    "candidate": "m",
    "baseline": "b",
    "judge": "j",
    "game": 1,
    "verdict": "A>B",
    "candidate_style": None,
    "baseline_style": None,
}
_PROMPTED = [
    {"score": "A>B", "user_prompt": PROMPT.format("base", "**mine**")},
    {"score": "B>A", "user_prompt": PROMPT.format("**mine**", "base")},
]
_JUDGED: dict[str, list[Any]] = {
    "arena_hard": [
        _GAME,
        {"question_id": "q1", "model": "m", "judge": "j", "games": _PROMPTED},
        row(0, "hard_prompt", HARD, WON),
        row(1, "creative_writing", CREATIVE, WON),
    ],
    "wildbench": [
        {"session_id": "s0", "model_test": "m", "score": "7", "parsed_result": {"score": "7"}, "model_output": "text"},
        comparison(1, "m", "A++"),
        {
            **_GAME,
            "form": "checklist_score",
            "verdict": 7.0,
            "baseline": None,
            "output": {"characters": 4, "empty": False, "cut": False},
        },
    ],
}
_JUDGMENTS = st.sampled_from(sorted(_JUDGED)).flatmap(
    lambda name: st.tuples(st.just(name), json_lines(st.one_of(st.sampled_from(_JUDGED[name]), changed(_JUDGED[name]))))
)


@in_folder
def _judgments(folder: Path, drawn: tuple[str, bytes]) -> str:
    """Every line of a whole file is a judgment, a fault that is counted, or the error that refuses the file."""
    benchmark, data = drawn
    file = folder / f"m.{REFERENCE}.jsonl"
    file.write_bytes(data)

    def read() -> None:
        result = judge_score(benchmark, [file])
        assert judgment_rows(result)
        json.dumps(result, allow_nan=False)

    return refused(read)


# Files

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
_SETTINGS = st.lists(st.tuples(st.one_of(st.sampled_from(_KEYS), texts), st.one_of(texts, values.map(repr))), max_size=2)

TARGETS = [
    Target("recipe files", damaged(st.sampled_from(_RECIPES)), _recipe_file, quick=40),
    Target("recipe values", st.tuples(changed([_TRAINED], _KEYS), _SETTINGS), _recipe_values),
    Target("rows", _ROWS, _rows, ("taken", "left out", "refused"), quick=40, nightly=2_000),
    Target(
        "completions",
        st.tuples(st.sampled_from(_SCORED), st.one_of(texts, pieces), st.sampled_from(["stop", "length"])),
        _completion,
        ("correct", "wrong", "no_answer"),
        200,
        26_000,
    ),
    Target(
        "thoughts",
        st.tuples(texts, st.booleans(), st.sampled_from([MARKERS, *OTHER_MARKERS])),
        _thought,
        ("unfinished", "whole", "cut off"),
        200,
        26_000,
    ),
    Target(
        "verdicts",
        st.tuples(st.sampled_from(names(PROTOCOLS)), st.one_of(texts, pieces)),
        _verdict,
        ("none", "verdict"),
        200,
        26_000,
    ),
    Target("servers' replies", st.tuples(changed(_REPLIES), st.booleans()), _reply, quick=100),
    Target("recorded judgments", _JUDGMENTS, _judgments),
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
