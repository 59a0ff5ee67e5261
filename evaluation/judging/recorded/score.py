"""Aggregates stored judgments: Arena-Hard's win rate, WildBench's two scores. No model, no endpoint.

https://github.com/lmarena/arena-hard-auto (v0.1 and v2.0), https://github.com/allenai/WildBench (v2)
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from evaluation.benchmarks import wildbench
from evaluation.judging.aggregates.agreement import judges_agreement
from evaluation.judging.aggregates.judgment import Judgment
from evaluation.judging.aggregates.wildbench import aggregate_rewards, aggregate_scores, reward_interval, reward_lengths
from evaluation.judging.recorded.arena_scores import arena_results, read_styles, results_together
from evaluation.judging.recorded.readers import Judgments, read_judgments
from evaluation.judging.recorded.rows import Key
from evaluation.records import Record

BENCHMARKS = ("arena_hard", "wildbench")


def judge_score(
    benchmark: str,
    files: Sequence[Path],
    *,
    file_format: Literal["native", "upstream"] | None = None,
    questions: str | None = None,
    answers: Sequence[Path] = (),
) -> Record:
    """Scores recorded judgments: a result for every model in the files, over the protocol's number of questions.

    Where several judges judged a model by one protocol, its results are called `model (judge)`, and `agreement` says how far each two
    judges agree. Arena-Hard v2.0 has a result for each category, called `model, category`, against the baseline of its rows; `together`
    has what several judges' verdicts on creative writing add up to. WildBench's ratings and comparisons of a model are one entry. Where
    the comparisons are with several references, the entry's reward is the mean over these, and its trust and counts are over all of them.

    Args:
        file_format: Refuses files of the other format; None reads both.
        questions: WildBench's questions, for the task means: a file in upstream's format, or `hub`. Of Arena-Hard its question.jsonl:
            judgments of other questions are refused, and questions without one are named.
        answers: Arena-Hard's files of answers, whose counts of style replace those of the judge's prompts.

    Raises:
        FileNotFoundError: where a file is not there.
        ValueError: where the benchmark is none of these, nothing in a file can be read, two files of one model don't name their
            judges, or a judgment doesn't fit the questions or answers.
    """
    if benchmark not in BENCHMARKS:
        raise ValueError(f"benchmark must be {' or '.join(BENCHMARKS)}, got {benchmark!r}; `bnf score` takes the others")
    if benchmark == "arena_hard" and questions in ("hub", "sample"):
        raise ValueError(f"--questions must be a file for arena-hard, got {questions}; give upstream's question.jsonl")
    if benchmark == "wildbench" and answers:
        raise ValueError(f"--answers must be left out for wildbench, got {answers[0]}; it is for Arena-Hard's style control")
    # A link may lie in a folder that names another judge: a file is told by its place, not by what it points to.
    paths = {os.path.abspath(path): path for path in files}.values()
    found = _merged([(path, judgments) for path in paths for judgments in read_judgments(benchmark, path, file_format)])
    several = _judged_by_several(found)
    named = [(f"{part.model} ({part.judge})" if part.model in several else part.model, part) for part in found]
    agreement = _agreement(found)
    if benchmark == "arena_hard":
        styles = read_styles(answers)
        models = arena_results(named, styles, questions=Path(questions) if questions is not None else None)
        return {"benchmark": benchmark, "models": models, "together": results_together(found, styles), "agreement": agreement}
    tasks = wildbench.load_tasks(questions) if questions is not None else None
    return {"benchmark": benchmark, "models": _wildbench(named, tasks), "together": {}, "agreement": agreement}


def _merged(parts: Sequence[tuple[Path, Judgments]]) -> list[Judgments]:
    """One entry per model, judge, protocol, baseline and category, also where its judgments lie in several files.

    Raises:
        ValueError: where two files are copies of each other, or judge the same questions of a model and don't say which judge that was.
    """
    merged: dict[Key, Judgments] = {}
    paths: dict[Key, Path] = {}
    contents: dict[tuple[Key, str], Path] = {}
    for path, part in parts:
        same = contents.setdefault((part.key, part.content), path)
        if part.key not in merged:
            merged[part.key], paths[part.key] = part, path
            continue
        known = merged[part.key]
        if part.judge is None and known.places() & part.places():
            remedy = (
                "give each row its `judge`"
                if part.protocol == "pairwise"
                else "put each file into a folder called eval=<judge>, as upstream does"
            )
            raise ValueError(
                f"files must name their judges where they judge the same questions of one model, got {paths[part.key]} and {path} "
                f"for {part.model}; {remedy}, or leave one of them out"
            )
        # Of our own judgments of one place the last one counts, however often it is given.
        if same != path and not part.native:
            raise ValueError(
                f"files must be given once, as every judgment counts, got {same} and {path}, which hold the same judgments of "
                f"{part.model}; leave one of them out"
            )
        known.native = known.native and part.native
        known.add(part.judgments)
        known.num_repeated += part.num_repeated
        known.add_faults(part.num_faulty, part.first_fault)
    return list(merged.values())


def _judged_by_several(parts: Sequence[Judgments]) -> set[str]:
    """The models that several judges judged by one protocol, and of Arena-Hard v2.0 in one category."""
    judges: dict[tuple[str, str, str | None], set[str | None]] = {}
    for part in parts:
        judges.setdefault((part.model, part.protocol, part.category), set()).add(part.judge)
    return {model for (model, *_), found in judges.items() if len(found) > 1}


def _wildbench(named: Sequence[tuple[str, Judgments]], tasks: Mapping[str, Sequence[str]] | None) -> dict[str, Record]:
    parts: dict[str, list[tuple[Judgments, Record]]] = {}
    for name, part in named:
        aggregated = aggregate_scores if part.protocol == "checklist_score" else aggregate_rewards
        result = part.about() | aggregated(part.judgments, num_expected=wildbench.NUM_ITEMS, tasks=tasks)
        parts.setdefault(name, []).append((part, result))
    return {name: _entry(found) for name, found in parts.items()}


def _entry(parts: Sequence[tuple[Judgments, Record]]) -> Record:
    """What there is of one model: its score, its rewards against each reference and their mean."""
    scores = [result for part, result in parts if part.protocol == "checklist_score"]
    rewards = {str(part.baseline): result for part, result in parts if part.protocol != "checklist_score"}
    if not rewards:
        return scores[0]
    reward = next(iter(rewards.values()))
    if len(rewards) > 1:
        reward = _mix(rewards, [part.judgments for part, _ in parts if part.protocol != "checklist_score"])
    entry = {**reward, "wb_reward_ci": reward["ci"], "references": rewards}
    if not scores:
        return entry
    # The main interval, the lengths and the counts of outputs are the score's; the rewards' stand with them.
    return {**entry, **scores[0], **_together({"WB-Score": scores[0], "WB-Reward": reward}), "checklist_score": scores[0]}


def _mix(by_reference: Mapping[str, Record], judgments: Sequence[Sequence[Judgment]]) -> Record:
    """The mean of several references' rewards, which is published as Mix, and what can be said of them together."""
    parts = list(by_reference.values())
    by_margin = {
        margin: _mean([part["wb_reward_by_margin"][margin] for part in parts]) for margin in parts[0]["wb_reward_by_margin"]
    }
    by_task = None
    if all(part["wb_reward_by_task"] is not None for part in parts):
        shared = [task for task in parts[0]["wb_reward_by_task"] if all(task in part["wb_reward_by_task"] for part in parts)]
        by_task = {task: _mean([part["wb_reward_by_task"][task] for part in parts]) for task in shared}
    value = _mean([part["wb_reward"] for part in parts])
    ci = None if value is None else reward_interval(judgments)
    return {
        "wb_reward": value,
        "ci": ci,
        "ci_clustered": ci,
        "wb_reward_by_margin": by_margin,
        "wb_reward_macro": _mean([part["wb_reward_macro"] for part in parts]),
        "wb_reward_by_task": by_task,
        **{key: sum(part[key] for part in parts) for key in ("n_left_out", "n_empty", "n_cut")},
        **{key: _mean([part[key] for part in parts]) for key in ("mean_characters", "baseline_mean_characters")},
        # A question is another pair of outputs with each reference.
        "lengths": reward_lengths([((number, one.question_id), one) for number, part in enumerate(judgments) for one in part]),
        "demonstration": any(part["demonstration"] for part in parts),
        "baseline": None,
        **_together(by_reference),
    }


def _together(parts: Mapping[str, Record]) -> Record:
    """Judge, counts and trust of several results: as bad as the worst of them, every reason under its part's name."""
    found = list(parts.values())
    judges = {name: str(part["judge"]) for name, part in parts.items()}
    reasons = {name: part["untrusted_reason"] for name, part in parts.items() if not part["trusted"]}
    measured = [part for part in found if part["position_bias"] is not None]
    worst: Record = max(measured, key=lambda part: abs(part["position_bias"]), default={})
    num_games, num_unjudged, num_null = (sum(part[key] for part in found) for key in ("n_games", "n_unjudged", "n_null"))
    num_judged = num_games - num_unjudged
    return {
        "judge": found[0]["judge"]
        if len(set(judges.values())) == 1
        else ", ".join(f"{judge} ({name})" for name, judge in judges.items()),
        **{key: min(part[key] for part in found) for key in ("n", "n_questions", "n_expected")},
        **{key: sum(part[key] for part in found) for key in ("n_repeated", "n_faulty")},
        "repeated_rows": "counted" if any(part["repeated_rows"] == "counted" for part in found) else "replaced",
        "first_fault": next((part["first_fault"] for part in found if part["first_fault"]), None),
        "n_games": num_games,
        "n_unjudged": num_unjudged,
        "n_null": num_null,
        "null_share": num_null / num_judged if num_judged else 0.0,
        "missing": max(part["missing"] for part in found),
        "partial": any(part["partial"] for part in found),
        "position_bias": worst.get("position_bias"),
        "position_bias_coverage": worst.get("position_bias_coverage"),
        "trusted": not reasons,
        "untrusted_reason": "; ".join(f"{name}: {reason}" for name, reason in reasons.items()),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of values that are all there."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _agreement(parts: Sequence[Judgments]) -> list[Record]:
    """Of each two judges of one model, protocol, baseline and category."""
    return [
        {
            "model": first.model,
            "form": first.protocol,
            "category": first.category,
            "judges": [first.judge, second.judge],
            **judges_agreement(_last(first), _last(second)).to_json(),
        }
        for first, second in itertools.combinations(parts, 2)
        if first.key._replace(judge=None) == second.key._replace(judge=None)
    ]


def _last(part: Judgments) -> list[Judgment]:
    """What was judged several times counts once for an agreement, by its last verdict; one that a score leaves out counts too."""
    return list({one.place: replace(one, verdict=one.given) for one in part.judgments}.values())
