"""Judges answers: plays a form's games with a judge, keeps every reply, and aggregates.

The games of all models are played together, so that a budget, a lock and an engine serve them all. What a judge answered is in the
record of calls (`calls.py`); games.jsonl is the same by game, in the questions' order, made anew every time.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evaluation.judging.aggregates.asked import NOT_ASKED
from evaluation.judging.answers import Answers
from evaluation.judging.calls import Calls, call_key
from evaluation.judging.client import Judge, Reading, RewardJudge, instructions, read
from evaluation.judging.drained import drained
from evaluation.judging.protocols import form as load_form
from evaluation.judging.replies import cut_words
from evaluation.judging.results import summarize_games
from evaluation.progress import spent_so_far
from evaluation.records import Record, write_whole
from evaluation.types import Generation, Item, Message, Progress

GAMES_FILE = "games.jsonl"
SUMMARY_FILE = "summary.json"

Orders = Literal["one", "both"]
# What has to be asked, by its key, and the games that it is for.
_Waiting = dict[str, tuple[list[Message], list["_Game"]]]


@dataclass(frozen=True)
class Baseline:
    """Whose answers the others are compared with."""

    name: str
    turns: Mapping[str, list[str]]


@dataclass(frozen=True)
class _Game:
    """One game: what is asked (a reward model is asked once for each answer), and what its record holds besides the verdict.

    `number` is 1 where the baseline is A and 2 where it is B; of a form that rates turns it is the turn.
    """

    model: str
    question_id: str
    number: int
    requests: tuple[list[Message], ...]
    facts: Record


def judge(
    judge: Judge,
    form_name: str,
    *,
    judge_name: str,
    questions: Sequence[Item],
    models: Mapping[str, Answers],
    baseline: Baseline | None,
    output_dir: Path,
    calls_file: Path | None = None,
    progress: Progress,
    orders: Orders = "both",
    demonstration: bool = False,
    fresh: bool = False,
    about: Record | None = None,
) -> Record:
    """Judges the models' answers; writes games.jsonl and summary.json into `output_dir` and returns the latter.

    A game whose judge gave no verdict is null; nulls of an earlier run are asked again, verdicts never.

    Args:
        baseline: For the forms that compare.
        calls_file: The record of calls; without it one in `output_dir`.
        orders: `one` plays one game a question, in an order that the question's id fixes.
        demonstration: Marks the result as meaningless.
        fresh: Asks everything again, whatever is in the record.
        about: What else the summary says.

    Raises:
        ValueError: where a question lacks an answer, or the form a baseline.
        SpendingCapReached: where the next request could exceed the cap; what was answered is kept.
    """
    form = load_form(form_name)
    output_dir.mkdir(parents=True, exist_ok=True)
    games = list(_games(form, judge, questions, models, baseline, orders))
    place = {"judge": judge_name, "form": form_name}
    with contextlib.closing(Calls(calls_file or output_dir / "calls.jsonl", fresh=fresh)) as calls:
        table = _Table(judge, form, calls, place)
        table.play(games, progress)
        records = [_record(game, table, place, baseline) for game in games]
        cost = table.cost(games)
    summary = {
        **place,
        **(about or {}),
        "verdict_mode": judge.mode,
        "baseline": baseline.name if baseline else None,
        "orders": orders if form.COMPARES else None,
        "demonstration": demonstration,
        **summarize_games(form, records, list(models), questions, orders, demonstration),
        "cost": cost,
    }
    write_whole(output_dir / GAMES_FILE, records)
    write_whole(output_dir / SUMMARY_FILE, [summary])
    return summary


def rate(
    judge: Judge,
    form_name: str,
    answers: Sequence[tuple[Item, str]],
    *,
    calls_file: Path,
    progress: Progress,
    fresh: bool = False,
) -> list[Record]:
    """A record per (question, answer), in their order, rated in a form that doesn't compare; `verdict` is None without a rating.

    Raises:
        ValueError, SpendingCapReached: as `judge`.
    """
    form = load_form(form_name)
    _require(form, judge, None)
    games = [game for number, (item, text) in enumerate(answers) for game in _ratings(form, judge, item, str(number), [text])]
    place = {"judge": str(dict(judge.identity)), "form": form_name}
    with contextlib.closing(Calls(calls_file, fresh=fresh)) as calls:
        table = _Table(judge, form, calls, place)
        table.play(games, progress)
        return [_record(game, table, place, None) for game in games]


def reward(
    judge: RewardJudge,
    answers: Sequence[tuple[Item, str]],
    *,
    calls_file: Path,
    progress: Progress,
    fresh: bool = False,
) -> list[float | None]:
    """The reward model's reward of every (question, answer); None where it can't read one to its end."""
    conversations = [[*item["conversation"], _message("assistant", text)] for item, text in answers]
    keys = [call_key(judge.identity, messages, judge.parameters()) for messages in conversations]
    with contextlib.closing(Calls(calls_file, fresh=fresh)) as calls:
        absent = {key: messages for key, messages in zip(keys, conversations, strict=True) if calls.get(key) is None}
        names = list(absent)
        for done, (index, reply) in enumerate(judge.ask(list(absent.values())), start=1):
            calls.add(names[index], reply, {"judge": str(dict(judge.identity)), "form": "reward"})
            progress(len(keys) - len(names) + done, len(keys), "")
        found = [calls.get(key) for key in keys]
    return [_reward(reply) if reply else None for reply in found]


def _require(form: Any, judge: Judge, baseline: Baseline | None) -> None:
    if form.COMPARES and baseline is None:
        raise ValueError(f"baseline must be given for {form.__name__}, which compares two answers, got none; name one")
    if judge.mode == "reward" and not form.COMPARES:
        raise ValueError(
            f"judge.engine must be a language model for {form.__name__}, which rates on a scale of 1 to 10, got a reward model, "
            "whose rewards have no scale; use it with a form that compares"
        )


def _games(
    form: Any, judge: Judge, questions: Sequence[Item], models: Mapping[str, Answers], baseline: Baseline | None, orders: Orders
) -> Iterator[_Game]:
    _require(form, judge, baseline)
    sides = [(name, answers.turns) for name, answers in models.items()]
    sides += [(baseline.name, baseline.turns)] if form.COMPARES and baseline else []
    for name, turns in sides:
        missing = [item["id"] for item in questions if item["id"] not in turns]
        if missing:
            raise ValueError(f"every question must have an answer by {name}, got none for {missing[0]!r}; generate them first")
    for model, answers in models.items():
        for item in questions:
            own = answers.turns[item["id"]]
            if form.COMPARES:
                assert baseline is not None
                yield from _comparisons(form, judge, item, model, own[0], baseline.turns[item["id"]][0], orders)
            else:
                yield from _ratings(form, judge, item, model, own)


def _comparisons(
    form: Any, judge: Judge, item: Item, model: str, candidate: str, baseline: str, orders: Orders
) -> Iterator[_Game]:
    max_words = getattr(form, "MAX_WORDS", None)
    candidate, baseline = cut_words(candidate, max_words), cut_words(baseline, max_words)
    facts = form.facts(candidate, baseline)
    # Half of the questions, told by their ids and not by chance, so that a resumed run plays the same games.
    numbers = (1, 2) if orders == "both" else (1 + sum(str(item["id"]).encode()) % 2,)
    for number in numbers:
        first, second = (baseline, candidate) if number == 1 else (candidate, baseline)
        requests: tuple[list[Message], ...]
        if "verdict" in facts:
            requests = ()
        elif judge.mode == "reward":
            # The same two requests in both orders, and in the order of A and B.
            requests = tuple([*item["conversation"], _message("assistant", text)] for text in (first, second))
        else:
            parts = [*form.texts(item, 1), ("Answer of A", first), ("Answer of B", second)]
            requests = (_conversation(form, judge, parts),)
        yield _Game(model, item["id"], number, requests, facts)


def _ratings(form: Any, judge: Judge, item: Item, model: str, own: Sequence[str]) -> Iterator[_Game]:
    turns: Sequence[str | None] = item.get("turns", [None])
    if len(own) != len(turns):
        raise ValueError(
            f"every question must have an answer to each of its {len(turns)} turns, got {len(own)} by {model} for {item['id']!r}; "
            "generate them again"
        )
    for number, answer in enumerate(own, start=1):
        answer = cut_words(answer, getattr(form, "MAX_WORDS", None))
        facts = form.facts(answer, None) | {"category": item.get("category")}
        parts = list(form.texts(item, number))
        if turns[0] is not None:
            for earlier, (question, reply) in enumerate(zip(turns[:number], own[:number], strict=True), start=1):
                parts.append((f"Turn {earlier}: the user", str(question)))
                if earlier < number:
                    parts.append((f"Turn {earlier}: the assistant", reply))
        parts.append(("The answer to rate", answer))
        requests = () if "verdict" in facts else (_conversation(form, judge, parts),)
        yield _Game(model, item["id"], number, requests, facts)


def _conversation(form: Any, judge: Judge, parts: Sequence[tuple[str, str]]) -> list[Message]:
    user = "\n\n".join(f"# {heading}\n{text}" for heading, text in parts)
    return [_message("system", instructions(form, judge.mode)), _message("user", user)]


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


class _Table:
    """Plays games: asks what isn't answered yet, each request once however many games share it."""

    def __init__(self, judge: Judge, form: Any, calls: Calls, about: Record) -> None:
        self._judge, self._form, self._calls, self._about = judge, form, calls, about
        self._parameters = judge.parameters(form)
        self._new: list[Record] = []
        # Requests of this run: a null that was asked in it is a result, one of an earlier run is asked again.
        self._asked: set[str] = set()

    def play(self, games: Sequence[_Game], progress: Progress) -> None:
        total = len(games)
        waiting = self._waiting(games)
        settled = total - sum(len(places) for _, places in waiting.values())
        note = ""
        estimate = self._judge.estimate([messages for messages, _ in waiting.values()], self._form)
        if estimate is not None and waiting:
            note = str(estimate)
            print(f"judging {total} games, {settled} already judged: {note}", flush=True)
        progress(settled, total, note)

        def told(games: list[_Game]) -> None:
            nonlocal settled
            settled += len(games) if attempt == 1 else 0
            progress(min(settled, total), total, self._spent() or note)

        for attempt in (1, 2):
            self._ask(waiting, attempt, told)
            waiting = self._unfinished(games) if attempt == 1 else {}
        if estimate is not None:
            print(f"asked {len(self._new)} requests: {self._spent() or 'no price'}", flush=True)
        progress(total, total, self._spent())

    def reading(self, game: _Game) -> Reading:
        """The game's verdict."""
        replies = self.replies(game)
        if not game.requests:
            return Reading(game.facts["verdict"])
        if len(replies) < len(game.requests):
            return Reading(None)
        if self._judge.mode == "reward":
            first, second = (_reward(reply) for reply in replies)
            if first is None or second is None:
                return Reading(None)
            return Reading("A=B" if first == second else "A>B" if first > second else "B>A")
        joined = {**replies[-1], "reply": "\n".join(reply["reply"] for reply in replies)}
        return read(self._form, self._judge.mode, joined)

    def replies(self, game: _Game) -> list[Record]:
        """The answers to what the game asks; of free text also the one to the request to go on."""
        found = [call for messages in game.requests if (call := self._calls.get(self._key(messages)))]
        if found and (more := self._more(game.requests[0], found[0])) is not None:
            found += [call for call in [self._calls.get(self._key(more))] if call]
        return found

    def key(self, game: _Game) -> list[str]:
        return [self._key(messages) for messages in game.requests]

    def cost(self, games: Sequence[_Game]) -> Record:
        """What the games' verdicts took, whichever run asked for them: requests, tokens, and money where there is a price."""
        return _totals({call["key"]: call for game in games for call in self.replies(game)}.values())

    def _waiting(self, games: Sequence[_Game]) -> _Waiting:
        """What has to be asked first: requests without an answer, and those of games that ended in a null."""
        waiting: _Waiting = {}
        for game in games:
            if not game.requests or self.reading(game).verdict is not None:
                continue
            keys = self.key(game)
            absent = [index for index, key in enumerate(keys) if self._calls.get(key) is None]
            first = self._calls.get(keys[0])
            more = self._more(game.requests[0], first) if first else None
            if not absent and more is not None and self._calls.get(self._key(more)) is None:
                continue  # killed between the two attempts: the second is asked, the first is paid for
            for index in absent or range(len(keys)):
                waiting.setdefault(keys[index], (game.requests[index], []))[1].append(game)
        return waiting

    def _unfinished(self, games: Sequence[_Game]) -> _Waiting:
        """The requests to go on."""
        waiting: _Waiting = {}
        for game in games:
            first = self._calls.get(self.key(game)[0]) if game.requests else None
            more = self._more(game.requests[0], first) if first else None
            if more is None or self._key(more) in self._asked:
                continue
            answered = self._calls.get(self._key(more))
            if answered is None or self.reading(game).verdict is None:
                waiting.setdefault(self._key(more), (more, []))[1].append(game)
        return waiting

    def _ask(self, waiting: _Waiting, attempt: int, told: Callable[[list[_Game]], None]) -> None:
        keys = list(waiting)
        self._asked |= set(keys)

        def keep(index: int, reply: Generation) -> list[_Game]:
            games = waiting[keys[index]][1]
            place = {"question_id": games[0].question_id, "game": games[0].number, "candidate": games[0].model}
            self._new.append(self._calls.add(keys[index], reply, {**self._about, **place, "attempt": attempt}))
            return games

        replies = self._judge.ask([waiting[key][0] for key in keys], self._form)
        try:
            for index, reply in replies:
                told(keep(index, reply))
        except BaseException as error:
            # Whatever ends it: the replies that were under way are paid for.
            for index, reply in drained(replies, error):
                keep(index, reply)

    def _more(self, messages: list[Message], first: Record) -> list[Message] | None:
        """The conversation that asks a judge to go on, where its free text has no verdict and ended by itself or at its limit."""
        wants = self._judge.mode == "text" and self._form.ASK_AGAIN is not None
        if not wants or first["finish_reason"] not in ("stop", "length") or not self._form.wants_more(first["reply"]):
            return None
        return [*messages, _message("assistant", first["reply"]), _message("user", self._form.ASK_AGAIN)]

    def _key(self, messages: list[Message]) -> str:
        return call_key(self._judge.identity, messages, self._parameters)

    def _spent(self) -> str:
        return spent_so_far(_totals(self._new)["usd"])


def _totals(calls: Collection[Record]) -> Record:
    costs = [call["cost_usd"] for call in calls if call["cost_usd"] is not None]
    return {
        "num_requests": len(calls),
        "num_prompt_tokens": sum(call["num_prompt_tokens"] for call in calls),
        "num_completion_tokens": sum(call["num_completion_tokens"] for call in calls),
        # Summed exactly, so that the order in which the answers came back is no part of the result.
        "usd": math.fsum(costs) if costs else None,
    }


def _reward(reply: Record) -> float | None:
    return float(reply["reply"]) if reply["finish_reason"] == "stop" else None


def _record(game: _Game, table: _Table, about: Record, baseline: Baseline | None) -> Record:
    replies = table.replies(game)
    reading = table.reading(game)
    costs = [reply["cost_usd"] for reply in replies if reply["cost_usd"] is not None]
    return {
        "key": " ".join(table.key(game)),
        "question_id": game.question_id,
        "game": game.number,
        **about,
        "candidate": game.model,
        "baseline": baseline.name if baseline else None,
        **game.facts,
        "verdict": reading.verdict,
        "letter_mass": reading.letter_mass,
        "reply": "\n".join(reply["reply"] for reply in replies),
        "attempts": len(replies),
        "finish_reason": replies[-1]["finish_reason"] if replies else (NOT_ASKED if not game.requests else "failed"),
        "num_prompt_tokens": sum(reply["num_prompt_tokens"] for reply in replies),
        "num_completion_tokens": sum(reply["num_completion_tokens"] for reply in replies),
        "cost_usd": sum(costs) if costs else None,
    }
