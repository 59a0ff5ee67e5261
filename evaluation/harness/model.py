"""A language model for lm-evaluation-harness that generates with one of the project's engines.

lm-eval has a vLLM model of its own; it loads the weights a second time, and asks for a distribution called `vllm`, which the CPU
build is not. https://github.com/EleutherAI/lm-evaluation-harness
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from bnf.data.chat_template import ChatTemplate
from bnf.data.control import without_control_tokens
from bnf.data.system_prompt import with_system_prompt
from evaluation.answers.thoughts import MARKERS, begins_thought, spoken
from evaluation.engines import Engine, LikelihoodEngine, cut_left
from evaluation.generation.thinking import check_markers, thinking_engine
from evaluation.harness.replies import KeptReplies
from evaluation.harness.room import Room
from evaluation.progress import REPLIES, TEXTS
from evaluation.records import Record
from evaluation.types import Generation, Progress, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Texts whose likelihood is asked for are taken in windows of so many tokens where the engine has no bound of its own.
DEFAULT_MAX_LENGTH = 4096
# What a task may say of decoding: the rest no engine here does. A beam alone is no beam search.
_DECODING = frozenset({"until", "max_gen_toks", "do_sample", "temperature", "top_p"})
_PLAIN = {"num_beams": 1}


class EngineModel(TemplateLM):
    """Generates and weighs text with an engine that takes token ids; `replies` is the file in which its replies are kept.

    A prompt stays whole: where it leaves less room than the task asks for, the completion is shorter, and where it leaves none, empty.
    lm-eval's own models take the prompt's beginning away instead. `room` counts both.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase | None,
        progress: Progress,
        system_prompt: str | None = None,
        markers: Sequence[str] = MARKERS,
        replies: Path | None = None,
    ) -> None:
        super().__init__()
        if engine.takes != "ids" or tokenizer is None:
            raise ValueError(
                "evaluation.lm_eval must run on an engine that loads the model itself, got one behind an endpoint; "
                "set evaluation.engine=vllm or transformers"
            )
        self.tokenizer = tokenizer
        # An engine that takes token ids has the model's logits.
        own = cast(LikelihoodEngine, thinking_engine(engine, tokenizer, markers))
        kept = None if replies is None else KeptReplies(own, replies)
        self._engine, self._progress = own if kept is None else kept, progress
        # How many requests have an answer from an earlier try.
        self.num_answered = 0 if kept is None else kept.num_kept
        check_markers(tokenizer, markers)
        # Completions with a thought, whole, in the order of the requests.
        self.thoughts: list[Record] = []
        self.room = Room(self._engine.max_model_len)
        self._template, self._system_prompt, self._markers = ChatTemplate(tokenizer), system_prompt, markers

    @property
    def eot_token_id(self) -> int:
        end: int = self.tokenizer.eos_token_id
        return end

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context."""
        first: int | None = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else first

    @property
    def max_length(self) -> int:
        return self._engine.max_model_len or DEFAULT_MAX_LENGTH

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """As the model's template writes it. A document's control tokens are broken, as in the text they would begin turns."""
        return self._template.conversation(
            without_control_tokens(self.tokenizer, with_system_prompt(chat_history, self._system_prompt)),
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: object) -> list[int]:
        """As lm-eval's models do: with the special tokens that the tokenizer adds by itself, unless the text begins with the first."""
        if add_special_tokens is None:
            add_special_tokens = not has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id))
        ids: list[int] = self.tokenizer(string, add_special_tokens=add_special_tokens)["input_ids"]
        return ids

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The texts after their thoughts; a thought that doesn't end leaves nothing to read. `thoughts` gets the whole ones."""
        texts = [""] * len(requests)
        prompts = [self.tok_encode(request.args[0]) for request in requests]
        thoughts: dict[int, Record] = {}
        done = 0

        def read(index: int, generation: Generation, sampling: Sampling) -> None:
            nonlocal done
            done += 1
            self._progress(done, len(requests), REPLIES)
            if generation.finish_reason == "prompt_too_long":
                return
            said = self._said(request := requests[index], generation)
            if said != generation.completion:
                thoughts[index] = {
                    **{"task": request.task_name, "doc_id": request.doc_id},
                    **generation.to_json(),
                    "is_finished": said is not None,
                }
            texts[index] = postprocess_generated_text(said or "", sampling.stop, None)
            is_short = generation.num_completion_tokens < sampling.max_new_tokens
            self.room.num_cut_off += generation.finish_reason == "length" and is_short

        for sampling, indices in self._by_decoding(requests):
            for index in indices:
                self.room.add_prompt(len(prompts[index]), sampling.max_new_tokens)
            in_thought = []
            for index, generation in self._generated(prompts, indices, sampling):
                said = self._said(requests[index], generation)
                if sampling.stop and generation.finish_reason == "stop" and not said and generation.completion:
                    # The task's own stop text may stand in a thought or right after it, as a line break does.
                    in_thought.append(index)
                    continue
                read(index, generation, sampling)
            for index, generation in self._generated(prompts, in_thought, dataclasses.replace(sampling, stop=None)):
                read(index, generation, sampling)
        self.thoughts += [record for _, record in sorted(thoughts.items())]
        return texts

    def _generated(
        self, prompts: Sequence[list[int]], indices: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, Generation]]:
        for place, (generation,) in self._engine.generate([prompts[index] for index in indices], sampling):
            if generation.finish_reason.startswith("error"):
                raise RuntimeError(f"the engine must answer every request, got {generation.finish_reason}; run again")
            yield indices[place], generation

    def _said(self, request: Instance, generation: Generation) -> str | None:
        begun = begins_thought(request.args[0], self._markers)
        return spoken(generation.completion, begun=begun, markers=self._markers)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        windows: list[tuple[int, list[int], list[int]]] = []
        for index, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            rolling = get_rolling_token_windows(ids, self.prefix_token_id, max_seq_len=self.max_length - 2, context_len=1)
            windows += [(index, *make_disjoint_window(window)) for window in rolling]
        self.room.num_requests += len(requests)
        totals = [0.0] * len(requests)
        found = self._weigh([(context, continuation) for _, context, continuation in windows])
        for (index, _, _), (logp, _) in zip(windows, found, strict=True):
            totals[index] += logp
        return totals

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: object
    ) -> list[tuple[float, bool]]:
        self.room.num_requests += len(requests)
        return self._weigh([self._cut(context, continuation) for _, context, continuation in requests])

    def _cut(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """The context without its beginning, as lm-eval cuts it too, where both are too long together."""
        if self.room.max_length is None:
            return context, continuation
        # vLLM generates a token after them. The engines would cut by themselves, each at a length of its own.
        whole = cut_left(context, continuation, self.room.max_length - 1)
        kept = len(whole) - len(continuation)
        self.room.num_contexts_cut += kept < len(context)
        return whole[:kept], continuation

    def _weigh(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        # Choices of one question differ in few tokens, and some are the same as another's: each text is weighed once.
        distinct = list(dict.fromkeys((tuple(context), tuple(continuation)) for context, continuation in pairs))
        weights: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[float, bool]] = {}
        for index, weight in self._engine.loglikelihoods(distinct):
            weights[distinct[index]] = weight
            self._progress(len(weights), len(distinct), TEXTS)
        return [weights[tuple(context), tuple(continuation)] for context, continuation in pairs]

    def _by_decoding(self, requests: Sequence[Instance]) -> Iterator[tuple[Sampling, list[int]]]:
        """The requests' indices by how they are to be decoded."""
        groups: dict[str, tuple[Sampling, list[int]]] = {}
        for index, request in enumerate(requests):
            asked = normalize_gen_kwargs(request.args[1])
            unknown = {name: value for name, value in asked.items() if name not in _DECODING and _PLAIN.get(name) != value}
            if unknown:
                name, value = min(unknown.items())
                raise ValueError(
                    f"evaluation.lm_eval must name tasks whose generation_kwargs are among {', '.join(sorted(_DECODING))}, got "
                    f"{name}: {value} of {request.task_name}; leave the task out, or give it a definition of your own without "
                    "that (evaluation.lm_eval_include_path)"
                )
            sampling = Sampling(
                max_new_tokens=asked["max_gen_toks"],
                # A task that says neither is greedy. Without a temperature one that samples does so at 1, as by lm-eval's vLLM.
                temperature=float(asked.get("temperature", 1.0 if asked.get("do_sample") else 0.0)),
                top_p=float(asked.get("top_p", 1.0)),
                stop=[text for text in asked["until"] if text],
            )
            groups.setdefault(repr(dataclasses.astuple(sampling)), (sampling, []))[1].append(index)
        yield from groups.values()
