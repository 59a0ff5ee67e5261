"""Who is asked: a model that runs here, one behind an endpoint, or a reward model; and how each says its verdict.

`text`: free text, read by the form's rule. `choice`: one of the form's labels, by structured output of an engine that runs here.
`structured`: a JSON object with reasons and a label, by structured output of a server. `logprobs`: the likelier of two letters.
Whatever constrains a reply is checked on the reply: servers ignore what they don't know.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from bnf.data.chat_template import RenderingError
from evaluation.engines import Engine
from evaluation.generation.generate import render
from evaluation.judging.drained import drained
from evaluation.judging.replies import json_field
from evaluation.judging.reward_model import RewardModel
from evaluation.spending import Estimate, Meter
from evaluation.types import Generation, Message, Sampling

Mode = Literal["text", "choice", "structured", "logprobs", "reward"]

# So many replies in a row that don't have the form they were held to: the server ignores it.
NUM_IGNORED = 3
# The longest label has seven tokens or so in any vocabulary.
_CHOICE_TOKENS = 32
_TOP_LOGPROBS = 20


class Judge(Protocol):
    """Something that can be asked. `identity` and `parameters` are part of every record's key."""

    mode: Mode
    identity: Mapping[str, Any]

    def parameters(self, form: Any) -> dict[str, Any]: ...

    def ask(self, conversations: Sequence[list[Message]], form: Any) -> Iterator[tuple[int, Generation]]:
        """Yields (index, reply) as the replies come."""
        ...

    def estimate(self, conversations: Sequence[list[Message]], form: Any) -> Estimate | None:
        """What asking would cost; None where nothing is paid."""
        ...


@dataclass(frozen=True)
class Reading:
    """What a reply says: a verdict (None: null), and how much of the probability lay on the letters, where those were asked for."""

    verdict: Any
    letter_mass: float | None = None


class ModelJudge:
    """A language model as judge.

    Args:
        identity: What makes it this judge: its digest, or its name at an endpoint.
        meter: Of a paid endpoint.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Any,
        identity: Mapping[str, Any],
        mode: Mode,
        max_judgment_tokens: int = 4096,
        meter: Meter | None = None,
    ) -> None:
        if mode == "choice" and not engine.supports_choices:
            raise ValueError(
                "judge.verdict must be text, structured or logprobs for an endpoint, got choice; set judge.verdict"
            )
        self.mode: Mode = mode
        self.identity = identity
        self._engine, self._tokenizer, self._meter = engine, tokenizer, meter
        self._max_tokens = max_judgment_tokens

    def parameters(self, form: Any) -> dict[str, Any]:
        return {"verdict": self.mode, **asdict(self._sampling(form))}

    def ask(self, conversations: Sequence[list[Message]], form: Any) -> Iterator[tuple[int, Generation]]:
        shown = conversations if self._tokenizer is None else [_harmless(self._tokenizer, one) for one in conversations]
        try:
            prompts, _ = render(self._engine, self._tokenizer, shown)
        except RenderingError as error:
            raise ValueError(
                f"judge.model_name_or_path must have a chat template that writes all it is asked: {error}"
            ) from error
        replies = self._engine.generate(prompts, self._sampling(form))
        checked, ignored = False, 0
        try:
            for index, (reply,) in replies:
                yield index, reply
                if checked or reply.finish_reason not in self._whole():
                    continue
                checked = self._took_effect(form, reply)
                ignored += not checked
                if ignored >= NUM_IGNORED:
                    raise ValueError(
                        f"judge.verdict must be what the server can do, got {self.mode}, which its first {ignored} replies ignore "
                        f"(the last: {reply.completion[:80]!r}); set judge.verdict=text"
                    )
        except BaseException as error:
            # Where the check fails too, the replies under way are paid for.
            for index, (reply,) in drained(replies, error):
                yield index, reply

    def estimate(self, conversations: Sequence[list[Message]], form: Any) -> Estimate | None:
        if self._meter is None:
            return None
        sampling = self._sampling(form)
        return self._meter.estimate(str(self.identity["model"]), conversations, sampling.max_new_tokens, sampling.schema)

    def _whole(self) -> tuple[str, ...]:
        """How a reply ends that shows whether the constraint took effect: one token is all that is asked for letters."""
        return ("stop", "length") if self.mode == "logprobs" else ("stop",)

    def _took_effect(self, form: Any, reply: Generation) -> bool:
        if self.mode == "logprobs":
            return bool(reply.top_logprobs)
        if self.mode == "structured":
            label = json_field(reply.completion, form.VERDICT)
            return isinstance(label, str) and label in form.LABELS
        return True

    def _sampling(self, form: Any) -> Sampling:
        if self.mode == "choice":
            return Sampling(_CHOICE_TOKENS, choices=list(form.LABELS))
        if self.mode == "structured":
            return Sampling(self._max_tokens, schema=schema(form))
        if self.mode == "logprobs":
            if form.LETTERS is None:
                raise ValueError(
                    f"judge.verdict must be text, choice or structured for a form that rates, got logprobs for {form.__name__}; "
                    "set judge.verdict"
                )
            return Sampling(1, top_logprobs=_TOP_LOGPROBS)
        return Sampling(self._max_tokens)


def _harmless(tokenizer: Any, messages: Sequence[Message]) -> list[Message]:
    """The messages without control tokens: an answer that holds one would end the judge's turn, and could give the verdict itself."""
    cleaned = []
    for message in messages:
        content = message["content"]
        for token in tokenizer.all_special_tokens:
            content = content.replace(token, f"{token[0]} {token[1:]}")
        cleaned.append({**message, "content": content})
    return cleaned


def schema(form: Any) -> dict[str, Any]:
    """The JSON schema of a structured reply: the reasons before the verdict, so that they can lead to it."""
    names = [*form.REASONS, form.VERDICT]
    properties: dict[str, Any] = {name: {"type": "string"} for name in form.REASONS}
    properties[form.VERDICT] = {"type": "string", "enum": list(form.LABELS)}
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def instructions(form: Any, mode: Mode) -> str:
    """What the judge is told."""
    asks = {
        "text": form.ASK_TEXT,
        "choice": f"Reply with exactly one of {', '.join(form.LABELS)} and nothing else.",
        "structured": f'Give your reasons first; "{form.VERDICT}" is exactly one of {", ".join(form.LABELS)}.',
        "logprobs": "Reply with one letter and nothing else: the better assistant's, A or B.",
    }
    return f"{form.TASK}\n\n{asks[mode]}"


def read(form: Any, mode: Mode, reply: Mapping[str, Any]) -> Reading:
    """The verdict of a recorded reply."""
    text: str = reply["reply"]
    if reply["finish_reason"] not in ("stop", "length"):
        return Reading(None)
    if mode == "text":
        return Reading(form.parse(text))
    if mode == "choice":
        return Reading(form.LABELS.get(text))
    if mode == "structured":
        label = json_field(text, form.VERDICT)
        return Reading(form.LABELS.get(label) if isinstance(label, str) else None)
    return _likelier_letter(form, reply["top_logprobs"] or {})


def _likelier_letter(form: Any, top_logprobs: Mapping[str, float]) -> Reading:
    mass = dict.fromkeys(form.LETTERS, 0.0)
    for token, logprob in top_logprobs.items():
        # Vocabularies have a letter with and without a space before it, some with marks for the space.
        letter = token.strip(" \u2581\u0120")
        if letter in mass:
            mass[letter] += math.exp(logprob)
    (first, p), (second, q) = mass.items()
    if p + q == 0:
        return Reading(None, 0.0)
    return Reading("A=B" if p == q else form.LETTERS[first if p > q else second], p + q)


class RewardJudge:
    """A reward model (a transformers sequence classifier with one output): the answer with the higher reward is better.

    It reads a conversation with one answer at its end, and so has no position bias; its reply is the reward as text.
    """

    mode: Mode = "reward"

    def __init__(self, scorer: RewardModel, identity: Mapping[str, Any]) -> None:
        self.identity = identity
        self._scorer = scorer

    def parameters(self, form: Any = None) -> dict[str, Any]:
        return {"verdict": self.mode}

    def ask(self, conversations: Sequence[list[Message]], form: Any = None) -> Iterator[tuple[int, Generation]]:
        yield from self._scorer.rewards(conversations)

    def estimate(self, conversations: Sequence[list[Message]], form: Any) -> Estimate | None:
        return None
