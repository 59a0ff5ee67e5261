"""CHES scores of the training data's pairs: their distribution, the highest ones with their texts, and after training what became of
the preferred completions (`bnf/reference/ches.py`, `bnf/analysis/pair_shifts.py`).
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bnf.reference.ches import CHES, CHES_FILE, MEAN_CHES, PairScore, read_scores
from evaluation.formats import NONE, signed
from evaluation.records import Record, read_records
from evaluation.report.excerpts import gist

# The form by which pairs are ranked comes first: sums grow with the square of the lengths.
FORMS = {MEAN_CHES: "per token", CHES: "summed"}
# Which shift of the preferred completion each form is compared with.
_SHIFTS = {MEAN_CHES: "mean_shift", CHES: "shift"}
# name → how it is shown, and which quantile it is
_QUANTILES = {"p05": ("5 %", 0.05), "median": ("median", 0.5), "p95": ("95 %", 0.95)}
_NUM_HIGHEST = 8
_GIST_CHARACTERS = 240
# Below this a rank correlation says next to nothing.
_WEAK = 0.1
# One in so many pairs: those with the highest scores.
_PART = 10
_PAIR_SHIFTS = "pair_shifts.jsonl"
# Whose scores they are, in words.
_START = "the model that training starts from"


def scored_by(recipe: Record, round_: int | None) -> str:
    """Whose scores the pass of a round computed, in words; `round_` is None where there is only one.

    A score says what training does to the model that it starts from. That is the base model in the first round. Later rounds start from
    the policy of the round before, and their pass has that one with `sample.reference: each_round`, and else the base model. A reference of
    the recipe's choice has no scores: then it is the base model's pass.
    """
    if round_ is None or round_ == 1:
        return _START
    start = f"the policy of round {round_ - 1}, from which round {round_} starts"
    return start if recipe["sample"]["reference"] == "each_round" else f"the base model, and not by {start}"


def summarize_ches(reference: Path | None, data: Path | None, shifts: Path | None, model: str = _START) -> Record | None:
    """The scores' quantiles by form, the pairs with the highest `mean_ches`, one of a prompt, and under `trained` how the scores agree with
    what training did. None where the reference pass scored no pair.

    Args:
        reference, data, shifts: the folders of the stages `reference`, `prepare` and `analyze`, as far as there are some.
        model: whose scores they are (`scored_by`).

    Raises:
        ValueError: where a stage's file is ill-formed.
    """
    if reference is None or not (reference / CHES_FILE).is_file():
        return None
    scores: dict[str, list[float]] = {form: [] for form in FORMS}
    highest: dict[str, PairScore] = {}
    num_pairs = num_groups = 0
    last = None
    for pair in read_scores(reference / CHES_FILE):
        num_pairs += 1
        num_groups += pair.group != last
        last = pair.group
        if pair.ches is None or pair.mean_ches is None:
            continue
        scores[CHES].append(pair.ches)
        scores[MEAN_CHES].append(pair.mean_ches)
        if pair.group not in highest or pair.mean_ches > _rank(highest[pair.group]):
            highest[pair.group] = pair
    return {
        "model": model,
        "num_pairs": num_pairs,
        "num_groups": num_groups,
        "num_not_finite": num_pairs - len(scores[CHES]),
        **{form: _quantiles(values) for form, values in scores.items()},
        "highest": _with_texts(heapq.nlargest(_NUM_HIGHEST, highest.values(), key=_rank), data),
        "trained": _trained(None if shifts is None else shifts / _PAIR_SHIFTS),
    }


def ches_rows(found: Record) -> list[dict[str, str]]:
    """A row of text per form of the score; the correlation with the shifts where there are some."""
    rows = []
    for form, title in FORMS.items():
        row = {"CHES": title, **{shown: _score(found[form] and found[form][name]) for name, (shown, _) in _QUANTILES.items()}}
        if found["trained"]:
            row["ρ with the shift"] = signed(found["trained"][form], 2)
        rows.append(row)
    return rows


def highest_rows(found: Record) -> list[dict[str, str]]:
    """A row of text for each of the pairs with the highest scores."""
    return [
        {
            "prompt": one["group"],
            "CHES per token": _score(one[MEAN_CHES]),
            **{name: one[name] or NONE for name in ("asks", "preferred", "dispreferred")},
        }
        for one in found["highest"]
    ]


def ches_notes(found: Record) -> list[str]:
    """What the scores mean, and how far they foretold what training did."""
    # Runs of older versions don't say whose they are.
    said = [
        f"CHES (arXiv 2410.08847) of {found['num_pairs']} pairs of {found['num_groups']} prompts, by "
        f"{found.get('model', 'the reference')}, before training: the "
        "higher a pair's score, the more its two completions look alike to the model, and the likelier training lowers the preferred one "
        "too. Scores compare pairs under one model with each other; no threshold is known."
    ]
    if found["num_not_finite"]:
        said.append(f"{found['num_not_finite']} pairs have no finite score and count nowhere else.")
    trained = found["trained"]
    if trained is None:
        return said
    said.append(_verdict(trained))
    return said


def _verdict(trained: Record) -> str:
    rho, what = trained[MEAN_CHES], f"over {trained['num_pairs']} pairs"
    if rho is None:
        return f"Score and shift have no rank correlation {what}: one of them is the same for all."
    if rho <= -_WEAK:
        meaning = "pairs with higher scores had their preferred completion fall further or rise less, as the paper says"
    elif rho < _WEAK:
        meaning = "here the score said next to nothing about which preferred completions fell"
    else:
        meaning = (
            "pairs with higher scores had their preferred completion rise further or fall less, against what the paper says"
        )
    return (
        f"Spearman's ρ between a pair's score per token and the shift of its preferred completion's log-probability per token is "
        f"{signed(rho, 2)} {what}: {meaning}. The preferred completions shifted by {signed(trained['mean_shift'], 3)} nats per token in "
        f"the mean ({100 * trained['share_down']:.0f} % fell), those of the tenth with the highest scores by "
        f"{signed(trained['mean_shift_of_highest'], 3)} ({100 * trained['share_down_of_highest']:.0f} % fell). This is one training, and "
        "pairs of a prompt share completions: so there is no interval. Of sums, length alone makes a part of the correlation."
    )


def _trained(path: Path | None) -> Record | None:
    """How the scores agree with what became of the preferred completions; None where that isn't known."""
    if path is None or not path.is_file():
        return None
    columns: dict[str, list[float]] = {name: [] for name in (*_SHIFTS, *_SHIFTS.values())}
    for record in read_records(path):
        values = [record[name] for name in columns]
        if None not in values and all(abs(value) != float("inf") and value == value for value in values):
            for name, value in zip(columns, values, strict=True):
                columns[name].append(value)
    moved = columns[_SHIFTS[MEAN_CHES]]
    if not moved:
        return None
    ranked = sorted(range(len(moved)), key=lambda place: -columns[MEAN_CHES][place])
    top = [moved[place] for place in ranked[: -(-len(moved) // _PART)]]
    return {
        "num_pairs": len(moved),
        **{form: _spearman(columns[form], columns[shift]) for form, shift in _SHIFTS.items()},
        "mean_shift": _mean(moved),
        "share_down": _mean([value < 0 for value in moved]),
        "mean_shift_of_highest": _mean(top),
        "share_down_of_highest": _mean([value < 0 for value in top]),
    }


def _spearman(scores: Sequence[float], shifts: Sequence[float]) -> float | None:
    """None where one of the two is constant: there is no order to compare."""
    from scipy.stats import spearmanr

    if len(set(scores)) < 2 or len(set(shifts)) < 2:
        return None
    return float(spearmanr(scores, shifts).statistic)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _quantiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    import numpy as np

    return {name: float(np.quantile(values, share)) for name, (_, share) in _QUANTILES.items()}


def _with_texts(pairs: Sequence[PairScore], data: Path | None) -> list[Record]:
    """The pairs with the beginnings of their texts, as far as the data have texts."""
    texts = _texts({pair.group for pair in pairs}, data)
    found = []
    for pair in pairs:
        group = texts.get(pair.group, {})
        completions = group.get("completions", [])
        asked = [message for message in group.get("messages", []) if message.get("role") == "user"]
        found.append(
            {
                **pair._asdict(),
                "asks": _beginning(asked[-1].get("content")) if asked else "",
                "preferred": _beginning(completions[pair.chosen].get("text")) if completions else "",
                "dispreferred": _beginning(completions[pair.rejected].get("text")) if completions else "",
            }
        )
    return found


def _texts(ids: Iterable[str], data: Path | None) -> Mapping[str, Record]:
    """The lines of these groups in groups.jsonl. Only theirs are parsed: a data set may have gigabytes of text."""
    path = None if data is None else data / "groups.jsonl"
    if path is None or not path.is_file():
        return {}
    begins = tuple(f'{{"id": {json.dumps(id, ensure_ascii=False)},'.encode() for id in ids)
    with path.open("rb") as lines:
        groups = [json.loads(line) for line in lines if line.startswith(begins)]
    return {group["id"]: group for group in groups}


def _beginning(text: object) -> str:
    if text is None:
        return ""
    return gist(text if isinstance(text, str) else json.dumps(text, ensure_ascii=False), _GIST_CHARACTERS)


def _rank(pair: PairScore) -> float:
    return float("-inf") if pair.mean_ches is None else pair.mean_ches


def _score(value: float | None) -> str:
    """In four digits: scores have the hidden states' scale, which differs between models by orders of magnitude."""
    if value is None:
        return NONE
    return f"{value:.4g}".replace("-", "−")
