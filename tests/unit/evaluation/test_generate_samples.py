"""Samples of items: the same ones whatever was killed before, and only the missing ones where more are asked for."""

import itertools
import json
import random
import subprocess
import sys
import textwrap

import pytest

from evaluation.engines import unheard
from evaluation.generation.completion_cache import CompletionCache
from evaluation.generation.samples import CHUNK_ITEMS, generate_samples, sample_seed
from evaluation.types import Generation, Sampling
from tests.unit.evaluation.fake_engine import FakeEngine, no_progress
from tests.unit.evaluation.test_generate import ROOT

ITEMS = [{"id": f"q{number}", "question": f"{number} + 1"} for number in range(CHUNK_ITEMS + 3)]
SAMPLING = Sampling(16, temperature=0.6, top_p=0.95)


class Seeded(FakeEngine):
    """An engine that gives each request a seed of its own: a text depends on nothing but prompt and seed."""

    def generate(self, prompts, sampling, received=unheard):
        assert len(sampling.seeds) == len(prompts)
        self._answer, numbers = (lambda _: None), itertools.count()
        texts = [
            f"{prompt[-1]['content']} {random.Random(seed).randrange(10**6)}"
            for prompt, seed in zip(prompts, sampling.seeds, strict=True)
        ]
        self._answer = lambda _: texts[next(numbers)]
        yield from super().generate(prompts, sampling, received)


def run(output, num_samples, *, own_seeds, items=ITEMS, kill_after=None, cache=None, engine=None):
    engine = engine or (Seeded if own_seeds else FakeEngine)(kill_after=kill_after)
    generate_samples(
        engine,
        None,
        items,
        lambda item: [{"role": "user", "content": item["question"]}],
        SAMPLING,
        num_samples,
        output,
        no_progress,
        cache,
        own_seeds=own_seeds,
    )
    return engine, [json.loads(line) for line in (output / "completions.jsonl").read_text().splitlines()]


both = pytest.mark.parametrize("own_seeds", [False, True], ids=["chunks", "own seeds"])


@both
def test_each_item_has_each_sample_once_and_they_differ(tmp_path, own_seeds):
    _, records = run(tmp_path, 4, own_seeds=own_seeds)
    assert [(one["id"], one["sample"]) for one in records] == [(item["id"], n) for item in ITEMS for n in range(4)]
    assert len({one["completion"] for one in records}) == len(records)
    assert [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()] == ITEMS


@both
@pytest.mark.parametrize("cut", [0, 30])
def test_after_a_kill_the_samples_are_those_of_a_run_that_was_not_killed(tmp_path, own_seeds, cut):
    _, whole = run(tmp_path / "whole", 3, own_seeds=own_seeds)
    script = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from tests.unit.evaluation.test_generate_samples import run
        from pathlib import Path
        run(Path({str(tmp_path / "killed")!r}), 3, own_seeds={own_seeds}, kill_after=24)
    """
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True)
    assert died.returncode == -9, died.stderr.decode()
    path = tmp_path / "killed" / "completions.jsonl"
    data = path.read_bytes()
    assert data.count(b"\n") == 24, "what was finished is on disk"
    path.write_bytes(data[: len(data) - cut])
    left = len(whole) - path.read_bytes().count(b"\n")
    engine, records = run(tmp_path / "killed", 3, own_seeds=own_seeds)
    assert records == whole
    # Where requests have no seeds of their own, the chunk that was under way is computed again as a whole.
    assert len(engine.asked) == left if own_seeds else left <= len(engine.asked) < len(whole)


@both
def test_more_samples_make_only_the_missing_ones(tmp_path, own_seeds):
    _, eight = run(tmp_path / "eight", 8, own_seeds=own_seeds)
    cache = tmp_path / "cache.jsonl"
    run(tmp_path / "four", 4, own_seeds=own_seeds, cache=CompletionCache(cache))
    engine, records = run(tmp_path / "more", 8, own_seeds=own_seeds, cache=CompletionCache(cache))
    assert records == eight and len(engine.asked) == 4 * len(ITEMS)
    engine, records = run(tmp_path / "again", 8, own_seeds=own_seeds, cache=CompletionCache(cache))
    assert records == eight and engine.asked == []
    engine, _ = run(tmp_path / "refreshed", 8, own_seeds=own_seeds, cache=CompletionCache(cache, read=False))
    assert len(engine.asked) == 8 * len(ITEMS)


def test_it_says_how_many_were_there(tmp_path, capfd):
    for number in (1, 2):
        run(tmp_path / str(number), number, own_seeds=True, cache=CompletionCache(tmp_path / "cache.jsonl"))
    assert f"{len(ITEMS)} of {2 * len(ITEMS)} completions are those of earlier generations" in capfd.readouterr().out


def test_items_that_ask_the_same_in_one_chunk_have_samples_of_their_own(tmp_path):
    items = [{"id": name, "question": "the same"} for name in ("a", "b")]
    for folder in ("one", "other"):
        _, records = run(tmp_path / folder, 2, own_seeds=False, items=items, cache=CompletionCache(tmp_path / "cache.jsonl"))
        assert len({one["completion"] for one in records}) == 4


def test_one_sample_has_no_number_and_is_the_first_of_several(tmp_path):
    _, one = run(tmp_path / "one", 1, own_seeds=True)
    _, two = run(tmp_path / "two", 2, own_seeds=True)
    assert "sample" not in one[0]
    assert one == [{key: value for key, value in record.items() if key != "sample"} for record in two if not record["sample"]]


def test_seeds_are_fixed_and_differ_by_item_and_sample():
    assert sample_seed("q0", 0) == 1954776247
    assert len({sample_seed(f"q{item}", sample) for item in range(60) for sample in range(64)}) == 60 * 64


def test_failures_are_named_and_tried_again(tmp_path):
    failing = FakeEngine(lambda prompt: Generation("", [], "error: 503", 0, 0) if "2 +" in prompt[-1]["content"] else "text")
    with pytest.raises(RuntimeError, match=r"4 of 38 completions failed, .* first q2, sample 0: error: 503"):
        run(tmp_path, 2, own_seeds=False, engine=failing)
    assert len((tmp_path / "completions.jsonl").read_text().splitlines()) == 34
    _, records = run(tmp_path, 2, own_seeds=False, engine=FakeEngine(lambda _: "text"))
    assert len(records) == 38


def test_other_items_completions_are_refused(tmp_path):
    run(tmp_path, 2, own_seeds=True)
    with pytest.raises(ValueError, match="these items alone"):
        run(tmp_path, 2, own_seeds=True, items=ITEMS[:2])


def test_what_cannot_be_had_of_an_own_seed_is_not_asked_for(tmp_path):
    """An engine without seeds of its own gets none: it would draw all prompts from them in silence."""
    seen = []

    class Watching(FakeEngine):
        def generate(self, prompts, sampling, received=unheard):
            seen.append((len(prompts), sampling.seeds))
            yield from super().generate(prompts, sampling, received)

    run(tmp_path, 2, own_seeds=False, engine=Watching())
    assert seen == [(CHUNK_ITEMS, None), (3, None), (CHUNK_ITEMS, None), (3, None)]
