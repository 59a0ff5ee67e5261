"""What judges and servers answer, and files of judgments that others recorded."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st

from bnf.plugins import load, names
from evaluation.engines._chat_reply import completions, too_long, usage
from evaluation.judging.protocols import PROTOCOLS
from evaluation.judging.recorded.score import judge_score
from evaluation.judging.recorded.tables import judgment_rows
from evaluation.records import Record
from tests.unit.evaluation.judgment_files import PROMPT, REFERENCE, comparison
from tests.unit.evaluation.test_arena_hard_v2 import CREATIVE, HARD, WON, row
from tests.unit.evaluation.test_engines import TOO_LONG
from tests.unit.fuzz.inputs import changed, damaged, json_lines, pieces, texts
from tests.unit.fuzz.target import Target, in_folder, refused

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


_REFUSALS = damaged(st.sampled_from([text.encode() for text in TOO_LONG.values()])).map(
    lambda data: data.decode(errors="replace")
)


def _refusal(text: str) -> str:
    """A server's refusal says that the prompt is too long, by a number that tokens can be, or something else."""
    length = too_long(text)
    assert length == too_long(text)
    if length is None:
        return "another"
    assert isinstance(length, int) and 0 <= length < 10**9
    return "too long"


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


TARGETS = [
    Target(
        "verdicts",
        st.tuples(st.sampled_from(names(PROTOCOLS)), st.one_of(texts, pieces)),
        _verdict,
        ("none", "verdict"),
        200,
        26_000,
    ),
    Target("servers' replies", st.tuples(changed(_REPLIES), st.booleans()), _reply, quick=100),
    Target("servers' refusals", st.one_of(_REFUSALS, texts, pieces), _refusal, ("another", "too long"), quick=100),
    Target("recorded judgments", _JUDGMENTS, _judgments),
]
