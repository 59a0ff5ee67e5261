"""Renders rows in several processes. The rows keep their order, and only a bounded number of them is in memory."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import connection
from pathlib import Path

from data.preparing.config import PrepareConfig
from data.preparing.render import RenderedRow, RowRenderer
from data.reading.records import DataSource, Raw, Reader
from evaluation.types import Progress

CHUNK_ROWS = 256
# Starting processes takes seconds: with fewer chunks this process does the work.
_CHUNKS_WORTH_A_POOL = 8

Chunk = list[tuple[int, Raw]]


def render_rows(
    sources: Sequence[DataSource], model_dir: Path, config: PrepareConfig, num_proc: int, progress: Progress
) -> Iterator[RenderedRow]:
    """The rows of all sources, one source after another, in their order.

    Raises:
        FileNotFoundError, ValueError: as `Reader` and `RowRenderer`.
    """
    chunks = _chunks(sources, progress)
    first = list(itertools.islice(chunks, _CHUNKS_WORTH_A_POOL))
    if num_proc == 1 or len(first) < _CHUNKS_WORTH_A_POOL:
        render = RowRenderer(model_dir, sources, config)
        for chunk in itertools.chain(first, chunks):
            yield from render(chunk)
        return
    # Not forked: this process may have threads of torch and of the tokenizer.
    with ProcessPoolExecutor(
        num_proc, multiprocessing.get_context("spawn"), initializer=_start, initargs=(model_dir, sources, config)
    ) as pool:
        waiting: deque[Future[list[RenderedRow]]] = deque()
        try:
            for chunk in itertools.chain(first, chunks):
                waiting.append(pool.submit(_render, chunk))
                if len(waiting) > 2 * num_proc:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def num_cores() -> int:
    """How many cores this process may use; on macOS, which doesn't say, all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _chunks(sources: Sequence[DataSource], progress: Progress) -> Iterator[Chunk]:
    num_rows = 0
    for number, source in enumerate(sources):
        reader = Reader(source)
        for raws in _batched(reader, CHUNK_ROWS):
            num_rows += len(raws)
            done, total = reader.progress
            note = f"{num_rows} rows" + (f", source {number + 1} of {len(sources)}" if len(sources) > 1 else "")
            progress(done, max(done, total), note)
            yield [(number, raw) for raw in raws]


def _batched(raws: Iterable[Raw], size: int) -> Iterator[list[Raw]]:
    raws = iter(raws)
    while batch := list(itertools.islice(raws, size)):
        yield batch


_renderer: RowRenderer


def _start(model_dir: Path, sources: Sequence[DataSource], config: PrepareConfig) -> None:
    """Prepares a worker process, which ends when its parent has ended in any way."""
    global _renderer
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    # One thread in each process is enough.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _renderer = RowRenderer(model_dir, sources, config)


def _render(chunk: Chunk) -> list[RenderedRow]:
    return _renderer(chunk)
