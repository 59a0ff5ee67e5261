"""Thoughts with a limit on several replicas, each in a thread of its own. A token is a character here."""

import queue
import threading
import time

from evaluation.generation import samples, thinking
from evaluation.generation.samples import generate_samples
from evaluation.generation.thinking import ThinkingEngine
from evaluation.types import Sampling
from tests.unit.evaluation.fake_engine import no_progress
from tests.unit.evaluation.thinking_models import LONG, MARKERS, Characters, Model


class FakeReplicas(list):
    version, max_model_len = "replicas 1", None


def test_replicas_share_chunks_out_with_the_limit_on_each(monkeypatch):
    """A chunk is one replica's: were it split, its random numbers would depend on how many there are."""
    replicas, chunks = [Model({"a": LONG}), Model({"a": LONG})], [[[97, 63]], [[97, 63]]]

    def each_its_own(engines, chunks, work):
        for engine, chunk in zip(engines, chunks, strict=True):
            yield from work(engine, chunk)

    monkeypatch.setattr(thinking, "share_chunks", each_its_own)
    shared = ThinkingEngine(FakeReplicas(replicas), Characters(), MARKERS, 11)
    found = shared.share_chunks(chunks, lambda engine, chunk: engine.generate(chunk, Sampling(60)))
    assert [one.is_thought_cut for _, (one,) in found] == [True, True] and [len(each.calls) for each in replicas] == [2, 2]


class OneAtATime(Characters):
    """A tokenizer that notes when two threads use it at once, which fast tokenizers refuse."""

    def __init__(self):
        super().__init__()
        self._busy, self.met, self.threads = threading.Lock(), 0, set()

    def _use(self, work):
        self.threads.add(threading.get_ident())
        is_free = self._busy.acquire(blocking=False)
        self.met += not is_free
        try:
            time.sleep(0.002)
            return work()
        finally:
            if is_free:
                self._busy.release()

    def __call__(self, *args, **options):
        return self._use(lambda: super(OneAtATime, self).__call__(*args, **options))

    def decode(self, *args, **options):
        return self._use(lambda: super(OneAtATime, self).decode(*args, **options))


def in_threads(engines, chunks, work):
    """As `share_chunks` has it: each replica in a thread of its own, and the results in the caller's."""
    found, waiting = queue.Queue(), queue.Queue()
    for chunk in chunks:
        waiting.put(chunk)

    def serve(engine):
        while True:
            try:
                chunk = waiting.get_nowait()
            except queue.Empty:
                return
            for result in work(engine, chunk):
                found.put(result)

    threads = [threading.Thread(target=serve, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or not found.empty():
        try:
            yield found.get(timeout=0.01)
        except queue.Empty:
            continue


def test_replicas_and_the_writer_use_the_tokenizer_one_at_a_time(monkeypatch, tmp_path):
    says = {letter: "<think>one two three</think>4" for letter in "abcdefgh"}
    tokenizer = OneAtATime()
    engine = ThinkingEngine(FakeReplicas([Model(says), Model(says)]), tokenizer, MARKERS, 11)
    items = [{"id": letter, "question": letter} for letter in says]
    prompts = [[ord(letter), 63] for letter in says]
    monkeypatch.setattr(thinking, "share_chunks", in_threads)
    monkeypatch.setattr(samples, "CHUNK_ITEMS", 1)
    monkeypatch.setattr(samples, "rendered", lambda *_: (prompts, [f"{letter}?" for letter in says]))
    sampling, messages = Sampling(60, temperature=0.7), lambda item: [{"role": "user", "content": item["question"]}]
    generate_samples(engine, tokenizer, items, messages, sampling, 2, tmp_path, no_progress, own_seeds=False)
    assert len((tmp_path / "completions.jsonl").read_text().splitlines()) == 16
    assert tokenizer.met == 0 and len(tokenizer.threads) == 3
