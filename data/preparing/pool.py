"""Renders rows: in this process, in several of this machine, or in those of a Ray cluster. The rows keep their order, and only a bounded
number of them is in memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bnf.host import own_cores
from bnf.parallel.node_folders import NODE_FOLDER, NodeFolder
from data.preparing.config import PrepareConfig
from data.preparing.limit import limited
from data.preparing.processes import in_processes
from data.preparing.render import RowRenderer
from data.preparing.staged import StagedRow, staged
from data.reading.records import DataSource, Raw, Reader
from evaluation.types import Progress

CHUNK_ROWS = 256
# Starting processes takes seconds: with fewer chunks this process does the work.
_CHUNKS_WORTH_A_POOL = 8

Chunk = list[tuple[int, Raw]]


class Setting(NamedTuple):
    """What a process needs to render chunks."""

    model_dir: Path
    sources: Sequence[DataSource]
    config: PrepareConfig


class ChunkRenderer:
    """Renders chunks to rows for staging."""

    def __init__(self, setting: Setting) -> None:
        self._render, self._seed = RowRenderer(*setting), setting.config.seed

    def __call__(self, chunk: Chunk) -> list[StagedRow]:
        return [staged(row, self._seed) for row in self._render(chunk)]


def _open_on_node(asked: tuple[NodeFolder, Setting]) -> ChunkRenderer:
    """On a node, which has the model's folder where the function says."""
    folder, setting = asked
    return ChunkRenderer(setting._replace(model_dir=Path(folder(str(setting.model_dir)))))


def render_rows(setting: Setting, num_proc: int | None, progress: Progress, *, ray: str | None = None) -> Iterator[StagedRow]:
    """The rows of all sources, one source after another, in their order.

    Args:
        num_proc: how many processes render; None is one for each core, of this machine or with `ray` of the cluster.
        ray: the address of a Ray cluster whose processes render.

    Raises:
        FileNotFoundError, ValueError: as `Reader` and `RowRenderer`.
    """
    chunks = _chunks(setting.sources, setting.config.system_prompt, progress)
    first = list(itertools.islice(chunks, _CHUNKS_WORTH_A_POOL))
    rendered: Iterable[list[StagedRow]]
    is_small = len(first) < _CHUNKS_WORTH_A_POOL
    chunks = itertools.chain(first, chunks)
    if ray is not None and not is_small:
        from data.preparing.ray_pool import on_ray

        setting = setting._replace(model_dir=setting.model_dir.absolute())
        rendered = on_ray(ray, _open_on_node, (NODE_FOLDER.get(), setting), chunks, num_proc)
    elif is_small or (num_proc or len(own_cores())) == 1:
        rendered = map(ChunkRenderer(setting), chunks)
    else:
        rendered = in_processes(ChunkRenderer, setting, chunks, num_proc or len(own_cores()))
    for rows in rendered:
        yield from rows


def _chunks(sources: Sequence[DataSource], system_prompt: str | None, progress: Progress) -> Iterator[Chunk]:
    num_rows = 0
    for number, source in enumerate(sources):
        reader = Reader(source)
        for raws in _batched(limited(reader, source, system_prompt), CHUNK_ROWS):
            num_rows += len(raws)
            done, total = reader.progress
            note = f"{reader.unit}, {num_rows} rows" + (f", source {number + 1} of {len(sources)}" if len(sources) > 1 else "")
            progress(done, max(done, total), note)
            yield [(number, raw) for raw in raws]


def _batched(raws: Iterable[Raw], size: int) -> Iterator[list[Raw]]:
    raws = iter(raws)
    while batch := list(itertools.islice(raws, size)):
        yield batch
