"""A recipe's `system_prompt`: the system message of every conversation that has none of its own."""

from __future__ import annotations

from collections.abc import Sequence

from bnf.data.marked import Message

# What `developer` messages say stands in the place of a system message.
_SYSTEM_ROLES = ("system", "developer")


def with_system_prompt(messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
    """The messages with a system message before them, where there is a `system_prompt` and none of the messages is one already."""
    if system_prompt is None or any(message["role"] in _SYSTEM_ROLES for message in messages):
        return list(messages)
    return [{"role": "system", "content": system_prompt}, *messages]
