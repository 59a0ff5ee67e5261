"""Aggregates stored judgments: Arena-Hard's win rate, WildBench's two scores. No model, no endpoint.

https://github.com/lmarena/arena-hard-auto (v0.1), https://github.com/allenai/WildBench (v2)
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from evaluation._formats import NONE, interval, number, signed
from evaluation._records import Record
from evaluation.judges._agreement import judges_agreement
from evaluation.judges._pairwise_score import aggregate, with_battles
from evaluation.judges._recorded import Judgments, read_judgments
from evaluation.judges._style import with_style_control
from evaluation.judges._wildbench_score import aggregate_rewards, aggregate_scores, task_groups

BENCHMARKS = ("arena_hard", "wildbench")


def judge_score(
    benchmark: str,
    files: Sequence[Path],
    *,
    file_format: Literal["native", "upstream"] | None = None,
    questions: str | None = None,
) -> Record:
    """The result of every model in the files, over the protocol's number of questions.

    Where several judges judged one model, its results are called `model (judge)`, and `agreement` has Cohen's κ of each two judges.
    Several WildBench comparisons of one model, each with another reference, are one entry with the mean of their rewards.

    Args:
        file_format: Refuses files of the other format; None reads both.
        questions: WildBench's questions, for the task means: a file in upstream's format, or `hub`.

    Raises:
        FileNotFoundError: where a file is not there.
        ValueError: where the benchmark is none of these, or a file is ill-formed.
    """
    if benchmark not in BENCHMARKS:
        raise ValueError(f"benchmark must be {' or '.join(BENCHMARKS)}, got {benchmark!r}; `bnf score` takes the others")
    num_expected: int = importlib.import_module(f"evaluation.benchmarks.{benchmark}").NUM_ITEMS
    found = _merged([judgments for path in files for judgments in read_judgments(benchmark, path, file_format)])
    tasks = _tasks(questions) if questions is not None else None
    judges = {model: {part.judge for part in found if part.model == model} for model in {part.model for part in found}}
    named = [(part.model if len(judges[part.model]) == 1 else f"{part.model} ({part.judge})", part) for part in found]
    models = _arena(named, num_expected) if benchmark == "arena_hard" else _wildbench(named, num_expected, tasks)
    return {"benchmark": benchmark, "models": models, "agreement": _agreement(found)}


def _merged(parts: Sequence[Judgments]) -> list[Judgments]:
    """One entry per model, judge, form and baseline, also where its games lie in several files."""
    merged: dict[tuple[str, str | None, str, str | None], Judgments] = {}
    for part in parts:
        key = (part.model, part.judge, part.form, part.baseline)
        if key not in merged:
            merged[key] = part
            continue
        known = {(record["question_id"], record["game"]): record for record in merged[key].records}
        new = {(record["question_id"], record["game"]): record for record in part.records}
        repeated = merged[key].num_repeated + part.num_repeated + len({question for question, _ in known.keys() & new.keys()})
        merged[key] = Judgments(*key, list((known | new).values()), repeated)
    return list(merged.values())


def _arena(named: Sequence[tuple[str, Judgments]], num_expected: int) -> dict[str, Record]:
    results = {name: _about(part) | aggregate(part.records, num_expected=num_expected) for name, part in named}
    for judge in {part.judge for _, part in named}:
        games = {name: part.records for name, part in named if part.judge == judge}
        with_style_control(
            {name: results[name] for name in games}, {name: with_battles(found) for name, found in games.items()}
        )
    return results


def _wildbench(
    named: Sequence[tuple[str, Judgments]], num_expected: int, tasks: Mapping[str, Sequence[str]] | None
) -> dict[str, Record]:
    results: dict[str, Record] = {}
    rewards: dict[str, dict[str, Record]] = {}
    for name, part in named:
        if part.form == "checklist_score":
            results[name] = _about(part) | aggregate_scores(part.records, num_expected=num_expected, tasks=tasks)
        else:
            rewards.setdefault(name, {})[str(part.baseline)] = _about(part) | aggregate_rewards(
                part.records, num_expected=num_expected, tasks=tasks
            )
    for name, by_reference in rewards.items():
        values = [result["wb_reward"] for result in by_reference.values()]
        first = next(iter(by_reference.values()))
        results.setdefault(name, first if len(by_reference) == 1 else _mix(by_reference))
        results[name]["wb_reward"] = None if None in values else sum(values) / len(values)
        results[name]["references"] = by_reference
    return results


def _mix(by_reference: Mapping[str, Record]) -> Record:
    """What can be said of several references together; the rest stands with each of them."""
    parts = list(by_reference.values())
    reasons = {reference: part["untrusted_reason"] for reference, part in by_reference.items() if not part["trusted"]}
    return {
        "judge": parts[0]["judge"],
        **{key: min(part[key] for part in parts) for key in ("n", "n_questions", "n_expected")},
        **{key: sum(part[key] for part in parts) for key in ("n_games", "n_null")},
        "missing": max(part["missing"] for part in parts),
        "partial": any(part["partial"] for part in parts),
        "trusted": not reasons,
        "untrusted_reason": "; ".join(f"{reference}: {reason}" for reference, reason in reasons.items()),
    }


def _about(part: Judgments) -> Record:
    return {"judge": part.judge, "baseline": part.baseline, "n_repeated": part.num_repeated}


def _tasks(questions: str) -> dict[str, list[str]]:
    from evaluation.benchmarks import wildbench

    items = wildbench.load(None if questions == "hub" else questions, None)
    return {item["id"]: task_groups(item["primary_tag"], item["secondary_tags"]) for item in items}


def _agreement(parts: Sequence[Judgments]) -> list[dict[str, Any]]:
    """Of each two judges of one model, form and baseline."""
    return [
        {"model": first.model, "form": first.form, "judges": [first.judge, second.judge], **_kappa(first, second)}
        for first, second in itertools.combinations(parts, 2)
        if (first.model, first.form, first.baseline) == (second.model, second.form, second.baseline)
    ]


def _kappa(first: Judgments, second: Judgments) -> Record:
    field = "score" if first.form == "checklist_score" else "verdict"
    sides = [[{**record, "verdict": record[field]} for record in part.records] for part in (first, second)]
    return judges_agreement(*sides)


def judgment_rows(result: Record) -> list[tuple[str, list[dict[str, str]]]]:
    """The result as tables of text: (title, rows), every row of a table with the same columns."""
    tables = [(str(result["benchmark"]).replace("_", "-"), [_row(name, found) for name, found in result["models"].items()])]
    if result["agreement"]:
        tables.append(("agreement of judges", [_agreement_row(entry) for entry in result["agreement"]]))
    return tables


def _row(name: str, found: Record) -> dict[str, str]:
    measured = [
        (label, found[key])
        for key, label in (("score", "score"), ("wb_score", "WB-Score"), ("wb_reward", "WB-Reward"))
        if key in found
    ]
    partial = " (partial)" if found["partial"] else ""
    return {
        "model": name,
        "judge": str(found["judge"] or NONE),
        "": ", ".join(label for label, _ in measured),
        "score": ", ".join(number(value, 2) for _, value in measured),
        "by question [95 %]": interval(found.get("ci_clustered"), 2) or NONE,
        "by game [95 %]": interval(found.get("ci"), 2) or NONE,
        "style controlled": number((found.get("style_controlled") or {}).get("score")),
        "position bias": signed(found.get("position_bias"), 2),
        "without verdict": f"{found['n_null']}/{found['n_games']}",
        "questions": f"{found['n_questions']}/{found['n_expected']}{partial}",
        "trusted": "yes" if found["trusted"] else f"no: {found['untrusted_reason']}",
    }


def _agreement_row(entry: Mapping[str, Any]) -> dict[str, str]:
    return {
        "model": entry["model"],
        "judges": " and ".join(map(str, entry["judges"])),
        "games": str(entry["n_games"]),
        "κ": number(entry["kappa"], 3),
        "κ of the winner": number(entry["kappa_winner"], 3),
        "same verdict": number(None if entry["same_verdict"] is None else 100 * entry["same_verdict"]) + " %",
    }
