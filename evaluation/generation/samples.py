"""Completions that are sampled: one or several of each item of a benchmark, each with a fixed seed.

The seed is made from the item's id and the sample's number. So sample 3 of an item is the same, whatever the number of samples: who
raises it makes the missing ones alone, and base and aligned model have the same seeds. Where an engine gives requests seeds of their own
(`seeds` in its `SUPPORTS`), a completion depends on its prompt and seed. Others draw from one generator for all that they compute
together: then the same sample of 16 neighbouring items is a chunk, which has the seed of its first item and is computed as a whole.

completions.jsonl has a line per item and sample; of several samples `sample` is the number, from 0.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, NamedTuple

from evaluation.answers.thoughts import MARKERS
from evaluation.engines import Engine, Prompt, share_chunks
from evaluation.formats import duration
from evaluation.generation.completion_cache import CompletionCache
from evaluation.generation.generate import COMPLETIONS_FILE, begin, rendered, thought_of, with_begun_thoughts
from evaluation.generation.thinking import ThinkingEngine, check_markers, thinking_engine
from evaluation.progress import generating
from evaluation.records import Record, read_repaired, to_line, write_whole
from evaluation.seeds import seed_of
from evaluation.types import Generation, Item, Message, Progress, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK_ITEMS = 16


class _Draw(NamedTuple):
    """One completion that is to be made: of which item (its place), which sample, and the name that the cache has it under."""

    place: int
    sample: int
    drawn: str


def sample_seed(item_id: str, sample: int) -> int:
    """The seed of one sample of an item."""
    return seed_of(f"{sample}:{item_id}")


def generate_samples(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase | None,
    items: Sequence[Item],
    messages_fn: Callable[[Item], list[Message]],
    sampling: Sampling,
    num_samples: int,
    output_dir: Path,
    progress: Progress,
    cache: CompletionCache | None = None,
    markers: Sequence[str] = MARKERS,
    *,
    own_seeds: bool,
) -> None:
    """Writes items.jsonl and completions.jsonl into `output_dir`, as `generate`: item by item, and sample by sample within each.

    Args:
        own_seeds: Whether the engine gives each request a seed of its own.

    Raises:
        ValueError, RuntimeError: as `generate`.
    """
    check_markers(tokenizer, markers)
    engine = thinking_engine(engine, tokenizer, markers)
    done = {(record["id"], record.get("sample", 0)) for record in begin(items, output_dir)}
    total = num_samples * len(items)
    prompts, texts = rendered(engine, tokenizer, [messages_fn(item) for item in items], markers)
    chunks = _chunks(items, prompts, num_samples, own_seeds=own_seeds)

    def is_left(draw: _Draw) -> bool:
        return (items[draw.place]["id"], draw.sample) not in done

    def work(engine: Engine, chunk: Sequence[_Draw]) -> Iterator[tuple[_Draw, Generation]]:
        seeds = [sample_seed(items[draw.place]["id"], draw.sample) for draw in chunk]
        if own_seeds:
            asked = replace(sampling, seeds=seeds)
        else:
            asked = sampling
            engine.reseed(seeds[0])
        for index, (generation,) in engine.generate([prompts[draw.place] for draw in chunk], asked):
            yield chunk[index], generation

    # Replicas use the tokenizer in threads of their own.
    tokenizing = engine.tokenizing if isinstance(engine, ThinkingEngine) else RLock()
    failed: list[str] = []
    with (output_dir / COMPLETIONS_FILE).open("a", encoding="utf-8") as file:

        def keep(draw: _Draw, generation: Generation) -> None:
            number = {"sample": draw.sample} if num_samples > 1 else {}
            record = {"id": items[draw.place]["id"], **number, "prompt": texts[draw.place], **generation.to_json()}
            with tokenizing:
                record |= thought_of(tokenizer, texts[draw.place], generation, markers)
            file.write(to_line(record))
            file.flush()
            done.add((items[draw.place]["id"], draw.sample))

        before = len(done)
        for draw in (draw for chunk in chunks for draw in chunk if is_left(draw)):
            if (known := cache.get(prompts[draw.place], draw.drawn) if cache is not None else None) is not None:
                keep(draw, known)
        if taken := len(done) - before:
            print(f"{taken} of {total} completions are those of earlier generations with these seeds", flush=True)
        # Of a chunk that is computed as a whole all is asked for again.
        todo = [[draw for draw in chunk if is_left(draw) or not own_seeds] for chunk in chunks if any(map(is_left, chunk))]
        progress(len(done), total, f"{taken} of earlier generations" if taken else "")
        num_left, started, num_tokens = total - len(done), time.monotonic(), 0
        # One call with all that have seeds of their own keeps the engine filled.
        if own_seeds:
            made = work(engine, [draw for chunk in todo for draw in chunk])
        else:
            shared = engine.share_chunks if isinstance(engine, ThinkingEngine) else partial(share_chunks, engine)
            made = shared(todo, work)
        for draw, generation in made if todo else ():
            if not is_left(draw):
                continue
            if generation.finish_reason.startswith("error"):
                failed.append(f"{items[draw.place]['id']}, sample {draw.sample}: {generation.finish_reason}")
                continue
            keep(draw, generation)
            if cache is not None:
                cache.put(prompts[draw.place], generation, draw.drawn)
            num_tokens += generation.num_completion_tokens
            elapsed_s = max(time.monotonic() - started, 1e-9)
            made_now = num_left - (total - len(done))
            left_s = elapsed_s / made_now * (num_left - made_now)
            progress(len(done), total, generating(num_tokens, elapsed_s, made_now / num_left, duration(left_s)))
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {total} completions failed, the others are kept; first {failed[0]}; run again to retry"
        )
    found = {(record["id"], record.get("sample", 0)): record for record in read_repaired(output_dir / COMPLETIONS_FILE)}
    ordered: list[Record] = [found[item["id"], sample] for item in items for sample in range(num_samples)]
    write_whole(output_dir / COMPLETIONS_FILE, ordered if tokenizer is not None else with_begun_thoughts(ordered, markers))


def _chunks(items: Sequence[Item], prompts: Sequence[Prompt], num_samples: int, *, own_seeds: bool) -> list[list[_Draw]]:
    """What is computed together. With seeds of their own an item's samples follow one another: they share their prompt."""
    if own_seeds:
        return [
            [_Draw(place, sample, f" seed {sample_seed(item['id'], sample)}") for sample in range(num_samples)]
            for place, item in enumerate(items)
        ]
    found = []
    for start in range(0, len(items), CHUNK_ITEMS):
        places = range(start, min(start + CHUNK_ITEMS, len(items)))
        whole = hashlib.sha256(json.dumps([list(prompts[place]) for place in places], sort_keys=True).encode()).hexdigest()
        for sample in range(num_samples):
            seed = sample_seed(items[start]["id"], sample)
            found.append([_Draw(place, sample, f" seed {seed}, place {place - start} of {whole}") for place in places])
    # The first sample of all items before the second of any.
    return sorted(found, key=lambda chunk: chunk[0].sample)
