"""What judging gives: a line of games.jsonl for each judgment, and the models' results from all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evaluation.judging.aggregates.judgment import NOT_ASKED, Judgment, null_reasons
from evaluation.judging.answers import Answers
from evaluation.judging.protocols import JudgeProtocol
from evaluation.records import Record
from evaluation.types import Generation, Item

# Below this share of the probability, the letters were not what the judge was about to say.
MIN_CHOICE_MASS = 0.5


@dataclass(frozen=True)
class JudgmentRecord:
    """A judgment with the replies that it was read from.

    Attributes:
        compares: Whether two answers were compared, or one was rated.
    """

    judgment: Judgment
    keys: Sequence[str]
    judge: str
    protocol: str
    compares: bool
    baseline: str | None
    replies: Sequence[Generation]

    def to_json(self) -> Record:
        """A line of games.jsonl. Its `finish_reason` is "failed" where the judge gave no reply at all."""
        one = self.judgment
        costs = [reply.cost_usd for reply in self.replies if reply.cost_usd is not None]
        return {
            "key": " ".join(self.keys),
            "question_id": one.question_id,
            "game": one.number,
            "judge": self.judge,
            "form": self.protocol,
            "candidate": one.candidate,
            "baseline": self.baseline,
            **one.facts.to_json(),
            **({} if self.compares else {"category": one.category}),
            "verdict": one.verdict,
            "null_reason": one.null_reason,
            "letter_mass": one.choice_mass,
            "reply": "\n".join(reply.completion for reply in self.replies),
            "attempts": len(self.replies),
            "finish_reason": self.replies[-1].finish_reason if self.replies else "failed" if one.asked else NOT_ASKED,
            "num_prompt_tokens": sum(reply.num_prompt_tokens for reply in self.replies),
            "num_completion_tokens": sum(reply.num_completion_tokens for reply in self.replies),
            "cost_usd": sum(costs) if costs else None,
        }


def answer_counts(answers: Answers, questions: Iterable[Item]) -> Record:
    """How many answers a model gave, how many of them were cut (None: nobody knows), and how many are empty. A completion that ends in
    mid-thought is an empty answer.
    """
    texts = [text for item in questions for text in answers.turns[item["id"]]]
    return {"n": len(texts), "n_cut": answers.num_cut, "n_empty": sum(not text.strip() for text in texts)}


def summarize_judgments(
    protocol: JudgeProtocol,
    judgments: Sequence[Judgment],
    models: Sequence[str],
    questions: Sequence[Item],
    orders: str,
    demonstration: bool,
) -> Record:
    """The models' part of summary.json: each model's result under `models`, beside it what the protocol says of all together."""
    by_model = {model: [one for one in judgments if one.candidate == model] for model in models}
    results: dict[str, Record] = {}
    for model, found in by_model.items():
        result = protocol.aggregate(
            found, num_expected=len(questions), orders=orders, demonstration=demonstration, questions=questions
        )
        # A protocol that lets other judgments count than the judge's says so itself.
        result.setdefault("null_reasons", null_reasons(found))
        masses = [one.choice_mass for one in found if one.choice_mass is not None]
        mean = sum(masses) / len(masses) if masses else None
        result["letter_mass"] = mean
        if mean is not None and mean < MIN_CHOICE_MASS:
            reason = f"the letters have {mean:.0%} of the probability (at least {MIN_CHOICE_MASS:.0%})"
            result["trusted"] = False
            result["untrusted_reason"] = "; ".join(filter(None, [result["untrusted_reason"], reason]))
        results[model] = result
    return {"models": results, **protocol.across(results, by_model)}
