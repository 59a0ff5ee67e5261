"""One completion as it is generated, piece by piece, from an engine that is loaded.

The engines' own files are part of the key of all that they generate. So what only shows is here, and reads their models.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from evaluation.engines import Engine, too_long
from evaluation.engines.transformers import TransformersEngine
from evaluation.engines.vllm import VllmEngine
from evaluation.types import Sampling

_numbers = itertools.count()


@dataclass(frozen=True)
class Piece:
    """A piece of a completion, and in the last one how it ended: as a `Generation` does, or `stopped`."""

    text: str
    finish_reason: str | None = None


def stream(engine: Engine, prompt_ids: Sequence[int], sampling: Sampling, stopped: Callable[[], bool]) -> Iterator[Piece]:
    """Yields one completion of a prompt in pieces as they are generated; the last one says how it ended.

    Args:
        stopped: Asked between pieces; True ends the completion where it is.

    Raises:
        ValueError: an engine whose model isn't loaded in this process.
    """
    if nothing := too_long(prompt_ids, sampling, engine.max_model_len):
        yield Piece("", nothing[0].finish_reason)
    elif isinstance(engine, VllmEngine):
        yield from _vllm(engine, list(prompt_ids), sampling, stopped)
    elif isinstance(engine, TransformersEngine):
        yield from _transformers(engine, list(prompt_ids), sampling, stopped)
    else:
        raise ValueError(f"engine must be vllm or transformers to answer piece by piece, got {engine.version}; set another")


def _room(engine: Engine, prompt_ids: Sequence[int], sampling: Sampling) -> int:
    longest = engine.max_model_len
    return sampling.max_new_tokens if longest is None else min(sampling.max_new_tokens, longest - len(prompt_ids))


def _vllm(engine: VllmEngine, prompt_ids: list[int], sampling: Sampling, stopped: Callable[[], bool]) -> Iterator[Piece]:
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=_room(engine, prompt_ids, sampling),
        output_kind=RequestOutputKind.DELTA,
    )
    running, request = engine.llm.llm_engine, f"stream-{next(_numbers)}"
    running.add_request(request, TokensPrompt(prompt_token_ids=prompt_ids), params)
    try:
        while running.has_unfinished_requests():
            for output in running.step():
                (one,) = output.outputs  # type: ignore[misc]
                yield Piece(one.text, str(one.finish_reason) if output.finished else None)
            if running.has_unfinished_requests() and stopped():
                yield Piece("", "stopped")
                return
    finally:
        if running.has_unfinished_requests():
            running.abort_request([request])


def _transformers(
    engine: TransformersEngine, prompt_ids: list[int], sampling: Sampling, stopped: Callable[[], bool]
) -> Iterator[Piece]:
    import torch
    from transformers import GenerationConfig, StoppingCriteriaList, TextIteratorStreamer

    sampled = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if sampling.temperature > 0 else {}
    config = GenerationConfig(
        max_new_tokens=_room(engine, prompt_ids, sampling),
        do_sample=sampling.temperature > 0,
        eos_token_id=sorted(engine.stops),
        pad_token_id=min(engine.stops),
        **sampled,
    )
    input_ids = torch.tensor([prompt_ids], device=engine.device)
    streamer = TextIteratorStreamer(
        engine.tokenizer, skip_prompt=True, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    failed: list[Exception] = []
    last: list[int] = []

    def generate() -> None:
        try:
            with torch.inference_mode():
                out = engine.model.generate(
                    input_ids=input_ids,
                    attention_mask=torch.ones_like(input_ids),
                    generation_config=config,
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList(
                        [lambda ids, scores: torch.full((1,), stopped(), device=ids.device)]
                    ),
                )
            last.append(int(out[0, -1]))
        except Exception as error:
            failed.append(error)
            streamer.end()

    thread = threading.Thread(target=generate)
    thread.start()
    for text in streamer:
        if text:
            yield Piece(text)
    thread.join()
    if failed:
        raise failed[0]
    ended = last[0] in engine.stops
    yield Piece("", "stop" if ended else "stopped" if stopped() else "length")
