"""Completions by prompt: only what is new is generated, whatever was killed before."""

import json

import pytest

from evaluation.generation.completion_cache import CompletionCache
from evaluation.generation.generate import generate
from evaluation.types import Generation, Sampling
from tests.unit.evaluation.fake_engine import FakeEngine, no_progress
from tests.unit.evaluation.test_generate import ITEMS, _echo, _messages


def _run(folder, items, engine=None, *, read=True, file="cache.jsonl"):
    engine = engine or FakeEngine(_echo)
    cache = CompletionCache(folder / file, read=read)
    output = folder / f"out-{len(list(folder.iterdir()))}"
    generate(engine, None, items, _messages, Sampling(16), output, no_progress, cache)
    records = [json.loads(line) for line in (output / "completions.jsonl").read_text().splitlines()]
    return engine, records


def test_a_raised_limit_generates_the_new_items_alone(tmp_path):
    _run(tmp_path, ITEMS[:3])
    engine, records = _run(tmp_path, ITEMS)
    assert len(engine.asked) == 4
    assert [record["id"] for record in records] == [item["id"] for item in ITEMS]
    assert records == _run(tmp_path, ITEMS, file="none.jsonl")[1], "what comes from the cache is what would be generated"


def test_it_is_the_prompt_that_counts_and_not_the_items_name(tmp_path):
    _run(tmp_path, ITEMS)
    renamed = [{**item, "id": f"other-{item['id']}"} for item in ITEMS]
    engine, records = _run(tmp_path, renamed)
    assert engine.asked == [] and records[0]["id"] == "other-q0"
    engine, _ = _run(tmp_path, [{"id": "q0", "question": "another"}])
    assert len(engine.asked) == 1


def test_a_refresh_reads_nothing_and_what_it_gives_is_what_counts_from_then_on(tmp_path):
    _run(tmp_path, ITEMS)
    engine, _ = _run(tmp_path, ITEMS, FakeEngine(lambda messages: "new"), read=False)
    assert len(engine.asked) == 7
    engine, records = _run(tmp_path, ITEMS)
    assert engine.asked == [] and {record["completion"] for record in records} == {"new"}


@pytest.mark.parametrize("cut", [1, 20])
def test_a_line_that_a_kill_left_unfinished_is_generated_again(tmp_path, cut):
    _run(tmp_path, ITEMS)
    path = tmp_path / "cache.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    engine, records = _run(tmp_path, ITEMS)
    assert len(engine.asked) == 1 and len(records) == 7
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_failures_and_prompts_without_room_are_not_kept(tmp_path):
    cache = CompletionCache(tmp_path / "c.jsonl")
    for reason in ("error: 503", "prompt_too_long", "abort"):
        cache.put([1, 2], Generation("", [], reason, 2, 0))
    assert CompletionCache(tmp_path / "c.jsonl").get([1, 2]) is None
    cache.put([1, 2], Generation("yes", [5], "length", 2, 1))
    assert CompletionCache(tmp_path / "c.jsonl").get([1, 2]) == Generation("yes", [], "length", 2, 1)


def test_two_writers_at_once_lose_nothing(tmp_path):
    first, second = CompletionCache(tmp_path / "c.jsonl"), CompletionCache(tmp_path / "c.jsonl")
    for number in range(20):
        (first if number % 2 else second).put([number], Generation(str(number), [], "stop", 1, 1))
    whole = CompletionCache(tmp_path / "c.jsonl")
    assert all(whole.get([number]).completion == str(number) for number in range(20))


def test_the_stage_keys_the_cache_by_model_engine_and_decoding(tmp_path):
    from tasks.job import Job
    from tasks.stages.generate import _cache_file

    def file(model="m", version="1", max_new_tokens=16):
        settings = {"engine": {"name": "vllm", "version": version}}
        job = Job(settings, {}, tmp_path / "artifacts" / "generate" / "k.work", no_progress, {"model": model})
        return _cache_file(job, Sampling(max_new_tokens))

    assert file() == file() and file().parent == tmp_path / "artifacts" / "completions"
    assert len({file(), file(model="n"), file(version="2"), file(max_new_tokens=17)}) == 4


def test_completions_with_limited_thoughts_are_keyed_by_the_code_that_limits_them(tmp_path, monkeypatch):
    from tasks.job import Job
    from tasks.stages import generate

    def file(markers, changed):
        monkeypatch.setattr(
            generate, "code_digests", lambda entries: {entry: str(entry.endswith(changed)) for entry in entries}
        )
        job = Job({"engine": {"name": "vllm"}}, {}, tmp_path / "generate" / "k.work", no_progress, {"model": "m"})
        return generate._cache_file(job, Sampling(16), markers)

    markers = ["<think>", "</think>"]
    assert file(markers, "generation.thinking") != file(markers, "nothing") != file(markers, "engines.vllm")
    assert file(None, "generation.thinking") == file(None, "nothing")
