"""The per-token view: completions of the training data, each token coloured by how far training moved its log-probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.formats import number, signed
from evaluation.records import read_json
from evaluation.report.excerpts import Excerpt, as_text
from evaluation.report.inputs import ReportInputs

_NUM_GROUPS = 4
# Nats, either way, from which on a token has the next colour.
EDGES = (0.1, 0.5, 1.0, 3.0)


@dataclass(frozen=True)
class ColoredToken:
    """A token's text, the class of its colour (`rise-1` … `fall-4`, or empty), and its numbers in words."""

    text: str
    color: str
    numbers: str


@dataclass(frozen=True)
class ColoredCompletion:
    """A completion, and the sum of the shown tokens' shifts in words; `label` is `preferred` or `dispreferred`."""

    label: str
    tokens: Sequence[ColoredToken]
    num_left_out: int
    total: str


@dataclass(frozen=True)
class ColoredGroup:
    """A prompt and the completions of it that are shown."""

    id: str
    prompt: Excerpt
    completions: Sequence[ColoredCompletion]


def shown_tokens(inputs: ReportInputs) -> list[ColoredGroup]:
    """A few groups of the data; none where the stages' values per token aren't on the machine that makes the report."""
    if not (inputs.train and inputs.data and inputs.reference and inputs.shifts):
        return []
    settings = inputs.train / "training.json"
    if not settings.is_file():
        return []
    from bnf.analysis.token_shifts import POLICY_LOGPS, token_shifts

    config = read_json(settings)["config"]
    found = token_shifts(
        inputs.train / "policy",
        inputs.data,
        inputs.reference,
        inputs.shifts / POLICY_LOGPS,
        # Trainings of older versions had no such limit.
        max_groups_per_row=config.get("max_groups_per_row"),
        num_groups=_NUM_GROUPS,
    )
    groups: dict[str, ColoredGroup] = {}
    for one in found:
        tokens = [
            ColoredToken(
                token.text, _color(token.policy_logp - token.reference_logp), _numbers(token.reference_logp, token.policy_logp)
            )
            for token in one.tokens
        ]
        moved = sum(token.policy_logp - token.reference_logp for token in one.tokens)
        where = f"in these {len(tokens)} tokens" if one.num_left_out else "in all"
        completion = ColoredCompletion(
            "preferred" if one.label == 1 else "dispreferred", tokens, one.num_left_out, f"{signed(moved, 2)} nats {where}"
        )
        before = groups.get(one.group)
        groups[one.group] = ColoredGroup(one.group, as_text(one.prompt), [*(before.completions if before else ()), completion])
    return list(groups.values())


def are_elsewhere(inputs: ReportInputs) -> bool:
    """Whether the view is missing because the values per token are on another machine."""
    if not (inputs.data and inputs.reference and inputs.shifts):
        return False
    from bnf.analysis.token_shifts import POLICY_LOGPS, values_elsewhere

    return values_elsewhere(inputs.data, inputs.reference, inputs.shifts / POLICY_LOGPS)


def _color(shift: float) -> str:
    size = sum(abs(shift) >= edge for edge in EDGES)
    return f"{'rise' if shift > 0 else 'fall'}-{size}" if size else ""


def _numbers(reference: float, policy: float) -> str:
    return f"{number(reference, 2)} → {number(policy, 2)} nats, shift {signed(policy - reference, 2)}"
