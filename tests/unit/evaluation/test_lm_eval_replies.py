"""lm-eval's requests: what was answered before a kill is not asked again, and the results are the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.harness.replies import KeptReplies
from evaluation.types import Generation, Sampling
from tests.unit.evaluation.fake_engine import FakeEngine

PROMPTS = [[1, 2], [3], [4, 5, 6], [7]]
ASKED = Sampling(8, stop=["\n"])


class Weighs(FakeEngine):
    """An engine that also weighs: a continuation's log-probability is a third of its first token's id, below 0."""

    def loglikelihoods(self, pairs):
        for index, (context, continuation) in enumerate(pairs):
            self.asked.append((context, continuation))
            yield index, (-continuation[0] / 3, continuation[0] % 2 == 0)


def _echo(ids):
    return Generation(f"said {ids}", list(ids), "stop", len(ids), 3)


def _texts(engine, path, prompts=PROMPTS, sampling=ASKED):
    found = {index: one.completion for index, (one,) in KeptReplies(engine, path).generate(prompts, sampling)}
    return [found[index] for index in range(len(prompts))]


def test_a_kill_loses_no_reply_and_the_others_alone_are_asked_for(tmp_path):
    path = tmp_path / "replies.jsonl"
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            "from pathlib import Path\nfrom tests.unit.evaluation.test_lm_eval_replies import Weighs, _echo, _texts\n"
            f"_texts(Weighs(_echo, takes='ids', kill_after=2), Path({str(path)!r}))",
        ],
        cwd=Path(__file__).parents[3],
    )
    assert killed.returncode == -9
    with path.open("a") as file:
        file.write('{"key": "cut by a k')
    engine = Weighs(_echo, takes="ids")
    assert _texts(engine, path) == [f"said {ids}" for ids in PROMPTS]
    assert engine.asked == PROMPTS[2:]
    assert [sorted(json.loads(line)) for line in path.read_text().splitlines()] == [
        ["completion", "finish_reason", "key", "num_completion_tokens", "num_prompt_tokens"]
    ] * 4


def test_likelihoods_come_back_to_the_last_bit(tmp_path):
    pairs = [([1], [5]), ([1], [8]), ([2, 3], [5, 1])]
    first, again = Weighs(takes="ids"), Weighs(takes="ids")
    found = dict(KeptReplies(first, tmp_path / "replies.jsonl").loglikelihoods(pairs[:2]))
    assert found == {0: (-5 / 3, False), 1: (-8 / 3, True)}
    whole = dict(KeptReplies(again, tmp_path / "replies.jsonl").loglikelihoods(pairs))
    assert whole == {**found, 2: (-5 / 3, False)} and again.asked == pairs[2:]


def test_what_is_asked_otherwise_is_another_request(tmp_path):
    path = tmp_path / "replies.jsonl"
    _texts(Weighs(_echo, takes="ids"), path)
    for sampling in (Sampling(8), Sampling(9, stop=["\n"]), Sampling(8, temperature=0.5, stop=["\n"])):
        engine = Weighs(_echo, takes="ids")
        _texts(engine, path, sampling=sampling)
        assert engine.asked == PROMPTS


def test_samples_of_one_prompt_stay_different_ones(tmp_path):
    said = iter("abcde")
    same, path = [[1, 2]] * 3, tmp_path / "replies.jsonl"
    assert _texts(Weighs(lambda ids: next(said), takes="ids"), path, same[:2]) == ["a", "b"]
    assert _texts(Weighs(lambda ids: next(said), takes="ids"), path, same) == ["a", "b", "c"]
    assert _texts(Weighs(takes="ids"), path, same) == ["a", "b", "c"]


def test_a_failed_request_is_not_kept(tmp_path):
    path = tmp_path / "replies.jsonl"
    _texts(Weighs(lambda ids: Generation("", [], "error: broke", 0, 0), takes="ids"), path)
    assert path.read_text() == ""


def test_a_line_that_is_no_json_is_refused(tmp_path):
    path = tmp_path / "replies.jsonl"
    path.write_text("what?\n")
    with pytest.raises(ValueError, match="must hold a JSON object per line"):
        KeptReplies(Weighs(takes="ids"), path)
