"""transformers' own generate: slower than vLLM, runs wherever torch does (macOS, a machine without vLLM)."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from evaluation.engines import (
    Completed,
    Feature,
    LoadOption,
    Prompt,
    Received,
    cut_left,
    longer_than_own,
    own_length,
    too_long,
    unheard,
)
from evaluation.records import Record
from evaluation.types import Generation, Sampling

LIBRARY = "transformers"
PACKAGES = ("transformers",)
SUPPORTS: frozenset[Feature] = frozenset({"choices"})
OPTIONS: frozenset[LoadOption] = frozenset({"max_model_len", "num_replicas"})
BATCH = 16


def environment() -> dict[str, str]:
    """Threads that sleep while they wait: on a busy machine spinning ones make generation ten times as slow."""
    return {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}


def open(model: str | Path, *, max_model_len: int | None = None, batch_size: int = BATCH) -> TransformersEngine:
    """`max_model_len` left out is the model's own; `batch_size` counts prompts.

    Raises:
        ValueError: `max_model_len` is above the model's own, or the folder is refused as in `bnf.model_folders`.
    """
    return TransformersEngine(Path(model), max_model_len, batch_size)


def problem(options: Mapping[str, int | float], config: Record | None, gpus: int | None = None) -> str | None:
    """Whether the model's config.json says that it reads less."""
    return longer_than_own(options.get("max_model_len"), own_length(config or {}))


class TransformersEngine:
    """One model in transformers, in bfloat16, on the first CUDA device, Apple's GPU, or the CPU."""

    takes: ClassVar[Literal["ids", "messages"]] = "ids"
    supports_choices: ClassVar[bool] = "choices" in SUPPORTS

    def __init__(self, model: Path, max_model_len: int | None, batch_size: int) -> None:
        import torch
        import transformers

        from bnf.data.rendering import load_tokenizer, stop_token_ids
        from bnf.model_folders import open_config, open_weights

        self.version = f"transformers {transformers.__version__}"
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        self.device = "cuda" if torch.cuda.is_available() else mps
        self.tokenizer = load_tokenizer(model)
        self.stops = stop_token_ids(self.tokenizer)
        config = open_config(model)
        own_len = getattr(config.get_text_config(), "max_position_embeddings", None)
        if wrong := longer_than_own(max_model_len, own_len):
            raise ValueError(wrong)
        self.max_model_len: int | None = max_model_len or own_len
        loaded: Any = open_weights(transformers.AutoModelForCausalLM.from_pretrained, model, dtype=torch.bfloat16)
        # Whatever the model's own generation config says beyond stop tokens (a repetition penalty, say) is no part of a protocol.
        loaded.generation_config = transformers.GenerationConfig()
        self.model = loaded.to(self.device).eval()
        self._batch_size = batch_size

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, received: Received = unheard
    ) -> Generator[Completed, None, None]:
        if sampling.seed is not None:
            self.reseed(sampling.seed)
        ids: list[list[int]] = [list(prompt) for prompt in prompts]  # type: ignore[arg-type]
        fitting = []
        for index, prompt in enumerate(ids):
            if nothing := too_long(prompt, sampling, self.max_model_len):
                received(index, nothing)
                yield index, nothing
            else:
                fitting.append(index)
        fitting.sort(key=lambda index: len(ids[index]))  # little padding; stable, so the batches are fixed
        for start in range(0, len(fitting), self._batch_size):
            batch = fitting[start : start + self._batch_size]
            for index, found in zip(batch, self._batch([ids[index] for index in batch], sampling), strict=True):
                received(index, found)
                yield index, found

    def loglikelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[tuple[int, tuple[float, bool]]]:
        order = sorted(range(len(pairs)), key=lambda index: len(pairs[index][0]) + len(pairs[index][1]))
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            yield from zip(batch, self._likelihoods([pairs[index] for index in batch]), strict=True)

    def _likelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[tuple[float, bool]]:
        import torch

        ids = [cut_left(context, continuation, self.max_model_len) for context, continuation in pairs]
        width = max(map(len, ids))
        pad = min(self.stops)
        # Padded on the right: what follows a token doesn't change its likelihood.
        input_ids = torch.tensor([row + [pad] * (width - len(row)) for row in ids], device=self.device)  # (B, T)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=self.device)
        with torch.inference_mode():
            logits = self.model(input_ids=input_ids, attention_mask=mask).logits  # (B, T, V)
        for row, scores, (_, continuation) in zip(ids, logits, pairs, strict=True):
            first = len(row) - len(continuation)
            logps = scores[first - 1 : len(row) - 1].float().log_softmax(-1)  # (tokens, V)
            labels = torch.tensor(row[first:], device=self.device)
            taken = logps.gather(-1, labels[:, None]).squeeze(-1)
            yield float(taken.sum()), bool((logps.argmax(-1) == labels).all())

    def reseed(self, seed: int) -> None:
        import torch

        torch.manual_seed(seed)

    def close(self) -> None:
        self.model = None

    def _batch(self, prompts: list[list[int]], sampling: Sampling) -> list[list[Generation]]:
        import torch
        from transformers import GenerationConfig

        width = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else min(self.stops)
        input_ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=self.device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=self.device)
        room = sampling.max_new_tokens
        if self.max_model_len is not None:
            room = min(room, self.max_model_len - width)
        decoding: dict[str, Any] = {}
        if sampling.temperature > 0:
            decoding = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        config = GenerationConfig(
            max_new_tokens=room,
            do_sample=sampling.temperature > 0,
            num_return_sequences=sampling.n,
            eos_token_id=sorted(self.stops),
            pad_token_id=pad,
            **decoding,
        )
        allowed = self._allowed(sampling.choices, width) if sampling.choices else None
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=input_ids, attention_mask=mask, generation_config=config, prefix_allowed_tokens_fn=allowed
            )
        rows = [self._generation(row, sampling) for row in out[:, width:].tolist()]  # (B·n, new tokens)
        return [
            [
                Generation(text, ids, reason, len(prompt), len(ids))
                for text, ids, reason in rows[i * sampling.n : (i + 1) * sampling.n]
            ]
            for i, prompt in enumerate(prompts)
        ]

    def _generation(self, row: list[int], sampling: Sampling) -> tuple[str, list[int], str]:
        end = next((position for position, token in enumerate(row) if token in self.stops), None)
        ids = row if end is None else row[: end + 1]
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        if sampling.choices and text not in sampling.choices:
            raise RuntimeError(
                f"choices must restrict the completion to one of {sampling.choices}, got {text!r}; raise max_new_tokens"
            )
        return text, ids, "length" if end is None else "stop"

    def _allowed(self, choices: list[str], width: int) -> Callable[[int, Any], list[int]]:
        """Which tokens may follow: those that continue the tokenization of a choice, and a stop token after it."""
        stop = min(self.stops)
        paths = [[*self.tokenizer(choice, add_special_tokens=False)["input_ids"], stop] for choice in choices]

        def allowed(_: int, ids: Any) -> list[int]:
            written = ids.tolist()[width:]
            following = {path[len(written)] for path in paths if len(path) > len(written) and path[: len(written)] == written}
            return sorted(following) or [stop]

        return allowed
