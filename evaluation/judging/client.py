"""Who is asked: a model that runs here, one behind an endpoint, or a reward model; and how each says its verdict.

`text`: free text, read by the judge protocol's rule. `choice`: one of the protocol's labels, by structured output of an engine that runs
here. `structured`: a JSON object with reasons and a label, by structured output of a server. `logprobs`: the likelier of two letters.
Whatever constrains a reply is checked on the reply: servers ignore what they don't know.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from bnf.data.chat_template import RenderingError
from evaluation.answers.thoughts import MARKERS, begins_thought, spoken
from evaluation.engines import Engine, Prompt
from evaluation.generation.generate import render
from evaluation.generation.thinking import check_markers, thinking_engine, thought_markers
from evaluation.judging.aggregates.judgment import Verdict
from evaluation.judging.protocols import JudgeProtocol
from evaluation.judging.replies import json_field
from evaluation.judging.reward_model import RewardModel
from evaluation.records import Record
from evaluation.spending import Estimate, Meter
from evaluation.types import Generation, Message, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Mode = Literal["text", "choice", "structured", "logprobs", "reward"]
# keep(index of the conversation, reply)
Keep = Callable[[int, Generation], None]

# Why a judgment has no verdict, where it isn't how the reply ended.
NO_REPLY = "no reply"
NO_VERDICT = "no verdict in the reply"
UNFINISHED_THOUGHT = "unfinished thought"

# After so many replies that don't obey what constrains them, the server is taken to ignore it.
NUM_IGNORED = 3
# The longest label has about seven tokens in any vocabulary.
_CHOICE_TOKENS = 32
_TOP_LOGPROBS = 20
# Fields of `Sampling` that are younger than the first judgments. Where they aren't set they are part of no request's key: replies on file,
# which were paid for, are found under theirs.
_LATER = frozenset({"seeds"})


class Judge(Protocol):
    """Something that can be asked. `identity` and `parameters` are part of every request's key; `markers` begin and end its thoughts."""

    mode: Mode
    identity: Mapping[str, object]
    markers: Sequence[str]

    @property
    def begins_thought(self) -> bool:
        """Whether its chat template, where it is known, begins the reply's thought."""
        ...

    def parameters(self, protocol: JudgeProtocol) -> Mapping[str, object]:
        """How it decodes and says its verdict."""
        ...

    def ask(self, conversations: Sequence[list[Message]], protocol: JudgeProtocol, keep: Keep) -> None:
        """Sends every conversation to the judge. Calls `keep` with each reply as soon as it arrives, in the thread that received it.

        Whatever ends the asking early, the replies to requests under way are waited for and kept too.
        """
        ...

    def estimate(self, conversations: Sequence[list[Message]], protocol: JudgeProtocol) -> Estimate | None:
        """What asking would cost; None where nothing is paid."""
        ...


@dataclass(frozen=True)
class Reading:
    """What a reply says.

    Attributes:
        verdict: None where the reply has none that counts.
        choice_mass: The probability of both letters together, where the verdict is the likelier letter.
        null_reason: Why there is no verdict.
    """

    verdict: Verdict | None
    choice_mass: float | None = None
    null_reason: str | None = None


class ModelJudge:
    """A language model as judge.

    Args:
        identity: What makes it this judge: its digest, or its name at an endpoint.
        meter: Of a paid endpoint.
        think_tokens: The texts that begin and end its thoughts; None: those of its tokenizer.

    Raises:
        ValueError: it can't say its verdict so, or its thoughts can't be found.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase | None,
        identity: Mapping[str, object],
        mode: Mode,
        max_judgment_tokens: int = 4096,
        meter: Meter | None = None,
        think_tokens: Sequence[str] | None = None,
    ) -> None:
        if mode == "choice" and not engine.supports_choices:
            raise ValueError(
                "judge.verdict must be text, structured or logprobs for an endpoint, got choice; set judge.verdict"
            )
        self.mode: Mode = mode
        self.identity = identity
        try:
            self.markers: Sequence[str] = thought_markers(tokenizer, think_tokens)
            check_markers(tokenizer, self.markers)
        except ValueError as error:
            raise ValueError(f"judge.{error}") from error
        self._opened, self._engine = engine, thinking_engine(engine, tokenizer, self.markers)
        self._tokenizer, self._meter = tokenizer, meter
        self._max_tokens = max_judgment_tokens

    @functools.cached_property
    def begins_thought(self) -> bool:
        if self._tokenizer is None:
            return False
        _, (text,) = self._rendered([[{"role": "user", "content": "?"}]])
        return begins_thought(text, self.markers)

    def parameters(self, protocol: JudgeProtocol) -> Mapping[str, object]:
        asked = asdict(self._sampling(protocol)).items()
        known = {name: value for name, value in asked if value is not None or name not in _LATER}
        # Replies of judges whose markers are the usual ones, and no special tokens, are found under the keys that they always had; and an
        # endpoint's, which were paid for, are the same whatever the markers are that they are read by.
        are_usual = self._tokenizer is None or (tuple(self.markers) == MARKERS and self._engine is self._opened)
        own = {} if are_usual else {"think_tokens": list(self.markers)}
        return {"verdict": self.mode, **known, **own}

    def ask(self, conversations: Sequence[list[Message]], protocol: JudgeProtocol, keep: Keep) -> None:
        shown = conversations if self._tokenizer is None else [_harmless(self._tokenizer, one) for one in conversations]
        prompts, _ = self._rendered(shown)
        # Closed before an error leaves: an endpoint's replies under way then still find the record open.
        with contextlib.closing(
            self._engine.generate(prompts, self._sampling(protocol), lambda index, found: keep(index, found[0]))
        ) as replies:
            checked, ignored = False, 0
            for _, (reply,) in replies:
                if checked or reply.finish_reason not in self._whole():
                    continue
                checked = self._took_effect(protocol, reply)
                ignored += not checked
                if ignored >= NUM_IGNORED:
                    raise ValueError(
                        f"judge.verdict must be what the server can do, got {self.mode}, which its first {ignored} replies ignore "
                        f"(the last: {reply.completion[:80]!r}); set judge.verdict=text"
                    )

    def estimate(self, conversations: Sequence[list[Message]], protocol: JudgeProtocol) -> Estimate | None:
        if self._meter is None:
            return None
        sampling = self._sampling(protocol)
        return self._meter.estimate(str(self.identity["model"]), conversations, sampling.max_new_tokens, sampling.schema)

    def _rendered(self, conversations: Sequence[list[Message]]) -> tuple[list[Prompt], list[str]]:
        try:
            return render(self._engine, self._tokenizer, conversations)
        except RenderingError as error:
            raise ValueError(
                f"judge.model_name_or_path must have a chat template that writes all it is asked: {error}"
            ) from error

    def _whole(self) -> tuple[str, ...]:
        """The finish reasons of replies that show whether the constraint took effect. A letter is one token and ends at the limit."""
        return ("stop", "length") if self.mode == "logprobs" else ("stop",)

    def _took_effect(self, protocol: JudgeProtocol, reply: Generation) -> bool:
        if self.mode == "logprobs":
            return bool(reply.top_logprobs)
        if self.mode == "structured":
            label = json_field(spoken(reply.completion, markers=self.markers) or "", protocol.VERDICT)
            return isinstance(label, str) and label in protocol.LABELS
        return True

    def _sampling(self, protocol: JudgeProtocol) -> Sampling:
        if self.mode == "choice":
            return Sampling(_CHOICE_TOKENS, choices=list(protocol.LABELS))
        if self.mode == "structured":
            return Sampling(self._max_tokens, schema=schema(protocol))
        if self.mode == "logprobs":
            if protocol.LETTERS is None:
                raise ValueError(
                    "judge.verdict must be text, choice or structured for a judge protocol that rates, got logprobs for "
                    f"{protocol.__name__}; set judge.verdict"
                )
            return Sampling(1, top_logprobs=_TOP_LOGPROBS)
        return Sampling(self._max_tokens)


def _harmless(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[Message]:
    """The messages without control tokens: with one, an answer could end the user's turn and write the judge's verdict itself."""
    cleaned = []
    for message in messages:
        content = message["content"]
        for token in tokenizer.all_special_tokens:
            content = content.replace(token, f"{token[0]} {token[1:]}")
        cleaned.append({**message, "content": content})
    return cleaned


def schema(protocol: JudgeProtocol) -> Record:
    """The JSON schema of a structured reply: the reasons before the verdict, so that they can lead to it."""
    names = [*protocol.REASONS, protocol.VERDICT]
    properties: Record = {name: {"type": "string"} for name in protocol.REASONS}
    properties[protocol.VERDICT] = {"type": "string", "enum": list(protocol.LABELS)}
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def instructions(protocol: JudgeProtocol, mode: Mode) -> str:
    """The system text: what the judge is to do, and how it says its verdict."""
    asks = {
        "text": protocol.ASK_TEXT,
        "choice": f"Reply with exactly one of {', '.join(protocol.LABELS)} and nothing else.",
        "structured": f'Give your reasons first; "{protocol.VERDICT}" is exactly one of {", ".join(protocol.LABELS)}.',
        "logprobs": "Reply with one letter and nothing else: the better assistant's, A or B.",
    }
    return f"{protocol.TASK}\n\n{asks[mode]}"


def read(
    protocol: JudgeProtocol,
    mode: Mode,
    replies: Sequence[Generation],
    begun: Sequence[bool],
    markers: Sequence[str] = MARKERS,
) -> Reading:
    """The verdict of the replies to one judgment's requests, the first and the one to go on. Thoughts have none.

    Args:
        begun: For each reply whether its thought began before it.
        markers: The texts that begin and end a thought.
    """
    last = replies[-1]
    if last.finish_reason not in ("stop", "length"):
        return Reading(None, null_reason=last.finish_reason)
    if mode == "logprobs":
        return _likelier_letter(protocol, last.top_logprobs or {})
    said = [spoken(reply.completion, begun=thinks, markers=markers) for reply, thinks in zip(replies, begun, strict=True)]
    text = "\n".join(part for part in said if part is not None)
    if mode == "text":
        verdict = protocol.parse(text)
    else:
        label = text if mode == "choice" else json_field(text, protocol.VERDICT)
        verdict = protocol.LABELS.get(label) if isinstance(label, str) else None
    if verdict is not None:
        return Reading(verdict)
    return Reading(None, null_reason=UNFINISHED_THOUGHT if None in said else NO_VERDICT)


def _likelier_letter(protocol: JudgeProtocol, top_logprobs: Mapping[str, float]) -> Reading:
    assert protocol.LETTERS is not None
    mass = dict.fromkeys(protocol.LETTERS, 0.0)
    for token, logprob in top_logprobs.items():
        # A vocabulary has a letter both with and without a space before it; some write the space as a mark.
        letter = token.strip(" \u2581\u0120")
        if letter in mass:
            mass[letter] += math.exp(logprob)
    (first, p), (second, q) = mass.items()
    if p + q == 0:
        return Reading(None, 0.0, NO_VERDICT)
    return Reading("A=B" if p == q else protocol.LETTERS[first if p > q else second], p + q)


class RewardJudge:
    """A reward model (a transformers sequence classifier with one output): the answer with the higher reward is better.

    It reads a conversation with one answer at its end, and so has no position bias; its reply is the reward as text.
    """

    mode: Mode = "reward"
    markers: Sequence[str] = MARKERS
    begins_thought = False

    def __init__(self, scorer: RewardModel, identity: Mapping[str, object]) -> None:
        self.identity = identity
        self._scorer = scorer

    def parameters(self, protocol: JudgeProtocol | None) -> Mapping[str, object]:
        return {"verdict": self.mode}

    def ask(self, conversations: Sequence[list[Message]], protocol: JudgeProtocol | None, keep: Keep) -> None:
        for index, reply in self._scorer.rewards(conversations):
            keep(index, reply)

    def estimate(self, conversations: Sequence[list[Message]], protocol: JudgeProtocol) -> Estimate | None:
        return None
