"""Results of Arena-Hard's recorded judgments: each model's, category's and baseline's, and those of several judges together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bnf.plugins import load
from evaluation.benchmarks import BENCHMARKS, arena_hard
from evaluation.judging.aggregates import arena_hard_v2, style_control, style_control_v2, win_rate
from evaluation.judging.aggregates.judgment import Facts, Judgment, null_reasons
from evaluation.judging.answers import ANSWERS_FORM, Answers, read_answers
from evaluation.judging.deviations import judges_in_words
from evaluation.judging.recorded.arena import CATEGORIES, V01
from evaluation.judging.recorded.readers import Judgments
from evaluation.records import Record

# The published figures of this category are of both judges' verdicts together.
TOGETHER = "creative_writing"
_BENCHMARK, _PROTOCOL = "arena_hard_v2_creative_writing", "pairwise_creative_writing"


def arena_results(
    named: Sequence[tuple[str, Judgments]], styles: Mapping[str, Answers], *, questions: Path | None = None
) -> dict[str, Record]:
    """A result for each model, category and baseline, with style control over the models of each judge.

    Args:
        named: Each result's model, with its judge where there are several, and its judgments.
        styles: Answers by model, of `read_styles`, whose counts of style replace those of the judge's prompts.
        questions: Upstream's question.jsonl: judgments of other questions are refused, and questions without one are named.

    Raises:
        ValueError: where a judgment is on none of the questions, or an answer's style isn't there.
    """
    asked = arena_hard.load_categories(questions) if questions is not None else None
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
        _control({name: results[name] for name in judged}, battles, place[2], styles)
    return results


def results_together(parts: Sequence[Judgments], styles: Mapping[str, Answers]) -> dict[str, Record]:
    """What several judges' verdicts on a model's creative writing add up to, as the published figures do: all of them, each as it is.

    Style control is over all battles of these judges against the baseline, also those of models that one of them alone judged.
    """
    found: dict[tuple[str, str | None], list[Judgments]] = {}
    for part in parts:
        if part.category == TOGETHER:
            found.setdefault((part.model, part.baseline), []).append(part)
    several = {key: group for key, group in found.items() if len(group) > 1}
    times = Counter(model for model, _ in several)
    names = {key: f"{key[0]}, {TOGETHER}" + (f" against {key[1]}" if times[key[0]] > 1 else "") for key in found}
    results = {}
    for (model, baseline), group in several.items():
        judges = [str(part.judge) for part in group]
        judgments = [one for part in group for one in _counted(part)]
        about = {
            **_about(group[0]),
            "judge": " and ".join(judges),
            "judges": judges,
            "deviations": _other_judges(judges),
            "n_repeated": sum(part.num_repeated for part in group),
            "n_faulty": sum(part.num_faulty for part in group),
            "first_fault": next((part.first_fault for part in group if part.first_fault), None),
            "missing_questions": None,
        }
        result = about | _aggregate(group[0], judgments)
        result |= _questions(group)
        # All judges must have judged all questions.
        apart = {str(part.judge): _aggregate(part, _counted(part)) for part in group}
        result["partial"] = any(part["partial"] for part in apart.values())
        # Opposite biases of two judges would cancel each other.
        untrusted = [f"{judge}: {part['untrusted_reason']}" for judge, part in apart.items() if not part["trusted"]]
        if untrusted:
            result["trusted"], result["untrusted_reason"] = False, "; ".join(untrusted)
        results[names[model, baseline]] = result
    for baseline, ensemble in dict.fromkeys(
        (key[1], frozenset(part.judge for part in group)) for key, group in several.items()
    ):
        of_judges = {
            key: [part for part in group if part.judge in ensemble] for key, group in found.items() if key[1] == baseline
        }
        battles = {
            names[key]: [one for part in group for one in win_rate.with_battles(_with_styles(part, styles))]
            for key, group in of_judges.items()
        }
        own = [
            names[key] for key, group in several.items() if key[1] == baseline and {part.judge for part in group} == ensemble
        ]
        _control({name: results[name] for name in own}, battles, TOGETHER, styles)
    return results


def _questions(group: Sequence[Judgments]) -> Record:
    """How many questions each judge gave a verdict that counts, and how many all of them did: all verdicts make the score alike."""
    judged = {str(part.judge): {one.question_id for one in _counted(part) if one.verdict is not None} for part in group}
    return {
        "questions_by_judge": {judge: len(questions) for judge, questions in judged.items()},
        "n_common_questions": len(set.intersection(*judged.values())),
    }


def _other_judges(judges: Sequence[str]) -> list[str]:
    """In what the judges differ from those whose verdicts together are published."""
    benchmark = load(BENCHMARKS, _BENCHMARK)
    published = benchmark.FORMS[_PROTOCOL]
    known = {one.name for one in published for judge in judges if one.is_named(judge)}
    if len(known) == len(judges) == len(published):
        return []
    return [f"judges {' and '.join(judges)} instead of {judges_in_words(benchmark, _PROTOCOL)}"]


def _control(
    results: Mapping[str, Record],
    battles: Mapping[str, Sequence[style_control.Battles]],
    category: str | None,
    styles: Mapping[str, Answers],
) -> None:
    """Adds `style_controlled` to the results, by the category's version, over all battles together."""
    control = style_control if CATEGORIES[category or V01].version == "v0.1" else style_control_v2
    control.with_style_control(results, battles, control.FEATURE_VERSION_OF_ANSWERS if styles else control.FEATURE_VERSION)


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


def read_styles(paths: Sequence[Path]) -> dict[str, Answers]:
    """The answers of upstream's files, by model.

    Raises:
        ValueError: where a file can't be read, two are of one model, or a row has no counts of style.
    """
    found: dict[str, Answers] = {}
    for one in map(read_answers, paths):
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
