"""What models write: completions that a benchmark scores, and the thoughts before them."""

import json
import math

from hypothesis import strategies as st

from bnf.plugins import load, names, own_names
from evaluation.answers.thoughts import MARKERS, OTHER_MARKERS, answer_of, ends_alone, noted, spoken
from evaluation.benchmarks import BENCHMARKS
from evaluation.item_files import OUTCOMES
from evaluation.records import Record
from tests.unit.fuzz.inputs import pieces, texts
from tests.unit.fuzz.target import Target

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


TARGETS = [
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
]
