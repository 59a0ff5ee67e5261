"""What calls to paid endpoints cost: a price table, an estimate before the first call, and a cap for all of a run.

Costs are in US dollars, from the token counts that the server reports. Before a call is made, the most that it can cost is reserved, in
the ledger too; a call that doesn't fit below the cap is not made. A call of unknown outcome counts with what was reserved: after a
time-out, a cut connection, a reply without token counts, or a kill of its process.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.progress import estimated_cost
from evaluation.records import cut_half_line, read_appended, to_line
from evaluation.types import Message

# The file that all processes of a run add their calls to; without it a process counts its own.
LEDGER_VARIABLE = "BNF_SPENDING_FILE"
# English text has about four bytes a token, code and digits down to one.
BYTES_PER_TOKEN = 3
# What a server's chat template adds to each message, and to the whole: a system prompt of its own, the start of the answer.
MESSAGE_TOKENS = 8
TEMPLATE_TOKENS = 128


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float

    def cost(self, num_prompt_tokens: int, num_completion_tokens: int) -> float:
        return (self.input * num_prompt_tokens + self.output * num_completion_tokens) / 1e6


# The protocols' own judges; `spending.prices` of a recipe adds others and replaces these. Figures of
# https://github.com/BerriAI/litellm, model_prices_and_context_window.json.
PRICES = {
    "gpt-4-1106-preview": Price(10.0, 30.0),
    "gpt-4-turbo-2024-04-09": Price(10.0, 30.0),
    "gpt-4o-2024-05-13": Price(5.0, 15.0),
    "gpt-4": Price(30.0, 60.0),
    "gpt-4.1": Price(2.0, 8.0),
    "gemini-2.5-pro-preview-03-25": Price(1.25, 10.0),  # for prompts of at most 200,000 tokens
}


class SpendingCapReached(ValueError):
    """The next call could exceed the cap; everything that was paid for is kept."""


@dataclass(frozen=True)
class Estimate:
    """What calls that are not made yet will take; the cost is None where the model has no price."""

    num_requests: int
    num_prompt_tokens: int
    max_completion_tokens: int
    least_usd: float | None
    most_usd: float | None

    def __str__(self) -> str:
        return estimated_cost(
            self.num_requests, self.num_prompt_tokens, self.max_completion_tokens, self.least_usd, self.most_usd
        )


@dataclass(frozen=True)
class Reservation:
    """The money set aside for a call under way. One of `Meter.settle`, `release` and `lose` ends it."""

    id: str
    usd: float


class Meter:
    """Counts what a run's calls cost, over all models, and keeps the sum below a cap. Safe between threads.

    Args:
        prices: By model name; they replace those of `PRICES`.
        cap_usd: None for no cap.
        ledger: A JSON Lines file that the processes of a run share in turns: one makes calls at a time, and each may have several turns.
            A call has a line when it begins, and another with the same `id` when it ends; without the second it was under way when its
            process was killed. Before each call the meter reads what others have added.
    """

    def __init__(
        self, prices: Mapping[str, Price] | None = None, cap_usd: float | None = None, ledger: Path | None = None
    ) -> None:
        self.cap_usd = cap_usd
        self._prices = {**PRICES, **(prices or {})}
        self._ledger = ledger
        self._changed = threading.Condition()
        self._reserved_usd = 0.0
        self.spent_usd = 0.0
        self.unknown_usd = 0.0
        self._own: set[str] = set()
        # What the calls of others count for by now, of that what is unknown, and how far the ledger is read.
        self._others: dict[str, tuple[float, float]] = {}
        self._read_bytes = 0
        if ledger is not None:
            cut_half_line(ledger)
            self._read_others()

    @classmethod
    def of_run(cls, prices: Mapping[str, Mapping[str, float]] | None, cap_usd: float | None) -> Meter:
        """The meter of the run that this process belongs to; `prices` as they stand in a recipe."""
        path = os.environ.get(LEDGER_VARIABLE)
        table = {model: Price(price["input"], price["output"]) for model, price in (prices or {}).items()}
        return cls(table, cap_usd, Path(path) if path else None)

    def price(self, model: str) -> Price | None:
        """The model's price; None where it has none.

        Raises:
            ValueError: where it has none and there is a cap, which could not be kept then.
        """
        if model not in self._prices and self.cap_usd is not None:
            raise ValueError(
                f"spending.prices must have the price of {model!r} where spending.max_usd is set, got none; add "
                f"`spending: {{prices: {{{model}: {{input: …, output: …}}}}}}` in dollars per million tokens"
            )
        return self._prices.get(model)

    def estimate(
        self,
        model: str,
        conversations: Sequence[Sequence[Message]],
        max_new_tokens: int,
        schema: Mapping[str, object] | None = None,
    ) -> Estimate:
        """What these calls would cost. The number of tokens and the least cost are estimates, the most is a bound. Nothing is reserved."""
        prompt, most = sum(map(prompt_tokens, conversations)), max_new_tokens * len(conversations)
        price = self._prices.get(model)
        least = price.cost(prompt, 0) if price else None
        most_usd = price.cost(sum(most_prompt_tokens(one, schema) for one in conversations), most) if price else None
        return Estimate(len(conversations), prompt, most, least, most_usd)

    def reserve(self, model: str, most_prompt_tokens: int, max_new_tokens: int) -> Reservation:
        """Sets aside the most that a call can cost. Where it doesn't fit below the cap, waits for calls under way, which may cost less.

        Raises:
            SpendingCapReached: where it doesn't fit and no call is under way.
            ValueError: where the model has no price and there is a cap, or the ledger has a line that is not a JSON object.
        """
        price = self.price(model)
        most = price.cost(most_prompt_tokens, max_new_tokens) if price else 0.0
        with self._changed:
            self._read_others()
            while self.cap_usd is not None and self.spent_usd + self._reserved_usd + most > self.cap_usd:
                if self._reserved_usd <= 0:
                    raise SpendingCapReached(
                        f"spending.max_usd must leave room for the next call, got {self.cap_usd:g} with ${self.spent_usd:.4f} spent "
                        f"and up to ${most:.4f} for the call; raise it and run again: nothing that was paid for is asked again"
                    )
                self._changed.wait()
                self._read_others()
            reservation = Reservation(uuid.uuid4().hex, most)
            self._own.add(reservation.id)
            # Before the call is made: the ledger then knows what a killed process may have spent.
            self._write(reservation, "reserved", most, model=model)
            self._reserved_usd += most
        return reservation

    def settle(self, model: str, reserved: Reservation, num_prompt_tokens: int, num_completion_tokens: int) -> float | None:
        """Counts an answered call in the place of its reservation, and returns its cost (None without a price)."""
        price = self._prices.get(model)
        cost = price.cost(num_prompt_tokens, num_completion_tokens) if price else None
        tokens = {"num_prompt_tokens": num_prompt_tokens, "num_completion_tokens": num_completion_tokens}
        self._end(reserved, "answered", cost or 0.0, model=model, **tokens)
        return cost

    def release(self, reserved: Reservation) -> None:
        """Frees the reservation of a call that the server refused."""
        self._end(reserved, "refused", 0.0)

    def lose(self, model: str, reserved: Reservation) -> float | None:
        """Counts a call whose cost is unknown as if it had cost what was reserved, and returns that (None without a price)."""
        self._end(reserved, "unknown", reserved.usd, model=model)
        return reserved.usd if model in self._prices else None

    def _end(self, reserved: Reservation, outcome: str, cost: float, **about: object) -> None:
        with self._changed:
            self._reserved_usd -= reserved.usd
            if abs(self._reserved_usd) < 1e-12:  # floats that don't cancel must not look like a call under way
                self._reserved_usd = 0.0
            self.spent_usd += cost
            self.unknown_usd += cost if outcome == "unknown" else 0.0
            self._changed.notify_all()
            self._write(reserved, outcome, cost, **about)

    def _read_others(self) -> None:
        """Counts what other processes have added to the ledger since it was read last."""
        if self._ledger is None:
            return
        lines, self._read_bytes = read_appended(self._ledger, self._read_bytes)
        # The last line of a call counts. Ledgers written before calls had an id have one line for each.
        calls = {line.get("id") or uuid.uuid4().hex: line for line in lines}
        for name, line in calls.items():
            if name not in self._own:
                cost, (old, old_unknown) = line["cost_usd"], self._others.get(name, (0.0, 0.0))
                unknown = cost if line["outcome"] in ("reserved", "unknown") else 0.0
                self._others[name] = (cost, unknown)
                self.spent_usd += cost - old
                self.unknown_usd += unknown - old_unknown

    def _write(self, reserved: Reservation, outcome: str, cost: float, **about: object) -> None:
        if self._ledger is None:
            return
        self._ledger.parent.mkdir(parents=True, exist_ok=True)
        with self._ledger.open("a", encoding="utf-8") as file:
            file.write(to_line({"id": reserved.id, "time": time.time(), "outcome": outcome, **about, "cost_usd": cost}))


def prompt_tokens(messages: Sequence[Message]) -> int:
    """An estimate of a conversation's tokens from its bytes: the server's tokenizer is not at hand."""
    return sum(len(message["content"].encode("utf-8", "replace")) // BYTES_PER_TOKEN + MESSAGE_TOKENS for message in messages)


def most_prompt_tokens(messages: Sequence[Message], schema: Mapping[str, object] | None = None) -> int:
    """How many tokens a conversation has at most: no token is shorter than a byte. A server may show the model the schema too."""
    texts = [text for message in messages for text in message.values()]
    texts += [json.dumps(schema)] if schema is not None else []
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) + MESSAGE_TOKENS * len(messages) + TEMPLATE_TOKENS
