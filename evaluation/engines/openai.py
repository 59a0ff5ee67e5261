"""Chat completions of a server that speaks the OpenAI protocol: OpenAI itself, or vLLM's own server, through the openai client.

The key comes from OPENAI_API_KEY and is never stored. The client retries (back-off with jitter, Retry-After honoured); a
request that fails for good gives an "error: …" completion, a refused key or an unknown model ends the run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, ClassVar, Literal

from evaluation._types import Generation, Sampling
from evaluation.engines import Prompt


def environment() -> dict[str, str]:
    """Nothing has to be set but the key, which is the user's."""
    return {}


def open(
    model: str | Path, *, base_url: str | None = None, max_concurrency: int = 8, max_retries: int = 6, timeout_s: float = 600.0
) -> OpenaiEngine:
    """`base_url` None is OpenAI itself; another server may need no key."""
    return OpenaiEngine(str(model), base_url, max_concurrency, max_retries, timeout_s)


class OpenaiEngine:
    """A model behind a chat completions endpoint; the server applies its own chat template."""

    takes: ClassVar[Literal["ids", "messages"]] = "messages"
    supports_choices: ClassVar[bool] = False

    def __init__(self, model: str, base_url: str | None, max_concurrency: int, max_retries: int, timeout_s: float) -> None:
        import openai

        key = os.environ.get("OPENAI_API_KEY")
        if key is None and base_url is None:
            raise ValueError(
                "OPENAI_API_KEY must be set for engine openai, got none; export it, or give a base_url of your own"
            )
        self.version = f"openai {openai.__version__}"
        self.max_model_len: int | None = None
        self._model = model
        self._max_concurrency = max_concurrency
        # Newer OpenAI models refuse `max_tokens`; servers of other makers may know nothing else.
        self._limit_name = "max_completion_tokens" if base_url is None else "max_tokens"
        self._client = openai.OpenAI(api_key=key or "none", base_url=base_url, max_retries=max_retries, timeout=timeout_s)
        self._seed: int | None = None

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, list[Generation]]]:
        if sampling.choices:
            raise ValueError("choices must not be given to engine openai, got some; read the answer from the text")
        seed = sampling.seed if sampling.seed is not None else self._seed
        waiting = iter(enumerate(prompts))
        running: dict[Future[list[Generation]], int] = {}
        pool = ThreadPoolExecutor(self._max_concurrency)
        try:
            while True:
                # No more is submitted than runs: when the caller stops, nothing that costs money is still queued.
                while len(running) < self._max_concurrency and (following := next(waiting, None)) is not None:
                    running[pool.submit(self._complete, following[1], sampling, seed)] = following[0]
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def reseed(self, seed: int) -> None:
        self._seed = seed

    def close(self) -> None:
        self._client.close()

    def _complete(self, messages: Any, sampling: Sampling, seed: int | None) -> list[Generation]:
        import openai

        parameters: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p, "n": sampling.n}
        parameters[self._limit_name] = sampling.max_new_tokens
        if seed is not None:
            parameters["seed"] = seed
        try:
            reply = self._client.chat.completions.create(model=self._model, messages=list(messages), **parameters)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError):
            raise
        except (openai.OpenAIError, ValueError) as error:  # a body that is no JSON is a ValueError
            return _failed(f"{type(error).__name__}: {error}", sampling)
        choices = getattr(reply, "choices", None) or []
        if len(choices) != sampling.n:
            return _failed(f"{len(choices)} choices for n={sampling.n}", sampling)
        num_prompt = reply.usage.prompt_tokens if reply.usage else 0
        num_completion = reply.usage.completion_tokens // sampling.n if reply.usage else 0
        return [
            Generation(choice.message.content or "", [], str(choice.finish_reason), num_prompt, num_completion)
            for choice in choices
        ]


def _failed(reason: str, sampling: Sampling) -> list[Generation]:
    return [Generation("", [], f"error: {reason[:500]}", 0, 0)] * sampling.n
