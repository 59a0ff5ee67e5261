"""Results of Arena-Hard's recorded judgments: each model's, category's and baseline's, and those of several judges together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from evaluation.benchmarks import arena_hard
from evaluation.judging.aggregates import arena_hard_v2, style_control, style_control_v2, win_rate
from evaluation.judging.aggregates.judgment import Facts, Judgment, null_reasons
from evaluation.judging.answers import ANSWERS_FORM, Answers, read_answers
from evaluation.judging.recorded.arena import CATEGORIES, V01
from evaluation.judging.recorded.readers import Judgments
from evaluation.records import Record

# The published figures of this category are of both judges' verdicts together.
TOGETHER = "creative_writing"


def arena_results(
    named: Sequence[tuple[str, Judgments]], *, questions: Path | None = None, answers: Sequence[Path] = ()
) -> dict[str, Record]:
    """A result for each model, category and baseline, with style control over the models of each judge.

    Args:
        named: Each result's model, with its judge where there are several, and its judgments.
        questions: Upstream's question.jsonl: judgments of other questions are refused, and questions without one are named.
        answers: Upstream's files of answers, whose counts of style replace those of the judge's prompts.

    Raises:
        ValueError: where a judgment is on none of the questions, or an answer's style isn't there.
    """
    asked = arena_hard.load_categories(questions) if questions is not None else None
    styles = _styled([read_answers(path) for path in answers])
    entries = _named(named)
    results = {}
    for name, part in entries:
        about = {**_about(part), "missing_questions": None if asked is None else _missing(name, part, asked)}
        if asked is not None:
            about["n_given_questions"] = len(asked[part.category or V01])
        results[name] = about | _aggregate(part, _counted(part))
    for place in dict.fromkeys((part.judge, part.baseline, part.category) for _, part in entries):
        judged = {name: part for name, part in entries if (part.judge, part.baseline, part.category) == place}
        battles = {name: win_rate.with_battles(_with_styles(part, styles)) for name, part in judged.items()}
        control = style_control if CATEGORIES[place[2] or V01].version == "v0.1" else style_control_v2
        features = control.FEATURE_VERSION_OF_ANSWERS if styles else control.FEATURE_VERSION
        control.with_style_control({name: results[name] for name in judged}, battles, features)
    return results


def results_together(parts: Sequence[Judgments]) -> dict[str, Record]:
    """What several judges' verdicts on a model's creative writing add up to, as the published figures do: all of them, each as it is."""
    found: dict[tuple[str, str | None], list[Judgments]] = {}
    for part in parts:
        if part.category == TOGETHER:
            found.setdefault((part.model, part.baseline), []).append(part)
    several = {key: group for key, group in found.items() if len(group) > 1}
    times = Counter(model for model, _ in several)
    results = {}
    for (model, baseline), group in several.items():
        name = f"{model}, {TOGETHER}" + (f" against {baseline}" if times[model] > 1 else "")
        judges = [str(part.judge) for part in group]
        judgments = [one for part in group for one in _counted(part)]
        about = {
            **_about(group[0]),
            "judge": " and ".join(judges),
            "judges": judges,
            "n_repeated": sum(part.num_repeated for part in group),
            "n_faulty": sum(part.num_faulty for part in group),
            "first_fault": next((part.first_fault for part in group if part.first_fault), None),
            "missing_questions": None,
        }
        result = about | _aggregate(group[0], judgments)
        # All judges must have judged all questions.
        apart = {str(part.judge): _aggregate(part, _counted(part)) for part in group}
        result["partial"] = any(part["partial"] for part in apart.values())
        # Opposite biases of two judges would cancel each other.
        untrusted = [f"{judge}: {part['untrusted_reason']}" for judge, part in apart.items() if not part["trusted"]]
        if untrusted:
            result["trusted"], result["untrusted_reason"] = False, "; ".join(untrusted)
        result["style_controlled"] = None
        results[name] = result
    return results


def _named(named: Sequence[tuple[str, Judgments]]) -> list[tuple[str, Judgments]]:
    """The results' names: of v2.0 with their category, and with their baseline where a model has several."""
    called = [(f"{name}, {part.category}" if _version(part) != "v0.1" else name, part) for name, part in named]
    times = Counter(name for name, _ in called)
    return [(f"{name} against {part.baseline}" if times[name] > 1 else name, part) for name, part in called]


def _version(part: Judgments) -> str:
    return CATEGORIES[part.category or V01].version


def _about(part: Judgments) -> Record:
    protocol = CATEGORIES[part.category or V01]
    return {
        **part.about(),
        "category": part.category,
        "version": protocol.version,
        "published_baseline": protocol.baseline,
    }


def _counted(part: Judgments) -> list[Judgment]:
    """The judgments as they count. Of upstream's v2.0 the reader has left out the rows that lack a verdict, each by itself."""
    return arena_hard_v2.counted(part.judgments) if part.native and _version(part) != "v0.1" else part.judgments


def _aggregate(part: Judgments, judgments: Sequence[Judgment]) -> Record:
    aggregate = win_rate.aggregate if _version(part) == "v0.1" else arena_hard_v2.aggregate
    result = aggregate(judgments, num_expected=CATEGORIES[part.category or V01].num_questions)
    return {**result, **_counts(judgments), "null_reasons": null_reasons(judgments)}


def _counts(judgments: Sequence[Judgment]) -> Record:
    """What `n_games` and `n_questions` are the sums of: games that count, left out and without a verdict; questions that count."""
    counted = [one for one in judgments if one.verdict is not None]
    left_out = sum(one.verdict is None and one.left_out is not None for one in judgments)
    return {
        "n_counted": len(counted),
        "n_left_out": left_out,
        "n_without_verdict": len(judgments) - len(counted) - left_out,
        "n_counted_questions": len({one.question_id for one in counted}),
    }


def _missing(name: str, part: Judgments, asked: Mapping[str, Sequence[str]]) -> list[str]:
    """The category's questions that have no judgment, not even one without a verdict."""
    category = part.category or V01
    if category not in asked:
        raise ValueError(
            f"--questions must have the questions of {category}, which {name} was judged on, got those of {', '.join(asked)}; give "
            "upstream's question.jsonl of that version"
        )
    known = set(asked[category])
    judged = dict.fromkeys(one.question_id for one in part.judgments)
    strange = [question for question in judged if question not in known]
    if strange:
        raise ValueError(
            f"{name} must be judged on {category}'s questions in --questions, got {len(strange)} others, {strange[0]!r} the first; correct "
            "the rows, or give the questions that were judged"
        )
    return [question for question in asked[category] if question not in judged]


def _styled(files: Sequence[Answers]) -> dict[str, Answers]:
    found: dict[str, Answers] = {}
    for one in files:
        if one.model in found:
            raise ValueError(f"--answers must have one file for each model, got two of {one.model}; leave one of them out")
        lacking = [question for question in one.turns if question not in one.styles]
        if lacking:
            raise ValueError(
                f"--answers must have metadata with token_len, header_count, list_count and bold_count in each row, got none for "
                f"{lacking[0]!r} of {one.model}; add them with upstream's utils/add_markdown_info.py, or leave --answers out"
            )
        found[one.model] = one
    return found


def _with_styles(part: Judgments, answers: Mapping[str, Answers]) -> list[Judgment]:
    """The judgments as they count, with the styles of files of answers where there are some."""
    judgments = _counted(part)
    if not answers:
        return judgments
    sides = []
    for model in (part.model, str(part.baseline)):
        if model not in answers:
            folder = "arena-hard-v0.1" if _version(part) == "v0.1" else "arena-hard-v2.0"
            raise ValueError(
                f"--answers must have the answers of {model} for {part.category}, got those of {', '.join(answers)}; give upstream's "
                f"data/{folder}/model_answer/{model}.jsonl: {ANSWERS_FORM}, and metadata with the counts of style; or leave --answers out"
            )
        sides.append(answers[model])
    for one in judgments:
        for side in sides:
            if one.question_id not in side.styles:
                raise ValueError(
                    f"--answers must answer every question that was judged, got none by {side.model} to {one.question_id!r}; give the "
                    "whole file"
                )
    return [
        replace(
            one, facts=Facts(candidate_style=sides[0].styles[one.question_id], baseline_style=sides[1].styles[one.question_id])
        )
        for one in judgments
    ]
