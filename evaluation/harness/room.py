"""How the requests of an lm-eval task fit into the model's context, and in words what did not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class Room:
    """Counts of a task's requests, those of several tasks of a group together.

    Attributes:
        max_length: The most tokens of prompt and completion together; None where the engine has no bound.
        num_requests: All of them.
        num_less_room: Prompts that leave room for a completion, and for fewer tokens than the task asks for.
        num_cut_off: Completions that ended where the context does, before the number of tokens that the task asks for.
        num_too_long: Prompts that leave no room for a token. Their completions are empty.
        num_contexts_cut: Contexts of log-likelihoods that lost their beginning.
    """

    max_length: int | None
    num_requests: int = 0
    num_less_room: int = 0
    num_cut_off: int = 0
    num_too_long: int = 0
    num_contexts_cut: int = 0

    def add_prompt(self, num_tokens: int, max_new_tokens: int) -> None:
        """Counts a prompt that asks for a completion."""
        self.num_requests += 1
        if self.max_length is None:
            return
        left = self.max_length - num_tokens
        self.num_too_long += left < 1
        self.num_less_room += 1 <= left < max_new_tokens


def what_did_not_fit(room: Mapping[str, int | None]) -> str | None:
    """A sentence about the counts of a `Room`; None where everything fits."""
    less, cut_off, too_long, contexts = (room[f"num_{name}"] for name in ("less_room", "cut_off", "too_long", "contexts_cut"))
    parts = []
    if less or cut_off:
        parts.append(
            f"{less} prompts leave less room for a completion than the task asks for, and {cut_off} completions were cut off there"
        )
    if too_long:
        parts.append(f"{too_long} prompts leave no room at all, and have an empty answer")
    if contexts:
        parts.append(f"{contexts} contexts of choices or texts lost their beginning")
    if not parts:
        return None
    return f"of {room['num_requests']} requests within a context of {room['max_length']} tokens {'; '.join(parts)}"
