"""Asks a judge for what has no verdict yet: each request once, however many judgments share it."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from evaluation.answers.thoughts import ends_alone, spoken
from evaluation.judging.calls import About, Calls, call_key
from evaluation.judging.client import NO_REPLY, Judge, Reading, read
from evaluation.judging.pending import Pending, message
from evaluation.judging.protocols import JudgeProtocol
from evaluation.progress import spent_so_far
from evaluation.records import Record
from evaluation.types import Generation, Message, Progress

# By a request's key the conversation to send, and the judgments that need its reply.
_Waiting = dict[str, tuple[list[Message], list[Pending]]]


@dataclass(frozen=True)
class Cost:
    """What requests took; `usd` is None where none of them has a price."""

    num_requests: int
    num_prompt_tokens: int
    num_completion_tokens: int
    usd: float | None

    @classmethod
    def of(cls, replies: Sequence[Generation]) -> Cost:
        costs = [reply.cost_usd for reply in replies if reply.cost_usd is not None]
        return cls(
            len(replies),
            sum(reply.num_prompt_tokens for reply in replies),
            sum(reply.num_completion_tokens for reply in replies),
            # Summed exactly, so that the order in which the answers came back is no part of the result.
            math.fsum(costs) if costs else None,
        )

    def to_json(self) -> Record:
        return dataclasses.asdict(self)


class Asking:
    """Asks a judge for judgments, and reads their verdicts from the replies on file.

    A judgment without a verdict is asked for once in every run; one with a verdict is never asked for again.

    Args:
        protocol_name: The protocol's name in the record of calls.
    """

    def __init__(self, judge: Judge, judge_name: str, protocol: JudgeProtocol, protocol_name: str, calls: Calls) -> None:
        self._judge, self._protocol, self._calls = judge, protocol, calls
        self._names = judge_name, protocol_name
        self._parameters = judge.parameters(protocol)
        # By the key of a judgment's first request, whether its reply, which ended by itself, has a thought's end without its beginning.
        self._ends_alone: dict[str, bool] = {}
        self._new: list[Generation] = []
        # The keys of what this run asks.
        self._asked: set[str] = set()
        # Replies arrive in several threads.
        self._counting = threading.Lock()

    def ask(self, judgments: Sequence[Pending], progress: Progress) -> None:
        """Asks for all judgments that have no verdict.

        Raises:
            SpendingCapReached: where the next request could exceed the cap. Whatever ends the asking, what was answered is on file.
        """
        total = len(judgments)
        for key in {key for judgment in judgments for key in self.keys(judgment)}:
            self._count(key)
        waiting = self._waiting(judgments)
        num_judged = total - sum(len(places) for _, places in waiting.values())
        note = ""
        estimate = self._judge.estimate([messages for messages, _ in waiting.values()], self._protocol)
        if estimate is not None and waiting:
            note = str(estimate)
            print(f"judging {total} games, {num_judged} already judged: {note}", flush=True)
        progress(num_judged, total, note)

        def answered(num_more: int) -> None:
            nonlocal num_judged
            num_judged = min(num_judged + num_more, total)
            progress(num_judged, total, self._spent() or note)

        self._ask(waiting, 1, lambda judgments: answered(len(judgments)))
        self._ask(self._unfinished(judgments), 2, lambda _: answered(0))
        if estimate is not None:
            print(f"asked {len(self._new)} requests: {self._spent() or 'no price'}", flush=True)
        progress(total, total, self._spent())

    def reading(self, judgment: Pending) -> Reading:
        """The judgment's verdict by the replies on file."""
        replies = self.replies(judgment)
        if not judgment.requests:
            return Reading(judgment.facts.verdict)
        if len(replies) < len(judgment.requests):
            return Reading(None, null_reason=NO_REPLY)
        if self._judge.mode == "reward":
            first, second = (reward_of(reply) for reply in replies)
            if first is None or second is None:
                return Reading(None, null_reason="an answer that is too long for the reward model")
            return Reading("A=B" if first == second else "A>B" if first > second else "B>A")
        begun = [self._begun(reply) for reply in replies]
        return read(self._protocol, self._judge.mode, replies, begun, self._judge.markers)

    def replies(self, judgment: Pending) -> list[Generation]:
        """The replies on file; of free text also the one to the request to go on."""
        return [reply for _, reply in self._answered(judgment)]

    def keys(self, judgment: Pending) -> list[str]:
        return [self._key(messages) for messages in judgment.requests]

    def cost(self, judgments: Iterable[Pending]) -> Cost:
        """What the judgments took, whichever run asked for them."""
        replies = {key: reply for judgment in judgments for key, reply in self._answered(judgment)}
        return Cost.of(list(replies.values()))

    def _answered(self, judgment: Pending) -> list[tuple[str, Generation]]:
        """(key, reply)"""
        found = [(key, reply) for key in self.keys(judgment) if (reply := self._calls.get(key))]
        if found and (more := self._more(judgment)) is not None:
            key = self._key(more)
            found += [(key, reply)] if (reply := self._calls.get(key)) else []
        return found

    def _waiting(self, judgments: Sequence[Pending]) -> _Waiting:
        """What has to be asked first: requests without an answer, and those of judgments that ended without a verdict."""
        waiting: _Waiting = {}
        for judgment in judgments:
            if not judgment.requests or self.reading(judgment).verdict is not None:
                continue
            keys = self.keys(judgment)
            absent = [index for index, key in enumerate(keys) if self._calls.get(key) is None]
            more = self._more(judgment)
            if not absent and more is not None and self._calls.get(self._key(more)) is None:
                continue  # killed between the two attempts: the second is asked, the first is paid for
            for index in absent or range(len(keys)):
                waiting.setdefault(keys[index], (judgment.requests[index], []))[1].append(judgment)
        return waiting

    def _unfinished(self, judgments: Sequence[Pending]) -> _Waiting:
        """The requests to go on."""
        waiting: _Waiting = {}
        for judgment in judgments:
            more = self._more(judgment)
            if more is None or self._key(more) in self._asked:
                continue
            answered = self._calls.get(self._key(more))
            if answered is None or self.reading(judgment).verdict is None:
                waiting.setdefault(self._key(more), (more, []))[1].append(judgment)
        return waiting

    def _ask(self, waiting: _Waiting, attempt: int, answered: Callable[[list[Pending]], None]) -> None:
        keys = list(waiting)
        self._asked |= set(keys)

        def keep(index: int, reply: Generation) -> None:
            judgments = waiting[keys[index]][1]
            about = About(*self._names, judgments[0].question_id, judgments[0].number, judgments[0].model, attempt)
            # On file before anything else is done with it, and before anything else can fail.
            self._calls.add(keys[index], reply, about)
            with self._counting:
                self._new.append(reply)
                if attempt == 1:
                    self._count(keys[index])
                answered(judgments)

        self._judge.ask([messages for messages, _ in waiting.values()], self._protocol, keep)

    def _more(self, judgment: Pending) -> list[Message] | None:
        """The conversation that asks a judge to go on, where its free text has no verdict and ended by itself or at its limit."""
        if self._judge.mode != "text" or self._protocol.ASK_AGAIN is None or not judgment.requests:
            return None
        messages = judgment.requests[0]
        first = self._calls.get(self._key(messages))
        if first is None or first.finish_reason not in ("stop", "length"):
            return None
        if not self._protocol.wants_more(spoken(first.completion, begun=self._begun(first), markers=self._judge.markers) or ""):
            return None
        return [*messages, message("assistant", first.completion), message("user", self._protocol.ASK_AGAIN)]

    def _count(self, key: str) -> None:
        reply = self._calls.get(key)
        self._ends_alone.pop(key, None)
        if reply is not None and reply.finish_reason == "stop":
            self._ends_alone[key] = ends_alone(reply.completion, self._judge.markers)

    def _begun(self, reply: Generation) -> bool:
        """Whether the reply's thought began before it. An endpoint's template isn't known: where most whole replies to these judgments'
        first requests have the end of a thought alone, one that was cut without an end is thought. Other replies on file may be another
        server's, or of other parameters, and tell nothing of it.
        """
        if self._judge.mode != "text":
            return False  # what constrains the reply leaves no room for a thought
        if self._judge.begins_thought:
            return True
        return reply.finish_reason == "length" and 2 * sum(self._ends_alone.values()) > len(self._ends_alone)

    def _key(self, messages: list[Message]) -> str:
        return call_key(self._judge.identity, messages, self._parameters)

    def _spent(self) -> str:
        return spent_so_far(Cost.of(self._new).usd)


def reward_of(reply: Generation) -> float | None:
    """The reward in a reward model's reply; None where it could not read the conversation to its end."""
    return float(reply.completion) if reply.finish_reason == "stop" else None
