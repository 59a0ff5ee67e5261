"""On-policy samples: several completions of each training prompt by the current policy.

The unit is a fixed chunk of prompts, seeded by itself with an empty prefix cache and generated whole, so a text depends on the
seed, the model and the chunk's prompts alone: a run that was killed and started again gives the texts of one that was not.
"""

from __future__ import annotations

import hashlib
import importlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation._records import Record, read_repaired, write_whole
from evaluation._types import Progress, Sampling
from evaluation.engines import Engine, open_engine

CHUNK_PROMPTS = 8
SAMPLES_FILE = "samples.jsonl"


def sample(
    *,
    model_dir: Path,
    output_dir: Path,
    source: str,
    num_prompts: int,
    samples_per_prompt: int,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    seed: int,
    engine: str,
    progress: Progress,
) -> None:
    """Samples `data/sources/<source>.py`'s prompts with the named engine into output_dir/samples.jsonl."""
    from bnf.rendering import load_tokenizer

    prompts = importlib.import_module(f"data.sources.{source}").prompts(num_prompts)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, n=samples_per_prompt)
    opened = open_engine(engine, model_dir)
    try:
        sample_prompts(opened, load_tokenizer(model_dir), prompts, sampling, seed, output_dir, progress)
    finally:
        opened.close()


def sample_prompts(
    engine: Engine,
    tokenizer: Any,
    prompts: Sequence[Record],
    sampling: Sampling,
    seed: int,
    output_dir: Path,
    progress: Progress,
) -> None:
    """As `sample`, with an engine that is open; `prompts` are {"id", "messages", "item"}.

    Raises:
        ValueError: where the engine takes messages: the ids that the model sampled are needed for training.
    """
    from bnf.rendering import render_prompt

    if engine.takes != "ids":
        raise ValueError("sample.engine must give token ids, got one that takes messages; use vllm or transformers")
    chunks_dir = output_dir / "chunks"
    chunks_dir.mkdir(parents=True, exist_ok=True)
    paths = [chunks_dir / f"{start // CHUNK_PROMPTS:05d}.jsonl" for start in range(0, len(prompts), CHUNK_PROMPTS)]
    for number, path in enumerate(paths):
        progress(number * CHUNK_PROMPTS, len(prompts), "")
        if path.exists():
            continue
        chunk = prompts[number * CHUNK_PROMPTS : (number + 1) * CHUNK_PROMPTS]
        ids = [render_prompt(tokenizer, prompt["messages"]) for prompt in chunk]
        engine.reseed(chunk_seed(seed, number))
        results = dict(engine.generate(ids, sampling))
        write_whole(
            path,
            (
                {
                    **{key: prompt[key] for key in ("id", "messages", "item")},
                    "prompt_ids": ids[index],
                    "completions": [
                        {"text": one.completion, "token_ids": one.token_ids, "finish_reason": one.finish_reason}
                        for one in results[index]
                    ],
                }
                for index, prompt in enumerate(chunk)
            ),
        )
    write_whole(output_dir / SAMPLES_FILE, (record for path in paths for record in read_repaired(path)))
    shutil.rmtree(chunks_dir)
    progress(len(prompts), len(prompts), "")


def chunk_seed(seed: int, chunk: int) -> int:
    """A seed for one chunk; two runs' chunks share none by accident, as seed + chunk would."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{chunk}".encode()).digest()[:4]) & 0x7FFFFFFF
