"""On-policy samples: several completions of each training prompt by the current policy.

Prompts are completed in fixed chunks, each with a seed of its own and an empty prefix cache. So a text depends on the seed, the round,
the model and the chunk's prompts alone: a run that was killed and started again gives the texts of one that was not.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from bnf.data.chat_template import DEFAULT_DATE, RenderingError
from bnf.data.marked import context_of
from bnf.data.system_prompt import with_system_prompt
from data.sampling.prompts import Place, load_prompts, prompts_of_round
from evaluation.answers.thoughts import MARKERS, begins_thought, noted
from evaluation.engines import Engine, share_chunks
from evaluation.generation.thinking import check_markers, with_markers
from evaluation.records import Record, read_records, write_whole
from evaluation.seeds import seed_of
from evaluation.types import Progress, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK_PROMPTS = 8
SAMPLES_FILE = "samples.jsonl"


@dataclass(frozen=True)
class SampleConfig:
    """What of the recipe's `sample` section decides the samples of one round; `flows.recipe.sections.Sample` describes each key."""

    source: str
    num_prompts: int
    samples_per_prompt: int
    temperatures: Sequence[float]
    top_p: float
    max_new_tokens: int
    seed: int
    round: int = 1
    prompts_per_round: int | None = None
    held_out_prompts: int = 0
    date: str = DEFAULT_DATE
    system_prompt: str | None = None
    think_tokens: Sequence[str] = MARKERS

    def samplings(self) -> list[Sampling]:
        """One per temperature: each gives the same number of samples, the first ones one more where that doesn't come out even."""
        counts = [len(range(place, self.samples_per_prompt, len(self.temperatures))) for place in range(len(self.temperatures))]
        return [
            Sampling(max_new_tokens=self.max_new_tokens, temperature=temperature, top_p=self.top_p, n=count)
            for temperature, count in zip(self.temperatures, counts, strict=True)
        ]


def prompts_to_complete(config: SampleConfig, path: str | None, place: Place) -> list[Record]:
    """A round's prompts and the held-out ones: {"id", "messages", "item", "held_out"}. `path` and `place` are those of `load_prompts`.

    Held-out prompts are measured, not trained on.
    """
    prompts = [
        {**prompt, "messages": with_system_prompt(prompt["messages"], config.system_prompt)}
        for prompt in load_prompts(config.source, path, config.num_prompts + config.held_out_prompts, **place)
    ]
    pool, held_out = prompts[: config.num_prompts], prompts[config.num_prompts :]
    return [
        *({**prompt, "held_out": False} for prompt in prompts_of_round(pool, config.round, config.prompts_per_round)),
        *({**prompt, "held_out": True} for prompt in held_out),
    ]


def sample_prompts(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Record],
    config: SampleConfig,
    output_dir: Path,
    progress: Progress,
) -> None:
    """Completes the prompts, and writes output_dir/samples.jsonl. Of a completion with a thought it says where the answer begins.

    What an earlier call completed is taken: a whole file of all prompts, or of a chunk's.

    Raises:
        ValueError: the engine takes messages and gives no token ids, which training needs; or a thought's marker is no part of a text.
    """
    if engine.takes != "ids":
        raise ValueError("sample.engine must give token ids, got one that takes messages; use vllm or transformers")
    check_markers(tokenizer, config.think_tokens)
    chunks_dir = output_dir / "chunks"
    if _holds(output_dir / SAMPLES_FILE, prompts):
        shutil.rmtree(chunks_dir, ignore_errors=True)
        progress(len(prompts), len(prompts), "")
        return
    chunks_dir.mkdir(parents=True, exist_ok=True)
    chunks = [prompts[start : start + CHUNK_PROMPTS] for start in range(0, len(prompts), CHUNK_PROMPTS)]
    paths = [chunks_dir / f"{number:05d}.jsonl" for number in range(len(chunks))]

    def complete(engine: Engine, number: int) -> Iterator[int]:
        """Writes a chunk's file, whole, and yields how many prompts it has."""
        chunk = chunks[number]
        with rendering:
            ids = [_ids(tokenizer, prompt, config.think_tokens) for prompt in chunk]
            begun = [begins_thought(str(tokenizer.decode(one)), config.think_tokens) for one in ids]
        completions: list[list[Record]] = [[] for _ in chunk]
        for place, sampling in enumerate(config.samplings()):
            engine.reseed(chunk_seed(config.seed, number, config.round, place))
            for index, generated in engine.generate(ids, sampling):
                if whole is not None:
                    with rendering:
                        generated = [whole(one) for one in generated]
                completions[index] += [
                    {
                        "text": one.completion,
                        "token_ids": one.token_ids,
                        "finish_reason": one.finish_reason,
                        "temperature": sampling.temperature,
                        **noted(one.completion, begun=begun[index], markers=config.think_tokens),
                    }
                    for one in generated
                ]
        write_whole(
            paths[number],
            ({**prompt, "prompt_ids": ids[index], "completions": completions[index]} for index, prompt in enumerate(chunk)),
        )
        yield len(chunk)

    todo = [number for number, path in enumerate(paths) if not _holds(path, chunks[number])]
    # A tokenizer serves one thread.
    rendering = Lock()
    whole = with_markers(tokenizer, config.think_tokens)
    done = len(prompts) - sum(len(chunks[number]) for number in todo)
    progress(done, len(prompts), "")
    for number_of_prompts in share_chunks(engine, todo, complete):
        done += number_of_prompts
        progress(done, len(prompts), "")
    write_whole(output_dir / SAMPLES_FILE, (record for path in paths for record in read_records(path)))
    shutil.rmtree(chunks_dir)


def _holds(path: Path, prompts: Sequence[Record]) -> bool:
    """Whether a file has all of these prompts, completed. One that a power cut left empty, cut or full of zeros doesn't."""
    try:
        completed = [record["id"] for record in read_records(path) if "completions" in record]
        return completed == [prompt["id"] for prompt in prompts]
    except (FileNotFoundError, ValueError, KeyError):
        return False


def _ids(tokenizer: PreTrainedTokenizerBase, prompt: Record, kept: Sequence[str]) -> list[int]:
    from bnf.data.rendering import render_prompt

    try:
        return render_prompt(tokenizer, prompt["messages"], context_of(prompt), kept=kept)
    except RenderingError as error:
        raise ValueError(
            f"sample.path must hold prompts that the model's chat template writes, got {prompt['id']}: {error}"
        ) from error


def chunk_seed(seed: int, chunk: int, round: int = 1, temperature: int = 0) -> int:
    """The seed of a chunk at one of a round's temperatures."""
    names = f"{seed}:{chunk}" if (round, temperature) == (1, 0) else f"{seed}:{chunk}:{round}:{temperature}"
    return seed_of(names)
