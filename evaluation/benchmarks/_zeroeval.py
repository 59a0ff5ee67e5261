"""The form of ZeroEval's zero-shot prompts: a question, its choices, and a JSON template for reasoning and answer.

https://github.com/WildEval/ZeroEval. The form is upstream's, the wording the project's own: it says so wherever scores are compared.
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.types import Message

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_TEMPLATE = """```json
{
    "reasoning": "___",
    "answer": "___"
}
```"""


def question_messages(question: str, *, answer: str) -> list[Message]:
    """One user turn that asks an open question; `answer` says what belongs into the answer field."""
    return _turn(f"## Question:\n\n{question}\n\n", answer)


def choice_messages(question: str, choices: Sequence[str]) -> list[Message]:
    """One user turn that asks for the letter of a choice."""
    listed = "\n".join(f"- ({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return _turn(f"## Question:\n\n{question}\n\n## Choices:\n\n{listed}\n\n", "the letter of the right choice alone")


def _turn(start: str, answer: str) -> list[Message]:
    # No example of an answer: a small model copies it.
    instruction = (
        "## Instruction\n\n"
        "Reply with a JSON object in the form below. First write how you solve the question into `reasoning`. "
        f"Then write {answer} into `answer`.\n\n"
    )
    return [{"role": "user", "content": start + instruction + _TEMPLATE}]
