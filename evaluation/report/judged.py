"""What a run's judges found, for summary.json, the terminal and the report: one entry per benchmark, judge protocol and judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.formats import NONE, difference, interval, number, signed
from evaluation.item_files import games
from evaluation.judging.aggregates.agreement import judges_agreement
from evaluation.judging.aggregates.judgment import Judgment
from evaluation.records import Record, read_json

# What the main figure of a result is called, and its unit.
_SCORES = {"score": "score", "wb_score": "WB-Score", "wb_reward": "WB-Reward"}
_UNITS = {"pairwise": " %", "pairwise_hard_prompt": " %", "pairwise_creative_writing": " %", "turn_score": " of 10"}


def judge_entry(folder: Path) -> Record:
    """The judge stage's summary, and how often each verdict was given: by order where answers are compared, else by turn."""
    summary = read_json(folder / "summary.json")
    compared = summary.get("orders") is not None
    verdicts: dict[str, Counter[str]] = {}
    for judgment in _judgments(folder):
        place = ("baseline_first" if judgment.number == 1 else "candidate_first") if compared else f"turn_{judgment.number}"
        verdicts.setdefault(place, Counter())[_label(judgment)] += 1
    return {
        **summary,
        # First of all: it says of how many judgments the counts that follow are.
        "models": {model: {"n_unjudged": result["n_unjudged"], **result} for model, result in summary["models"].items()},
        "verdicts": {place: dict(sorted(counts.items())) for place, counts in verdicts.items()},
    }


def add_agreement(entries: Mapping[str, Record], folders: Mapping[str, Path]) -> None:
    """Adds to the entries of a second judge how far it agrees with the first."""
    for name, entry in entries.items():
        benchmark, _, variant = name.partition("/")
        if not variant.startswith("second"):
            continue
        protocol = variant.removeprefix("second").removeprefix("-")
        first = "/".join(filter(None, (benchmark, protocol)))
        both = [_judgments(folders[other]) for other in (first, name)]
        entry["agreement"] = {
            "with": entries[first]["judge"],
            **{model: _agreement(model, *both) for model in entry["models"]},
        }


def judge_rows(name: str, entry: Record) -> list[dict[str, str]]:
    """A row per model; every row of an entry has the same columns, all as text."""
    return [_row(model, result, entry) for model, result in entry["models"].items()]


def judge_notes(label: str, entry: Record) -> list[str]:
    """What is said of an entry in one sentence per model, and of both models together."""
    flag = " (DEMONSTRATION: the judge cannot judge, its verdicts mean nothing)" if entry["demonstration"] else ""
    against = f" against {entry['baseline']}" if entry["baseline"] else ""
    found = []
    for model, result in entry["models"].items():
        trust = "" if result["trusted"] or entry["demonstration"] else f"; not to be trusted: {result['untrusted_reason']}"
        bias = f"position bias {signed(result['position_bias'], 2)}, " if entry["orders"] else ""
        partial = " (partial)" if result["partial"] else ""
        found.append(
            f"{label}, {model}{against}, judged by {entry['judge']}{flag}: {_scored(result, entry)}, {bias}{_without_verdict(result)}"
            f"{_answers(result, entry)}{partial}{trust}."
        )
    if entry.get("delta") is not None:
        found.append(f"{label}, aligned minus base by {entry['judge']}{flag}: {difference(entry['delta'], entry['delta_ci'])}.")
    for model, agreement in (entry.get("agreement") or {}).items():
        if model != "with":
            kappa = number(agreement["kappa"], 2)
            found.append(
                f"{label}, {model}: {entry['judge']} and {entry['agreement']['with']} agree with κ = {kappa} on "
                f"{agreement['n_games']} games."
            )
    return found


def _scored(result: Record, entry: Record) -> str:
    """The score with its interval by question."""
    if _score(result) is None:
        return "no score"
    return f"{_main(result)}{_UNITS.get(entry['form'], '')} {interval(result['ci_clustered']) or '(no interval: one question)'}"


def _without_verdict(result: Record) -> str:
    reasons = result.get("null_reasons") or {}
    why = f" ({', '.join(f'{count} × {reason}' for reason, count in reasons.items())})" if reasons else ""
    if not result["n_unjudged"]:
        return f"{result['n_null']} of {result['n_games']} games without a verdict{why}"
    judged = result["n_games"] - result["n_unjudged"]
    return (
        f"{result['n_null']} of {judged} judged games without a verdict{why}, {result['n_unjudged']} more decided without the judge "
        "(an empty or cut answer)"
    )


def _answers(result: Record, entry: Record) -> str:
    """How many answers were cut or are empty; of the baseline's only where there are some. A kept result of an older run doesn't say."""
    own, baseline = result.get("answers"), entry.get("baseline_answers")
    if own is None:
        return ""
    theirs = f", of {entry['baseline']}'s {_cut_and_empty(baseline)}" if baseline and _some(baseline) else ""
    return f", of {own['n']} answers {_cut_and_empty(own)}{theirs}"


def _cut_and_empty(answers: Record) -> str:
    cut = "" if answers["n_cut"] is None else f"{answers['n_cut']} cut and "
    return f"{cut}{answers['n_empty']} empty"


def _some(answers: Record) -> bool:
    return bool(answers["n_cut"] or answers["n_empty"])


def judge_counts(entry: Record) -> list[tuple[str, str]]:
    """How often each verdict was given: (where, counts)."""
    return [
        (place.replace("_", " "), ", ".join(f"{verdict} × {count}" for verdict, count in counts.items()))
        for place, counts in entry["verdicts"].items()
    ]


def _row(model: str, result: Record, entry: Record) -> dict[str, str]:
    trusted = result["trusted"] and not entry["demonstration"]
    row = {
        "model": model,
        _name(result): _main(result),
        "interval by question": interval(result["ci_clustered"]) or NONE,
        "interval by game": interval(result["ci"]) or NONE,
    }
    if "as_published" in result:
        row["as published, 90 %"] = _as_published(result["as_published"])
    if "style_controlled" in result:
        row["style controlled"] = number((result["style_controlled"] or {}).get("score"))
    if entry["orders"]:
        row["position bias"] = signed(result["position_bias"], 2)
    if lengths := result.get("lengths"):
        sides = (lengths["candidate"], lengths["baseline"])
        row[lengths["unit"]] = " against ".join(number(side["mean"], 0) for side in sides)
        longer = lengths["longer_won"]
        row["longer won"] = NONE if longer is None else f"{number(100 * longer, 0)} %"
    elif "lengths" in result and "wb_reward" in result:
        row |= {"characters": number(result["mean_characters"], 0), "longer won": NONE}
    elif "mean_characters" in result:
        row["characters"] = number(result["mean_characters"], 0)
    if answers := result.get("answers"):
        row["answers"] = f"{answers['n']}, {_cut_and_empty(answers)}"
    return {
        **row,
        "games": str(result["n_games"]),
        "not judged": str(result["n_unjudged"]),
        "without verdict": str(result["n_null"]),
        "questions": f"{result['n_questions']}/{result['n_expected']}" + (" partial" if result["partial"] else ""),
        "trusted": "yes" if trusted else "untrusted",
    }


def _as_published(published: Record | None) -> str:
    """A dash where no game has a verdict."""
    return NONE if published is None else f"{number(published['score'])} {interval(published['ci'])}".strip()


def _name(result: Record) -> str:
    return next(label for key, label in _SCORES.items() if key in result)


def _main(result: Record) -> str:
    return number(_score(result))


def _score(result: Record) -> float | None:
    return next(result[key] for key in _SCORES if key in result)


def _label(judgment: Judgment) -> str:
    verdict = judgment.verdict
    if not judgment.asked:
        return "not judged"
    return "none" if verdict is None else verdict if isinstance(verdict, str) else f"{verdict:g}"


def _judgments(folder: Path) -> list[Judgment]:
    return [Judgment.from_json(record) for record in games(folder / "games.jsonl")]


def _agreement(model: str, first: Sequence[Judgment], second: Sequence[Judgment]) -> Record:
    return judges_agreement(*([one for one in part if one.candidate == model] for part in (first, second))).to_json()
