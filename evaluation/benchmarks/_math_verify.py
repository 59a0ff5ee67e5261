"""math-verify's symbolic comparison, the second metric of all benchmarks on MATH."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.answers.math_verify import Verifier
from evaluation.progress import MATH_VERIFY
from evaluation.types import Item, Progress


def math_verify_metrics(
    items: Sequence[Item], answers: Sequence[str | None], progress: Progress | None = None
) -> list[dict[str, bool | float]]:
    """For each item `math_verify`: whether its gold answer and the answer are symbolically equal, found in a process that can be killed.

    Where the comparison takes too long, they count as unequal, and `math_verify_killed` stands beside it.
    """
    found: list[dict[str, bool | float]] = []
    with Verifier() as verifier:
        for number, (item, answer) in enumerate(zip(items, answers, strict=True)):
            equal = False if answer is None else verifier.equal(item["answer"], answer)
            found.append({"math_verify": bool(equal), **({"math_verify_killed": True} if equal is None else {})})
            if progress is not None and number % 64 == 0:
                progress(number, len(items), MATH_VERIFY)
    return found
