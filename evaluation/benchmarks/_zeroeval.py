"""The form of ZeroEval's zero-shot prompts: a question, its choices, and a JSON template for reasoning and answer.

https://github.com/WildEval/ZeroEval. The form is upstream's, the wording the project's own: it says so wherever scores are compared.
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluation._types import Message

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_TEMPLATE = """```json
{
    "reasoning": "___",
    "answer": "___"
}
```"""


def question_messages(question: str, *, answer_hint: str) -> list[Message]:
    """One user turn that asks an open question; `answer_hint` says what belongs into the answer field."""
    return _turn(f"## Question:\n\n{question}\n\n", answer_hint)


def choice_messages(question: str, choices: Sequence[str]) -> list[Message]:
    """One user turn that asks for the letter of a choice."""
    listed = "\n".join(f"- ({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    hint = 'only the letter of the choice that you take, for instance `"answer": "B"`'
    return _turn(f"## Question:\n\n{question}\n\n## Choices:\n\n{listed}\n\n", hint)


def _turn(start: str, answer_hint: str) -> list[Message]:
    instruction = (
        "## Instruction\n\n"
        "Think the question through first, and only then give your answer.\n"
        "Reply with a JSON object of the form below and write your thoughts into the `reasoning` field.\n"
        f"The `answer` field holds {answer_hint}.\n\n"
    )
    return [{"role": "user", "content": start + instruction + _TEMPLATE}]
