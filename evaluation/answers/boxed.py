r"""The final answer in a solution of MATH: what its last `\boxed{…}` holds."""

from __future__ import annotations


def last_boxed(text: str) -> str | None:
    r"""What the last `\boxed{…}` holds, or what follows a last `\boxed 5` up to the `$`; None where there is none, or it never ends."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    content = text[start:].removeprefix("\\boxed").removeprefix("\\fbox").lstrip()
    if not content.startswith("{"):
        return content.partition("$")[0]
    depth = 0
    for position, character in enumerate(content):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return content[1:position]
    return None
