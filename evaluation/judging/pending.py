"""What is to be judged: two answers to a question in one order, or one answer; each with the messages that ask for its verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evaluation.answers.thoughts import spoken
from evaluation.judging.aggregates.judgment import Facts
from evaluation.judging.answers import Answers
from evaluation.judging.client import Judge, instructions
from evaluation.judging.protocols import JudgeProtocol, Orders
from evaluation.judging.replies import cut_words
from evaluation.types import Item, Message


@dataclass(frozen=True)
class Pending:
    """A judgment that is still to be made.

    Attributes:
        number: For a comparison 1 where the baseline is A, and 2 where it is B; for a rated answer its turn.
        requests: The conversations that ask for it: one, or for a reward model one per answer; none where `facts` has the verdict.
        category: The question's category; for rated answers alone.
    """

    model: str
    question_id: str
    number: int
    requests: tuple[list[Message], ...]
    facts: Facts
    category: str | None = None


def require(protocol: JudgeProtocol, judge: Judge, baseline: Answers | None) -> None:
    """Raises ValueError where the protocol lacks a baseline, or rates and has a reward model as its judge."""
    if protocol.COMPARES and baseline is None:
        raise ValueError(f"baseline must be given for {protocol.__name__}, which compares two answers, got none; name one")
    if judge.mode == "reward" and not protocol.COMPARES:
        raise ValueError(
            f"judge.engine must be a language model for {protocol.__name__}, which rates on a scale of 1 to 10, got a reward model, "
            "whose rewards have no scale; use it with a judge protocol that compares"
        )


def pending(
    protocol: JudgeProtocol,
    judge: Judge,
    questions: Sequence[Item],
    models: Mapping[str, Answers],
    baseline: Answers | None,
    orders: Orders,
) -> Iterator[Pending]:
    """All judgments of the models' answers, by model, question and number.

    Raises:
        ValueError: where a question lacks an answer, or the protocol a baseline.
    """
    require(protocol, judge, baseline)
    sides = [(name, answers.turns) for name, answers in models.items()]
    sides += [(baseline.model, baseline.turns)] if protocol.COMPARES and baseline else []
    for name, turns in sides:
        missing = [item["id"] for item in questions if item["id"] not in turns]
        if missing:
            raise ValueError(f"every question must have an answer by {name}, got none for {missing[0]!r}; generate them first")
    for model, answers in models.items():
        for item in questions:
            own = answers.turns[item["id"]]
            if protocol.COMPARES:
                assert baseline is not None
                shown = _shown(protocol, answers, own[0]), _shown(protocol, baseline, baseline.turns[item["id"]][0])
                yield from _comparisons(protocol, judge, item, model, *shown, orders)
            else:
                yield from ratings(protocol, judge, item, model, own)


def _shown(protocol: JudgeProtocol, answers: Answers, text: str) -> str:
    """What the judge is shown of an answer. A thought is taken off once: what is said after it may show the markers."""
    if protocol.HIDES_THOUGHTS and not answers.is_said:
        # A thought without an end has no answer after it.
        text = spoken(text) or ""
    return cut_words(text, protocol.MAX_WORDS)


def _comparisons(
    protocol: JudgeProtocol, judge: Judge, item: Item, model: str, candidate: str, baseline: str, orders: Orders
) -> Iterator[Pending]:
    facts = protocol.facts(candidate, baseline)
    # In one order: half of the questions have the other, told by their ids and not by chance, so that a resumed run compares the same.
    numbers = (1, 2) if orders == "both" else (1 + sum(str(item["id"]).encode()) % 2,)
    for number in numbers:
        first, second = (baseline, candidate) if number == 1 else (candidate, baseline)
        requests: tuple[list[Message], ...]
        if facts.verdict is not None:
            requests = ()
        elif judge.mode == "reward":
            # The same two requests in both orders, and in the order of A and B.
            requests = tuple([*item["conversation"], message("assistant", text)] for text in (first, second))
        else:
            parts = [*protocol.texts(item, 1), ("Answer of A", first), ("Answer of B", second)]
            requests = (_conversation(protocol, judge, parts),)
        yield Pending(model, item["id"], number, requests, facts)


def ratings(protocol: JudgeProtocol, judge: Judge, item: Item, model: str, own: Sequence[str]) -> Iterator[Pending]:
    """The judgments of a model's answers to a question's turns.

    Raises:
        ValueError: where a turn has no answer.
    """
    turns: Sequence[str | None] = item.get("turns", [None])
    if len(own) != len(turns):
        raise ValueError(
            f"every question must have an answer to each of its {len(turns)} turns, got {len(own)} by {model} for {item['id']!r}; "
            "generate them again"
        )
    for number, answer in enumerate(own, start=1):
        answer = cut_words(answer, protocol.MAX_WORDS)
        facts = protocol.facts(answer, None)
        parts = list(protocol.texts(item, number))
        if turns[0] is not None:
            for earlier, (question, reply) in enumerate(zip(turns[:number], own[:number], strict=True), start=1):
                parts.append((f"Turn {earlier}: the user", str(question)))
                if earlier < number:
                    parts.append((f"Turn {earlier}: the assistant", reply))
        parts.append(("The answer to rate", answer))
        requests = () if facts.verdict is not None else (_conversation(protocol, judge, parts),)
        yield Pending(model, item["id"], number, requests, facts, item.get("category"))


def message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _conversation(protocol: JudgeProtocol, judge: Judge, parts: Sequence[tuple[str, str]]) -> list[Message]:
    user = "\n\n".join(f"# {heading}\n{text}" for heading, text in parts)
    return [message("system", instructions(protocol, judge.mode)), message("user", user)]
