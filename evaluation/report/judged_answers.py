"""Answers that a judge judged, each with the verdicts and the judge's own words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evaluation.item_files import GENERATE_AGAIN, completion_lines, games, item_lines
from evaluation.judging.aggregates.judgment import NOT_ASKED
from evaluation.judging.answers import completions_by_question
from evaluation.records import Record
from evaluation.report.examples import Choice
from evaluation.report.excerpts import LIMITS, Excerpt, as_field, as_text, gist

# Of all judged answers of a report: how many there may be, and what their texts may take.
_PAGE_ANSWERS, _PAGE_CHARACTERS = 1_000, 1_500_000
_CHOICES = {
    "lost": "lost",
    "tie": "tie, or each order another",
    "gained": "won",
    "none": "without a verdict",
    "low": "rated below 5",
    "middle": "rated 5 to 7",
    "high": "rated above 7",
}

_WORDS = {"gained": "won", "lost": "lost", "tie": "tie", "none": "no verdict"}


@dataclass(frozen=True)
class Game:
    """One verdict, of a comparison in one order or of one turn, in a word or two; what was said, and where.

    `outcome` says how the candidate fared: `gained`, `lost` or `tie`; `none` where there is no verdict, and for ratings.
    """

    verdict: str
    said: str
    outcome: str
    words: Excerpt | None


@dataclass(frozen=True)
class JudgedAnswer:
    """A question, the answers to it, and what the judge said."""

    id: str
    candidate: str
    gist: str
    question: Excerpt
    answers: Sequence[tuple[str, Excerpt]]
    games: Sequence[Game]
    choice: str

    def shortened(self, most_characters: int) -> JudgedAnswer:
        """The same with texts of at most so many characters."""
        answers = [(name, text.shortened(most_characters)) for name, text in self.answers]
        games = [replace(one, words=one.words and one.words.shortened(most_characters)) for one in self.games]
        return replace(self, answers=answers, games=games)

    @property
    def num_characters(self) -> int:
        """Those of the answers and of the judge's words."""
        words = sum(one.words.num_characters for one in self.games if one.words)
        return words + sum(text.num_characters for _, text in self.answers)


@dataclass(frozen=True)
class JudgedAnswers:
    """Those of a judge, the lost ones first. `num_left_out` are those that the page has no room for."""

    shown: Sequence[JudgedAnswer]
    choices: Sequence[Choice]
    num_left_out: int


def judged_answers(
    judges: Mapping[str, Path], entries: Mapping[str, Record], generations: Mapping[str, Mapping[str, Path]]
) -> dict[str, JudgedAnswers]:
    """The judged answers by benchmark (`benchmark/variant` of another protocol or judge)."""
    found = {
        name: sorted(_read(folder, entries[name], generations.get(name.partition("/")[0], {})), key=_order)
        for name, folder in judges.items()
    }
    share = min(1.0, _PAGE_ANSWERS / max(sum(map(len, found.values())), 1))
    kept = {name: own[: round(share * len(own))] for name, own in found.items()}
    everything = [one for own in kept.values() for one in own]
    fitting = (limit for limit in LIMITS if sum(one.shortened(limit).num_characters for one in everything) <= _PAGE_CHARACTERS)
    limit = next(fitting, LIMITS[-1])
    return {
        name: JudgedAnswers(
            [one.shortened(limit) for one in own], list(_counted(found[name], own)), len(found[name]) - len(own)
        )
        for name, own in kept.items()
    }


def _order(one: JudgedAnswer) -> int:
    return list(_CHOICES).index(one.choice)


def _counted(everything: Sequence[JudgedAnswer], shown: Sequence[JudgedAnswer]) -> Iterator[Choice]:
    for key, title in _CHOICES.items():
        numbers = [sum(one.choice == key for one in part) for part in (everything, shown)]
        if numbers[0]:
            yield Choice(key, title, *numbers)


def _read(folder: Path, entry: Record, generations: Mapping[str, Path]) -> Iterator[JudgedAnswer]:
    compared = entry["orders"] is not None
    compared_in: dict[tuple[str, str], list[Record]] = {}
    for record in games(folder / "games.jsonl"):
        compared_in.setdefault((record["question_id"], record["candidate"]), []).append(record)
    # The answers are there where this run made them; a baseline from a file is in that file.
    turns = {model: completions_by_question(_completions(place)) for model, place in generations.items()}
    items = {
        record["id"]: record
        for place in list(generations.values())[:1]
        for _, record in item_lines(place / "items.jsonl", GENERATE_AGAIN)
    }
    for (question, candidate), own in compared_in.items():
        sides = [entry["baseline"], candidate] if compared else [candidate]
        answers = [
            (f"{model}, turn {number}" if len(texts) > 1 else model, as_text(text))
            for model in sides
            for texts in (turns.get(model, {}).get(question, []),)
            for number, text in enumerate(texts, start=1)
        ]
        asked = _question(items.get(question, {}))
        shown = [_game(record, candidate, entry["baseline"]) if compared else _rated(record) for record in own]
        choice = _compared_choice(shown) if compared else _rated_choice(own)
        yield JudgedAnswer(question, candidate, gist(asked), as_field(asked), answers, shown, choice)


def _completions(generation: Path) -> Iterator[Record]:
    return (record for _, record in completion_lines(generation / "completions.jsonl", GENERATE_AGAIN))


def _question(item: Record) -> str:
    """The item's question; of several turns all of them."""
    turns = item.get("turns")
    if isinstance(turns, list):
        return "\n\n".join(map(str, turns))
    return str(item.get("prompt") or (item.get("conversation") or [{}])[-1].get("content", ""))


def _game(record: Record, candidate: str, baseline: str | None) -> Game:
    baseline_first = record["game"] == 1
    verdict, outcome = record["verdict"], "none"
    if isinstance(verdict, str):
        first_won = verdict.startswith("A") and verdict != "A=B"
        outcome = "tie" if verdict == "A=B" else "lost" if first_won == baseline_first else "gained"
    said = f"{verdict or _no_verdict(record)}, where A is {baseline if baseline_first else candidate}"
    return Game(_WORDS[outcome], said, outcome, _words(record))


def _rated(record: Record) -> Game:
    verdict = record["verdict"]
    return Game(
        _no_verdict(record) if verdict is None else f"{verdict:g} of 10", f"turn {record['game']}", "none", _words(record)
    )


def _no_verdict(record: Record) -> str:
    reason = record.get("null_reason")
    return f"no verdict: {reason}" if reason else "no verdict"


def _words(record: Record) -> Excerpt | None:
    if record.get("finish_reason") == NOT_ASKED:
        return Excerpt("(decided without the judge: an answer is empty or cut)", 0)
    return as_text(record["reply"]) if record.get("reply") else None


def _compared_choice(games: Sequence[Game]) -> str:
    outcomes = [game.outcome for game in games if game.outcome != "none"]
    if not outcomes:
        return "none"
    won = outcomes.count("gained") - outcomes.count("lost")
    return "gained" if won > 0 else "lost" if won < 0 else "tie"


def _rated_choice(games: Sequence[Record]) -> str:
    ratings = [float(game["verdict"]) for game in games if game["verdict"] is not None]
    if not ratings:
        return "none"
    mean = sum(ratings) / len(ratings)
    return "low" if mean < 5 else "high" if mean > 7 else "middle"
