"""Chat completions of a server that speaks the OpenAI protocol, through the openai client: OpenAI, Azure, vLLM's own server, others.

The key comes from the environment and is never stored. Requests run side by side up to a bound; what can pass (429, 5xx, a time-out,
a cut connection) is tried again after a back-off with jitter, or after what Retry-After asks for. A request that fails for good, or
whose answer can't be read, gives an "error: …" completion, and a prompt that is longer than the model there reads "prompt_too_long";
a refused key, a redirect, an unknown model, an empty account or a server that takes no connection ends the run. Nothing is sent to another
address than the one that was given.
"""

from __future__ import annotations

import email.utils
import os
import random
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, ClassVar, Literal

from bnf.urls import without_secrets
from evaluation.engines import Completed, Feature, Prompt, Received, unheard
from evaluation.engines._bounded_reply import ENCODINGS, bounded
from evaluation.engines._chat_reply import completions, too_long, usage
from evaluation.formats import visible
from evaluation.spending import Meter, Reservation, most_prompt_tokens, prompt_tokens
from evaluation.types import Generation, Message, Sampling

LIBRARY = "openai"
PACKAGES = ()  # the server generates, not the client
REMOTE = True
SUPPORTS: frozenset[Feature] = frozenset({"schema", "logprobs", "seeds"})
KEY_VARIABLES = {"openai": "OPENAI_API_KEY", "azure": "AZURE_OPENAI_API_KEY"}
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 60.0
# A server that wants to be left alone for longer is not waited for: the request fails and is asked again by the next run.
LONGEST_RETRY_AFTER_S = 600.0
_MAX_STOPS = 4  # the protocol takes no more
# Of httpx or httpx2, whichever the client has: nothing was sent.
_UNCONNECTED = ("ConnectError", "ConnectTimeout")


def environment() -> dict[str, str]:
    """No variables: the key is the user's to set."""
    return {}


def open(
    model: str | Path,
    *,
    base_url: str | None = None,
    api: Literal["openai", "azure"] = "openai",
    api_version: str | None = None,
    api_key_variable: str | None = None,
    max_concurrency: int = 8,
    max_retries: int = 6,
    timeout_s: float = 600.0,
    meter: Meter | None = None,
    chat_template_kwargs: Mapping[str, object] | None = None,
) -> OpenaiEngine:
    """`base_url` None is OpenAI itself; another server may need no key. For Azure it is the resource's endpoint, `model` the deployment.

    `chat_template_kwargs` go with every request, as servers of open models take them (vLLM, SGLang).
    """
    variable = api_key_variable or KEY_VARIABLES[api]
    client = connect(base_url, api, api_version, variable, timeout_s)
    # Newer OpenAI models refuse `max_tokens`; servers of other makers may know nothing else.
    limit_name = "max_completion_tokens" if base_url is None or api == "azure" else "max_tokens"
    return OpenaiEngine(
        str(model), client, variable, limit_name, max_concurrency, max_retries, meter or Meter(), chat_template_kwargs
    )


def connect(
    base_url: str | None,
    api: str = "openai",
    api_version: str | None = None,
    api_key_variable: str | None = None,
    timeout_s: float = 600.0,
) -> Any:
    """The client of an endpoint; it never retries by itself, so that every attempt is counted.

    Raises:
        ValueError: where the key is missing, or for Azure the endpoint or the API version.
    """
    import openai

    variable = api_key_variable or KEY_VARIABLES[api]
    key = os.environ.get(variable)
    if api == "azure":
        if not (key and base_url and api_version):
            got = [name for name, value in ((variable, key), ("base_url", base_url), ("api_version", api_version)) if not value]
            raise ValueError(
                f"api azure must have a key, a base_url and an api_version, got none for {', '.join(got)}; set what is missing"
            )
        return openai.AzureOpenAI(api_key=key, azure_endpoint=str(base_url), api_version=api_version, **_connection(timeout_s))
    if key is None and base_url is None:
        raise ValueError(f"{variable} must be set for engine openai, got none; export it, or give a base_url of your own")
    return openai.OpenAI(api_key=key or "none", base_url=base_url, **_connection(timeout_s))


def _connection(timeout_s: float) -> dict[str, Any]:
    """How a client asks: once, of the address that it was given alone, and for a reply of a bounded size and time."""
    import openai

    # A redirect would take the prompts to another server, or the client to an address inside this network.
    client = openai.DefaultHttpxClient(follow_redirects=False, event_hooks={"response": [bounded(timeout_s)]})
    return {"max_retries": 0, "timeout": timeout_s, "http_client": client, "default_headers": {"Accept-Encoding": ENCODINGS}}


class _NotConnected(Exception):
    """The server took no connection."""


class OpenaiEngine:
    """A model behind a chat completions endpoint; the server applies its own chat template."""

    takes: ClassVar[Literal["ids", "messages"]] = "messages"
    supports_choices: ClassVar[bool] = "choices" in SUPPORTS

    def __init__(
        self,
        model: str,
        client: Any,
        key_variable: str,
        limit_name: str,
        max_concurrency: int,
        max_retries: int,
        meter: Meter,
        chat_template_kwargs: Mapping[str, object] | None = None,
    ) -> None:
        import openai

        self.version = f"openai {openai.__version__}"
        self.max_model_len: int | None = None
        self.meter = meter
        self._model = model
        self._client = client
        self._key_variable = key_variable
        self._limit_name = limit_name
        self._max_concurrency = max_concurrency
        self._max_retries = max_retries
        self._chat_template_kwargs = chat_template_kwargs
        self._seed: int | None = None
        # Waits differ between processes on purpose: jitter that is seeded alike would let them all come back at once.
        self._jitter = random.Random()

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, received: Received = unheard
    ) -> Generator[Completed, None, None]:
        """As every engine. Whatever ends it early, requests under way may be paid for: they are waited for, and `received` gets them.

        After an error of a request, and after an interrupt, they are also yielded; after a second interrupt no longer.

        Raises:
            SpendingCapReached: where the next request could exceed the cap.
            ValueError: where no request can succeed: a redirect, a refused key, an unknown model, an empty account.
            ConnectionError: where the server takes no connection in all retries of a request. Others would wait as long, one after another.
        """
        if sampling.choices:
            raise ValueError("choices must not be given to engine openai, got some; give it a schema, or read the text")
        seed = sampling.seed if sampling.seed is not None else self._seed
        waiting = iter(enumerate(prompts))
        running: dict[Future[list[Generation] | None], int] = {}
        failure: BaseException | None = None
        stop = threading.Event()

        def ask(index: int, messages: Prompt) -> list[Generation] | None:
            own = seed if sampling.seeds is None else sampling.seeds[index]
            found = self._complete(messages, sampling, own, stop)
            if found is not None:
                received(index, found)
            return found

        pool = ThreadPoolExecutor(self._max_concurrency)
        try:
            while True:
                # No more is submitted than runs: when the caller stops, nothing that costs money is still queued.
                while failure is None and len(running) < self._max_concurrency and (following := next(waiting, None)):
                    running[pool.submit(ask, *following)] = following[0]
                if not running:
                    break
                try:
                    done = wait(running, return_when=FIRST_COMPLETED).done
                except KeyboardInterrupt as interrupt:
                    if failure is not None:
                        raise
                    failure, done = interrupt, set()
                    stop.set()
                for future in done:
                    index = running.pop(future)
                    if (error := future.exception()) is not None:
                        failure = failure or error
                        stop.set()
                    elif (found := future.result()) is not None:
                        yield index, found
            if failure is not None:
                raise failure
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def reseed(self, seed: int) -> None:
        self._seed = seed

    def close(self) -> None:
        self._client.close()

    def _complete(
        self, messages: Prompt, sampling: Sampling, seed: int | None, stop: threading.Event
    ) -> list[Generation] | None:
        """One request with its retries; None where it never went out. `stop` ends the waiting between attempts, never an attempt."""
        conversation: list[Message] = list(messages)  # type: ignore[arg-type]  # as `takes` says
        size = most_prompt_tokens(conversation, sampling.schema)
        reason, num_unconnected = "", 0
        for attempt in range(self._max_retries + 1):
            if stop.is_set():
                return _failed(f"not asked again: {reason}", sampling) if reason else None
            reserved = self.meter.reserve(self._model, size, sampling.max_new_tokens * sampling.n)
            try:
                found, reason, wait_s = self._attempt(conversation, sampling, seed, reserved, attempt)
                num_unconnected = 0
            except _NotConnected as error:
                found, reason, wait_s = None, str(error), self._wait_s(attempt)
                num_unconnected += 1
            if found is not None:
                return found
            if wait_s is None:
                return _failed(reason, sampling)
            if attempt < self._max_retries:
                stop.wait(wait_s)
        # The first attempt may have been under way when the server went.
        if num_unconnected >= max(1, self._max_retries):
            raise ConnectionError(
                f"{self._client.base_url} must take connections, got none in {num_unconnected} tries ({reason}); start the server, and "
                "run again: what it has answered is kept"
            )
        return _failed(f"{reason} (tried {self._max_retries + 1} times)", sampling)

    def _attempt(
        self, messages: list[Message], sampling: Sampling, seed: int | None, reserved: Reservation, attempt: int
    ) -> tuple[list[Generation] | None, str, float | None]:
        """The completions; or why there are none, and how long to wait before the next attempt (None: it would fail as well).

        Raises:
            _NotConnected: nothing was sent.
        """
        import openai

        create = self._client.chat.completions.create
        try:
            reply = create(model=self._model, messages=messages, **self._parameters(sampling, seed))
            found = completions(reply, sampling.n, with_logprobs=bool(sampling.top_logprobs))
        except openai.APIStatusError as error:
            self.meter.release(reserved)
            key = os.environ.get(self._key_variable) or "\0"
            reason = f"{type(error).__name__}: {error}".replace(key, "…")
            if 300 <= error.status_code < 400:
                to = visible(without_secrets(error.response.headers.get("location", "nowhere").replace(key, "…")))[:200]
                raise ValueError(
                    f"base_url must be the address of the endpoint itself, got a redirect from {error.request.url} to {to}, to which no "
                    "prompt is sent; write the address that is meant as base_url"
                ) from None
            if error.status_code == 400 and (length := too_long(str(error))) is not None:
                return [Generation("", [], "prompt_too_long", length, 0)] * sampling.n, "", None
            if error.status_code in (401, 403, 404) or error.code == "insufficient_quota":
                # Without its cause: a server may put the key into what it says.
                raise ValueError(
                    f"{self._key_variable} must be accepted by the endpoint for {self._model}, got {reason}; check key, base_url, "
                    "model and account"
                ) from None
            passing = error.status_code in (408, 409, 429) or error.status_code >= 500
            asked = _retry_after_s(error.response.headers)
            if not passing or (asked is not None and asked > LONGEST_RETRY_AFTER_S):
                return None, reason, None
            return None, reason, asked if asked is not None else self._wait_s(attempt)
        except openai.APIConnectionError as error:  # a time-out is one of them
            if type(error.__cause__).__name__ in _UNCONNECTED:
                self.meter.release(reserved)
                raise _NotConnected(f"{type(error.__cause__).__name__}: {error.__cause__}") from error
            # The server may have worked on it: whether it is billed is unknown.
            self.meter.lose(self._model, reserved)
            return None, f"{type(error).__name__}: {error}", self._wait_s(attempt)
        except (openai.OpenAIError, ValueError, RecursionError) as error:  # a body that is no JSON, or not the protocol's
            # It was answered, and so most likely billed: another try in the same run would pay twice for one request.
            self.meter.lose(self._model, reserved)
            return None, f"{type(error).__name__}: {error}", None
        except BaseException:
            # A reservation that is never ended would keep those waiting who wait for its end.
            self.meter.lose(self._model, reserved)
            raise
        told = usage(reply)
        if told is not None:
            num_prompt, num_completion = told
            cost = self.meter.settle(self._model, reserved, num_prompt, num_completion)
        else:
            num_prompt = prompt_tokens(messages)
            num_completion = sum(prompt_tokens([{"role": "assistant", "content": one.text}]) for one in found)
            cost = self.meter.lose(self._model, reserved)
        each, shared = num_completion // sampling.n, None if cost is None else cost / sampling.n
        return (
            [
                Generation(one.text, [], one.finish_reason, num_prompt, each, top_logprobs=one.top_logprobs, cost_usd=shared)
                for one in found
            ],
            "",
            None,
        )

    def _parameters(self, sampling: Sampling, seed: int | None) -> dict[str, object]:
        parameters: dict[str, object] = {"temperature": sampling.temperature, "top_p": sampling.top_p, "n": sampling.n}
        parameters[self._limit_name] = sampling.max_new_tokens
        if seed is not None:
            parameters["seed"] = seed
        if sampling.stop:
            parameters["stop"] = sampling.stop[:_MAX_STOPS]
        if sampling.schema is not None:
            schema = {"name": "verdict", "strict": True, "schema": sampling.schema}
            parameters["response_format"] = {"type": "json_schema", "json_schema": schema}
        if sampling.top_logprobs:
            parameters |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
        if self._chat_template_kwargs:
            parameters["extra_body"] = {"chat_template_kwargs": dict(self._chat_template_kwargs)}
        return parameters

    def _wait_s(self, attempt: int) -> float:
        """Doubles with every attempt, and is shortened by up to a half at random."""
        return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt) * self._jitter.uniform(0.5, 1.0)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What the server asks for: seconds, or a date; None where it asks for nothing that can be read."""
    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _failed(reason: str, sampling: Sampling) -> list[Generation]:
    return [Generation("", [], f"error: {reason[:500]}", 0, 0)] * sampling.n
