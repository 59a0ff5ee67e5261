"""The values that pass between benchmarks, engines and scoring; standard library only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

# One question of a benchmark. JSON-able; always has a unique "id": str, and the gold fields its benchmark needs.
Item = dict[str, Any]

# A chat message: {"role": "user", "content": "…"}, and what else a chat template may read of it, such as "tool_calls".
Message = dict[str, Any]

# progress(done, total, note)
Progress = Callable[[int, int, str], None]

Outcome = Literal["correct", "wrong", "no_answer", "error"]


@dataclass(frozen=True)
class Generation:
    """One completion of one prompt. `finish_reason` is "stop" where the turn ended by itself and "length" where it was cut.

    `top_logprobs` are those of the first token, by its text, where they were asked for; `cost_usd` what a paid endpoint takes.
    `is_thought_cut` says, where thoughts have a limit, whether this one met it: then the end of the thought was put into the completion.
    """

    completion: str
    token_ids: list[int]
    finish_reason: str
    num_prompt_tokens: int
    num_completion_tokens: int
    top_logprobs: dict[str, float] | None = None
    cost_usd: float | None = None
    is_thought_cut: bool | None = None

    def to_json(self) -> dict[str, str | int]:
        """What files keep of it."""
        cut = {} if self.is_thought_cut is None else {"is_thought_cut": self.is_thought_cut}
        return {
            "completion": self.completion,
            "finish_reason": self.finish_reason,
            "num_prompt_tokens": self.num_prompt_tokens,
            "num_completion_tokens": self.num_completion_tokens,
            **cut,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Generation:
        """The generation of a file's record; its token ids are not kept."""
        counts = (record["num_prompt_tokens"], record["num_completion_tokens"])
        return cls(record["completion"], [], record["finish_reason"], *counts, is_thought_cut=record.get("is_thought_cut"))


@dataclass(frozen=True)
class Sampling:
    """How to decode: greedy by default.

    `choices` restricts the whole completion to one of the given texts, `schema` (JSON schema) to an object of that form, and
    `top_logprobs` asks for so many log-probabilities of the first token. `seeds` has one for each prompt of a call: a completion then
    depends on no other prompt of it. An engine's file says which of these it can do (`SUPPORTS`).

    After one of the texts in `stop` an engine may end, and need not: the caller cuts the completion there.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    n: int = 1
    choices: list[str] | None = None
    seed: int | None = None
    schema: dict[str, object] | None = None
    top_logprobs: int | None = None
    stop: list[str] | None = None
    seeds: Sequence[int] | None = None


@dataclass(frozen=True)
class Verdict:
    """A scorer's decision on one completion.

    `answer` is what was compared (None where nothing was found), and `rule` names the rule that found it. `metrics` holds further
    metrics by name, which never enter the accuracy. A metric that is a share of several things has their number in `weights`: over
    all items it is the share of all things, not the mean of the items' shares.
    """

    outcome: Outcome
    answer: str | None
    rule: str
    metrics: dict[str, bool | float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Hub:
    """A data set on the hub: its id, the configurations that are read one after another, and the split.

    `config_field` is the field that takes the name of a row's configuration, for a data set whose rows don't name it.
    """

    id: str
    configs: Sequence[str | None]
    split: str = "test"
    config_field: str | None = None


_AT_HUB = "hub@"


def hub_source(commit: str) -> str:
    """The `source` of a benchmark's items that says: its data set on the hub, at this commit."""
    return f"{_AT_HUB}{commit}"


def hub_commit(source: str | None) -> str | None:
    """The commit that such a source says; None of any other."""
    return source.removeprefix(_AT_HUB) if source is not None and source.startswith(_AT_HUB) else None


class Items(list[Item]):
    """A benchmark's items. `left_out` counts the rows, of those that were read, that are no items, by reason."""

    def __init__(self) -> None:
        super().__init__()
        self.left_out: Counter[str] = Counter()
