"""Models that think, on any engine that runs here: between which markers, and for how many tokens at most."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from threading import RLock
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from evaluation.answers.thoughts import MARKERS, OTHER_MARKERS, answer_start, begins_thought
from evaluation.engines import Completed, Engine, LikelihoodEngine, Prompt, R, Received, T, share_chunks, unheard
from evaluation.seeds import seed_of
from evaluation.types import Generation, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A prompt's last tokens: a template that begins the thought ends with its marker, and with blanks.
_LAST_TOKENS = 64
# The tokens of a tokenizer that have a name, and are no part of a text.
_CONTROL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def thought_markers(tokenizer: PreTrainedTokenizerBase | None, given: Sequence[str] | None) -> tuple[str, str]:
    """The texts that begin and end a model's thoughts: those that the recipe names, or else those of its tokenizer.

    These are `<think>` and `</think>`, unless the vocabulary has another of the known pairs as tokens, and neither has these two nor a chat
    template that names one of them. Of several pairs it is the one that the template names. Without a tokenizer they are `<think>` and
    `</think>`.

    Raises:
        ValueError: the vocabulary has several other pairs, and the template doesn't tell which.
    """
    if given is not None or tokenizer is None:
        begin, end = given or MARKERS
        return begin, end
    tokens = {token.content for token in tokenizer.added_tokens_decoder.values()}
    if tokens.issuperset(MARKERS) or any(marker in str(tokenizer.chat_template) for marker in MARKERS):
        return MARKERS
    found = [pair for pair in OTHER_MARKERS if tokens.issuperset(pair)]
    written = [pair for pair in found if any(marker in str(tokenizer.chat_template) for marker in pair)]
    found = written if len(written) == 1 else found
    if len(found) > 1:
        pairs = " and ".join(f"[{begin}, {end}]" for begin, end in found)
        raise ValueError(
            f"think_tokens must say between which texts the model thinks, as its tokenizer has {pairs}, got none; set it to one of them"
        )
    return found[0] if found else MARKERS


def check_markers(tokenizer: PreTrainedTokenizerBase | None, markers: Sequence[str]) -> None:
    """Raises ValueError where a thought's marker is a token that begins, ends or fills up texts: a completion never holds one."""
    if tokenizer is None:
        return
    named = [getattr(tokenizer, f"{name}_token", None) for name in _CONTROL]
    lost = [marker for marker in markers if marker in named]
    if lost:
        raise ValueError(
            f"think_tokens must be texts that decoding keeps, got {lost[0]}, which begins, ends or fills up texts; name the tokens that "
            "begin and end a thought"
        )


def end_of_thought(tokenizer: PreTrainedTokenizerBase, markers: Sequence[str]) -> list[int]:
    """The tokens that end a thought where it has a limit: the end's marker on a line of its own, as chat templates write it. So it never
    stands between backticks, where it would be a quotation.

    Raises:
        ValueError: the tokenizer doesn't write the marker.
    """
    ids: list[int] = tokenizer(f"\n{markers[1]}", add_special_tokens=False)["input_ids"]
    written = _decoded(tokenizer, ids, with_markers(tokenizer, markers))
    if markers[1] not in written:
        raise ValueError(
            f"think_tokens must end with a text that the model's tokenizer writes, got {markers[1]!r}, of which it makes {written!r}; "
            "correct it, or leave evaluation.max_thinking_tokens out"
        )
    return ids


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], whole: Callable[[Generation], Generation] | None) -> str:
    """As an engine decodes a completion, with the markers of thoughts."""
    text = str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return text if whole is None else whole(Generation(text, list(ids), "stop", 0, len(ids))).completion


def with_markers(tokenizer: PreTrainedTokenizerBase, markers: Sequence[str]) -> Callable[[Generation], Generation] | None:
    """What puts a thought's markers into a completion's text again, from its tokens; None where decoding keeps them anyway.

    Engines decode without special tokens, and some models have markers that are such.
    """
    special = _special(tokenizer)
    if not any(marker in special.values() for marker in markers):
        return None
    left_out = {token for token, text in special.items() if text not in markers}

    def whole(one: Generation) -> Generation:
        kept = [token for token in one.token_ids if token not in left_out]
        text = str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        return replace(one, completion=text)

    return whole


def _special(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The texts of the special tokens, by their ids."""
    named = dict(zip(tokenizer.all_special_ids, map(str, tokenizer.all_special_tokens), strict=True))
    return named | {token: about.content for token, about in tokenizer.added_tokens_decoder.items() if about.special}


def thinking_engine(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase | None,
    markers: Sequence[str],
    max_thinking_tokens: int | None = None,
) -> Engine:
    """The engine with the markers of thoughts in its completions, and with thoughts of at most so many tokens; itself where it has that.

    Raises:
        ValueError: as `ThinkingEngine`, or thoughts at an endpoint have a limit.
    """
    if max_thinking_tokens is not None and (engine.takes != "ids" or tokenizer is None):
        raise ValueError(
            "max_thinking_tokens must be left out for an engine behind an endpoint, whose server goes on from no text of ours, got "
            f"{max_thinking_tokens}; remove it, and give the server a limit of its own, or run the model here"
        )
    if tokenizer is None or isinstance(engine, ThinkingEngine):
        return engine
    if max_thinking_tokens is None and with_markers(tokenizer, markers) is None:
        return engine
    return ThinkingEngine(cast(LikelihoodEngine, engine), tokenizer, markers, max_thinking_tokens)


class ThinkingEngine:
    """An engine whose completions have the markers of thoughts in them, whatever tokens these are. With `max_thinking_tokens` a thought
    ends after so many: then the end's marker is put in, and the model goes on after it.

    With a limit a completion is generated in two requests. The first ends after `max_thinking_tokens`. Where it ends in mid-thought, the
    second one has what was written and the end's marker in its prompt, on a line of its own; where it doesn't, what was written alone. So a
    thought is cut that is open after the first so many tokens of a completion; one that begins later is not. A completion has no more than
    `Sampling.max_new_tokens` in all, with the marker's. No thought is cut where that leaves no token for an answer. What `generate` gives
    says of each completion whether its thought was cut.

    Raises:
        ValueError: the tokenizer doesn't write the marker.
    """

    takes: ClassVar[Literal["ids", "messages"]] = "ids"
    # As every engine that runs here.
    supports_choices: ClassVar[bool] = True

    def __init__(
        self,
        engine: LikelihoodEngine,
        tokenizer: PreTrainedTokenizerBase,
        markers: Sequence[str],
        max_thinking_tokens: int | None = None,
        tokenizing: RLock | None = None,
    ) -> None:
        self._engine, self._tokenizer, self._markers, self._budget = engine, tokenizer, markers, max_thinking_tokens
        # A tokenizer serves one thread, and replicas have one each: whoever uses this engine's tokenizer holds it.
        self.tokenizing = tokenizing or RLock()
        self.version = engine.version
        self._seed: int | None = None
        with self.tokenizing:
            self._with_markers = with_markers(tokenizer, markers)
            self._end = [] if max_thinking_tokens is None else end_of_thought(tokenizer, markers)

    @property
    def max_model_len(self) -> int | None:
        return self._engine.max_model_len

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, received: Received = unheard
    ) -> Generator[Completed, None, None]:
        if self._budget is None:
            for index, found in self._engine.generate(prompts, sampling):
                whole = [self._whole(one) for one in found]
                received(index, whole)
                yield index, whole
        else:
            yield from self._limited(prompts, sampling, received, self._budget)

    def _limited(
        self, prompts: Sequence[Prompt], sampling: Sampling, received: Received, budget: int
    ) -> Generator[Completed, None, None]:
        room = sampling.max_new_tokens - budget
        first = sampling if sampling.choices or room <= len(self._end) else replace(sampling, max_new_tokens=budget)
        begun: dict[int, list[Generation]] = {}
        for index, found in self._engine.generate(prompts, first):
            found = [replace(self._whole(one), is_thought_cut=False) for one in found]
            if first is not sampling and any(_goes_on(one, budget) for one in found):
                begun[index] = found
            else:
                received(index, found)
                yield index, found
        open_ones = [
            (index, place) for index, found in begun.items() for place, one in enumerate(found) if _goes_on(one, budget)
        ]
        left = {index: sum(place_of == index for place_of, _ in open_ones) for index in begun}
        for index, place, whole in self._continued(prompts, begun, open_ones, sampling, room):
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

    def share_chunks(self, chunks: Sequence[T], work: Callable[[Engine, T], Iterator[R]]) -> Iterator[R]:
        """As `evaluation.engines.share_chunks`, with this engine's markers and limit on every replica."""

        def within(engine: Engine, chunk: T) -> Iterator[R]:
            replica = cast(LikelihoodEngine, engine)
            return work(ThinkingEngine(replica, self._tokenizer, self._markers, self._budget, self.tokenizing), chunk)

        return share_chunks(self._engine, chunks, within)

    def _whole(self, one: Generation) -> Generation:
        if self._with_markers is None:
            return one
        with self.tokenizing:
            return self._with_markers(one)

    def _continued(
        self,
        prompts: Sequence[Prompt],
        begun: dict[int, list[Generation]],
        open_ones: Sequence[tuple[int, int]],
        sampling: Sampling,
        room: int,
    ) -> Iterator[tuple[int, int, Generation]]:
        """The whole completions of those that go on, each with its prompt's index and its place among the prompt's completions."""
        groups: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        for index, place in open_ones:
            groups[self._is_open(prompts[index], begun[index][place].completion)].append((index, place))
        for is_cut, group in groups.items():
            if not group:
                continue
            added = self._end if is_cut else []
            longer: list[Prompt] = [
                [*cast(Sequence[int], prompts[index]), *begun[index][place].token_ids, *added] for index, place in group
            ]
            rest = replace(
                sampling,
                n=1,
                max_new_tokens=room - len(added),
                # A line break of the task's own would end the completion right after the thought. The caller cuts the text there.
                stop=None if is_cut else sampling.stop,
                seed=self._next_seed(sampling, is_cut),
                seeds=None if sampling.seeds is None else [_second_seed(sampling.seeds[index], is_cut) for index, _ in group],
            )
            for number, (one,) in self._engine.generate(longer, rest):
                index, place = group[number]
                before = begun[index][place]
                yield index, place, self._joined(before, added, one, is_cut)

    def _is_open(self, prompt: Prompt, text: str) -> bool:
        """Whether a completion that begins with the text is in mid-thought after it."""
        with self.tokenizing:
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
        return _second_seed(seed, is_cut)

    def _text(self, ids: Sequence[int]) -> str:
        """Of a whole completion; together, as a character may have tokens on both sides of the cut."""
        with self.tokenizing:
            return _decoded(self._tokenizer, ids, self._with_markers)


def _second_seed(seed: int, is_cut: bool) -> int:
    return seed_of(f"{seed}:{is_cut}")


def _goes_on(one: Generation, budget: int) -> bool:
    """Whether the first request ended where it was told to, and not by itself or because the model's context was full."""
    return one.finish_reason == "length" and len(one.token_ids) == budget
