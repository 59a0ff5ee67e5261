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
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from bnf.data.chat_template import ChatTemplate
from bnf.data.system_prompt import with_system_prompt
from evaluation.answers.thoughts import MARKERS, begins_thought, spoken
from evaluation.engines import Engine, LikelihoodEngine
from evaluation.generation.thinking import check_markers, thinking_engine
from evaluation.harness.replies import KeptReplies
from evaluation.progress import GENERATING, WEIGHING
from evaluation.records import Record
from evaluation.types import Generation, Progress, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What an engine without a bound of its own is taken to hold.
DEFAULT_MAX_LENGTH = 4096


class EngineModel(TemplateLM):
    """Generates and weighs text with an engine that takes token ids; `replies` is the file in which its replies are kept."""

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
        self._engine, self._progress = own if replies is None else KeptReplies(own, replies), progress
        check_markers(tokenizer, markers)
        # Completions with a thought, whole, in the order of the requests.
        self.thoughts: list[Record] = []
        self._template, self._system_prompt, self._markers = ChatTemplate(tokenizer), system_prompt, markers

    @property
    def eot_token_id(self) -> int:
        end: int = self.tokenizer.eos_token_id
        return end

    @property
    def max_length(self) -> int:
        return self._engine.max_model_len or DEFAULT_MAX_LENGTH

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self._template.conversation(
            with_system_prompt(chat_history, self._system_prompt),
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: object) -> list[int]:
        """As lm-eval does for decoder models: without special tokens, unless they are asked for."""
        ids: list[int] = self.tokenizer(string, add_special_tokens=bool(add_special_tokens))["input_ids"]
        return ids

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The texts after their thoughts; a thought that doesn't end leaves nothing to read. `thoughts` gets the whole ones."""
        texts = [""] * len(requests)
        thoughts: dict[int, Record] = {}
        done = 0

        def read(index: int, generation: Generation, sampling: Sampling) -> None:
            nonlocal done
            said = self._said(request := requests[index], generation)
            if said != generation.completion:
                thoughts[index] = {
                    **{"task": request.task_name, "doc_id": request.doc_id},
                    **generation.to_json(),
                    "is_finished": said is not None,
                }
            texts[index] = postprocess_generated_text(said or "", sampling.stop, None)
            done += 1
            self._progress(done, len(requests), GENERATING)

        for sampling, indices in self._by_decoding(requests):
            in_thought = []
            for index, generation in self._generated(requests, indices, sampling):
                said = self._said(requests[index], generation)
                if sampling.stop and generation.finish_reason == "stop" and not said and generation.completion:
                    # The task's own stop text may stand in a thought or right after it, as a line break does.
                    in_thought.append(index)
                    continue
                read(index, generation, sampling)
            for index, generation in self._generated(requests, in_thought, dataclasses.replace(sampling, stop=None)):
                read(index, generation, sampling)
        self.thoughts += [record for _, record in sorted(thoughts.items())]
        return texts

    def _generated(
        self, requests: Sequence[Instance], indices: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, Generation]]:
        room = max(1, self.max_length - sampling.max_new_tokens)
        # A prompt that is too long loses its beginning: the question stands at its end.
        prompts = [self.tok_encode(requests[index].args[0])[-room:] for index in indices]
        for place, (generation,) in self._engine.generate(prompts, sampling):
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
        totals = [0.0] * len(requests)
        found = self._weigh([(context, continuation) for _, context, continuation in windows])
        for (index, _, _), (logp, _) in zip(windows, found, strict=True):
            totals[index] += logp
        return totals

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: object
    ) -> list[tuple[float, bool]]:
        return self._weigh([(context, continuation) for _, context, continuation in requests])

    def _weigh(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        # Choices of one question differ in few tokens, and some are the same as another's: each text is weighed once.
        distinct = list(dict.fromkeys((tuple(context), tuple(continuation)) for context, continuation in pairs))
        weights: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[float, bool]] = {}
        for index, weight in self._engine.loglikelihoods(distinct):
            weights[distinct[index]] = weight
            self._progress(len(weights), len(distinct), WEIGHING)
        return [weights[tuple(context), tuple(continuation)] for context, continuation in pairs]

    def _by_decoding(self, requests: Sequence[Instance]) -> Iterator[tuple[Sampling, list[int]]]:
        """The requests' indices by how they are to be decoded."""
        groups: dict[str, tuple[Sampling, list[int]]] = {}
        for index, request in enumerate(requests):
            asked = normalize_gen_kwargs(request.args[1])
            sampling = Sampling(
                max_new_tokens=min(asked["max_gen_toks"], self.max_length - 1),
                # A task that says neither is greedy.
                temperature=float(asked.get("temperature", 0.0)),
                top_p=float(asked.get("top_p", 1.0)),
                stop=[text for text in asked["until"] if text],
            )
            groups.setdefault(repr(dataclasses.astuple(sampling)), (sampling, []))[1].append(index)
        yield from groups.values()
