"""Models that think, on any engine that runs here: a thought ends after so many tokens, whatever the engine is."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from evaluation.answers.thoughts import answer_start, begins_thought
from evaluation.engines import Completed, Engine, LikelihoodEngine, Prompt, Received, unheard
from evaluation.types import Generation, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A prompt's last tokens: a template that begins the thought ends with its marker, and with blanks.
_LAST_TOKENS = 64


def thinking_engine(
    engine: Engine, tokenizer: PreTrainedTokenizerBase | None, markers: Sequence[str], max_thinking_tokens: int | None
) -> Engine:
    """The engine, with thoughts of at most so many tokens; itself where they have no limit.

    Raises:
        ValueError: as `ThinkingEngine`, or the engine is an endpoint.
    """
    if max_thinking_tokens is None:
        return engine
    if engine.takes != "ids" or tokenizer is None:
        raise ValueError(
            "max_thinking_tokens must be left out for an engine behind an endpoint, whose server goes on from no text of ours, got "
            f"{max_thinking_tokens}; remove it, and give the server a limit of its own, or run the model here"
        )
    return ThinkingEngine(cast(LikelihoodEngine, engine), tokenizer, markers, max_thinking_tokens)


class ThinkingEngine:
    """An engine whose thoughts end after so many tokens: then the end's marker is put in, and the model goes on after it.

    A completion is generated in two requests. The first ends after `max_thinking_tokens`. Where it ends in mid-thought, the second one has
    what was written and the end's marker in its prompt, on a line of its own; where it doesn't, what was written alone. So a thought is cut
    that is open after the first so many tokens of a completion; one that begins later is not. A completion has no more than
    `Sampling.max_new_tokens` in all, with the marker's. No thought is cut where that leaves no token for an answer. What `generate` gives
    says of each completion whether its thought was cut.

    Raises:
        ValueError: the tokenizer doesn't write the marker.
    """

    takes: ClassVar[Literal["ids", "messages"]] = "ids"
    # As every engine that runs here.
    supports_choices: ClassVar[bool] = True

    def __init__(
        self, engine: LikelihoodEngine, tokenizer: PreTrainedTokenizerBase, markers: Sequence[str], max_thinking_tokens: int
    ) -> None:
        self._engine, self._tokenizer, self._markers, self._budget = engine, tokenizer, markers, max_thinking_tokens
        self.version = engine.version
        self._seed: int | None = None
        # On a line of its own, as chat templates write it: so it never stands between backticks, where it would be a quotation.
        self._end: list[int] = tokenizer(f"\n{markers[1]}", add_special_tokens=False)["input_ids"]
        if markers[1] not in self._text(self._end):
            raise ValueError(
                f"think_tokens must end with a text that the model's tokenizer writes, got {markers[1]!r}, of which it makes "
                f"{self._text(self._end)!r}; correct it, or leave evaluation.max_thinking_tokens out"
            )

    @property
    def max_model_len(self) -> int | None:
        return self._engine.max_model_len

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, received: Received = unheard
    ) -> Generator[Completed, None, None]:
        room = sampling.max_new_tokens - self._budget
        first = sampling if sampling.choices or room <= len(self._end) else replace(sampling, max_new_tokens=self._budget)
        begun: dict[int, list[Generation]] = {}
        for index, found in self._engine.generate(prompts, first):
            found = [replace(one, is_thought_cut=False) for one in found]
            if first is not sampling and any(self._goes_on(one) for one in found):
                begun[index] = found
            else:
                received(index, found)
                yield index, found
        open_ones = [(index, place) for index, found in begun.items() for place, one in enumerate(found) if self._goes_on(one)]
        left = {index: sum(place_of == index for place_of, _ in open_ones) for index in begun}
        for index, place, whole in self._continued(prompts, begun, open_ones, sampling):
            begun[index][place] = whole
            left[index] -= 1
            if not left[index]:
                received(index, begun[index])
                yield index, begun[index]

    def loglikelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[tuple[int, tuple[float, bool]]]:
        return self._engine.loglikelihoods(pairs)

    def reseed(self, seed: int) -> None:
        self._seed = seed
        self._engine.reseed(seed)

    def close(self) -> None:
        self._engine.close()

    def _goes_on(self, one: Generation) -> bool:
        """Whether the first request ended where it was told to, and not by itself or because the model's context was full."""
        return one.finish_reason == "length" and len(one.token_ids) == self._budget

    def _continued(
        self,
        prompts: Sequence[Prompt],
        begun: dict[int, list[Generation]],
        open_ones: Sequence[tuple[int, int]],
        sampling: Sampling,
    ) -> Iterator[tuple[int, int, Generation]]:
        """The whole completions of those that go on, each with its prompt's index and its place among the prompt's completions."""
        for is_cut in (False, True):
            group = [
                (index, place)
                for index, place in open_ones
                if self._is_open(prompts[index], begun[index][place].completion) == is_cut
            ]
            if not group:
                continue
            added = self._end if is_cut else []
            longer: list[Prompt] = [
                [*cast(Sequence[int], prompts[index]), *begun[index][place].token_ids, *added] for index, place in group
            ]
            rest = replace(
                sampling,
                n=1,
                max_new_tokens=sampling.max_new_tokens - self._budget - len(added),
                seed=self._next_seed(sampling, is_cut),
            )
            for number, (one,) in self._engine.generate(longer, rest):
                index, place = group[number]
                before = begun[index][place]
                yield index, place, self._joined(before, added, one, is_cut)

    def _is_open(self, prompt: Prompt, text: str) -> bool:
        """Whether a completion that begins with the text is in mid-thought after it."""
        last = self._tokenizer.decode(list(cast(Sequence[int], prompt))[-_LAST_TOKENS:], skip_special_tokens=False)
        return answer_start(text, begun=begins_thought(str(last), self._markers), markers=self._markers) is None

    def _joined(self, before: Generation, added: Sequence[int], rest: Generation, is_cut: bool) -> Generation:
        if rest.finish_reason == "prompt_too_long":
            return before  # the model's context ends here
        ids = [*before.token_ids, *added, *rest.token_ids]
        return replace(
            rest,
            completion=self._text(ids),
            token_ids=ids,
            num_prompt_tokens=before.num_prompt_tokens,
            num_completion_tokens=len(ids),
            top_logprobs=before.top_logprobs,
            is_thought_cut=is_cut,
        )

    def _next_seed(self, sampling: Sampling, is_cut: bool) -> int | None:
        """Of the second request: with the first one's, a model that samples would meet the same random numbers again."""
        seed = sampling.seed if sampling.seed is not None else self._seed
        if seed is None or sampling.temperature == 0:
            return None
        return int.from_bytes(hashlib.sha256(f"{seed}:{is_cut}".encode()).digest()[:4]) & 0x7FFFFFFF

    def _text(self, ids: Sequence[int]) -> str:
        # As an engine decodes a completion; together, as a character may have tokens on both sides of the cut.
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
