"""Label resolution: from what a prompt's rows say to preferences. Ties and ratings become labels, `keep`, limits and pairing apply, and
every completion that is left out gets an outcome."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace

from data.preparing.config import PrepareConfig, RatingRule
from data.preparing.counts import NOT_LOST
from data.preparing.staging import CandidateEntry, Preference, Staging


@dataclass(frozen=True)
class RowEntry:
    """A row of a prompt, with its candidates."""

    no: int
    id: str
    line: int
    tie: bool
    listed: bool
    candidates: list[CandidateEntry]


@dataclass
class Resolved:
    """A prompt's preferences, and the outcomes of the rows (with a detail) and candidates that give none."""

    preferences: list[Preference] = field(default_factory=list)
    rows: dict[int, tuple[str, str]] = field(default_factory=dict)
    candidates: dict[int, str] = field(default_factory=dict)


def resolve_all(staging: Staging, config: PrepareConfig) -> None:
    """Resolves the labels of every prompt in staging, one after another."""
    for prompt in staging.prompts():
        by_row: dict[int, list[CandidateEntry]] = {}
        for candidate in staging.candidates(prompt):
            by_row.setdefault(candidate.row, []).append(candidate)
        rows = [
            RowEntry(no, id, line, bool(tie), bool(listed), by_row.get(no, []))
            for no, id, line, tie, listed in staging.run(
                "select no, id, line, tie, listed from rows where prompt = ? order by no", prompt
            )
        ]
        resolved = resolve(rows, config)
        staging.add_preferences(prompt, resolved.preferences)
        for row, (outcome, detail) in resolved.rows.items():
            staging.set_row(row, outcome, detail)
        for candidate_no, outcome in resolved.candidates.items():
            staging.set_candidate(candidate_no, outcome)
    staging.set_live()


def resolve(rows: Sequence[RowEntry], config: PrepareConfig) -> Resolved:
    """The preferences of one prompt's rows, and the outcomes of what gives none."""
    resolved = Resolved()
    single: list[CandidateEntry] = []
    lines: dict[tuple[str, str], int] = {}  # (chosen, rejected) of rows that are pairs → line
    for row in rows:
        labels = sorted(one.label or 0 for one in row.candidates if not one.outcome)
        if row.tie and config.ties == "drop":
            resolved.rows[row.no] = ("tie", "")
        elif not row.tie and not row.listed and labels == [-1, 1]:
            chosen, rejected = sorted(row.candidates, key=lambda one: -(one.label or 0))
            texts = chosen.text, rejected.text
            if texts in lines:
                # Also with other scores: if both stayed, a mask on one of the two would hide nothing.
                resolved.rows[row.no] = ("duplicate", f"the same pair as on line {lines[texts]}")
            else:
                lines[texts] = row.line
                resolved.preferences.append(Preference(chosen.no, rejected.no, 1, row.no, row.id))
        else:
            single += [_untied(one, config) for one in row.candidates if not one.outcome]
    rated = [one for one in single if one.label is None]
    labels_of = {one.no: one.label for one in single if one.label is not None} | rating_labels(rated, config.ratings)
    if config.every_sample:
        labels_of = {no: label or -1 for no, label in labels_of.items()}
    found = single if config.every_sample else _once(single, labels_of, resolved)
    usable = _chosen(found, labels_of, resolved, config)
    ids = {row.no: row.id for row in rows}
    if config.pairing == "none":
        resolved.preferences += [
            Preference(one.no, None, labels_of[one.no], one.row, f"{ids[one.row]}/{one.position}") for one in usable
        ]
    elif usable:
        _pair_up(usable, labels_of, ids, lines, resolved, config)
    resolved.preferences = _named_apart(resolved.preferences)
    _row_outcomes(rows, resolved)
    return resolved


def rating_labels(rated: Sequence[CandidateEntry], rule: RatingRule) -> dict[int, int]:
    """The labels that the rule gives a prompt's rated candidates, by candidate number; 0 is the middle, which is dropped."""
    if not rated:
        return {}
    scores = {one.no: float(one.score or 0.0) for one in rated}
    ordered = sorted(scores.values())
    if rule.threshold is not None:
        high, low, border = rule.threshold + rule.margin, rule.threshold - rule.margin, rule.threshold
    else:
        count = max(1, int(rule.quantile * len(ordered) + 1e-9))
        high, low, border = ordered[-count], ordered[count - 1], statistics.median(ordered)
    labels = {}
    for no, score in scores.items():
        preferred, dispreferred = score >= high, score <= low
        if rule.threshold is not None and preferred:
            dispreferred = False  # without a margin the threshold itself counts as preferred
        if preferred != dispreferred:
            labels[no] = 1 if preferred else -1
        else:
            # The threshold itself counts as preferred here too; a score on the median lies on neither side.
            above = score >= border if rule.threshold is not None else score > border
            labels[no] = above - (score < border) if rule.middle == "keep" else 0
    return labels


def _untied(one: CandidateEntry, config: PrepareConfig) -> CandidateEntry:
    return replace(one, label=1 if config.ties == "both_preferred" else -1) if one.label == 0 else one


def _once(single: Iterable[CandidateEntry], labels: dict[int, int], resolved: Resolved) -> list[CandidateEntry]:
    """The candidates that have a label, one for each text and label."""
    seen: set[tuple[str, int]] = set()
    found = []
    for one in single:
        label = labels[one.no]
        if label == 0:
            resolved.candidates[one.no] = "middle"
        elif (one.text, label) in seen:
            resolved.candidates[one.no] = "duplicate"
        else:
            seen.add((one.text, label))
            found.append(one)
    return found


def _chosen(
    found: list[CandidateEntry], labels: dict[int, int], resolved: Resolved, config: PrepareConfig
) -> list[CandidateEntry]:
    """The candidates that `min_reward_gap`, `keep` and the limits leave."""
    sides = {sign: [one for one in found if labels[one.no] == sign] for sign in (1, -1)}
    scores = [one.score for one in found if one.score is not None]
    if config.min_reward_gap and (not scores or max(scores) - min(scores) < config.min_reward_gap):
        resolved.candidates |= {one.no: "reward_gap" for one in found}
        return []
    kept = sides
    if config.keep != "all":
        if config.keep == "best_worst":
            # The first of equals, as max gives it.
            kept = {sign: sorted(side, key=lambda one: -sign * (one.score or 0.0))[:1] for sign, side in sides.items()}
        else:
            fewer = min(len(side) for side in sides.values())
            kept = {sign: side[:fewer] for sign, side in sides.items()}
        if not (kept[1] and kept[-1]) or (config.keep == "best_worst" and kept[1][0].text == kept[-1][0].text):
            resolved.candidates |= {one.no: "no_contrast" for one in found}
            return []
    limits = {1: config.max_preferred, -1: config.max_dispreferred}
    within = {one.no for sign, side in kept.items() for one in side[: limits[sign]]}
    resolved.candidates |= {one.no: "over_limit" for one in found if one.no not in within}
    return [one for one in found if one.no in within]


def _pair_up(
    usable: list[CandidateEntry],
    labels: dict[int, int],
    ids: dict[int, str],
    said: Container[tuple[str, str]],
    resolved: Resolved,
    config: PrepareConfig,
) -> None:
    """Makes pairs of candidates that came without a partner: the best and the worst, or every preferred with every dispreferred one. A
    (chosen, rejected) in `said` is a row's own pair, and not made again."""
    preferred = [one for one in usable if labels[one.no] > 0]
    dispreferred = [one for one in usable if labels[one.no] < 0]
    if not preferred or not dispreferred:
        detail = f"{len(preferred)} preferred and {len(dispreferred)} dispreferred completions"
        resolved.rows |= {one.row: ("no_pair", detail) for one in usable}
        return
    if config.pairing == "best_worst":
        best = max(preferred, key=lambda one: one.score or 0.0)
        worst = min(dispreferred, key=lambda one: one.score or 0.0)
        resolved.candidates |= {one.no: "unpaired" for one in usable if one.no not in (best.no, worst.no)}
        preferred, dispreferred = [best], [worst]
    for chosen in preferred:
        for rejected in dispreferred:
            if (chosen.text, rejected.text) in said:
                continue
            name = f"{ids[chosen.row]}/{chosen.position}>{ids[rejected.row]}/{rejected.position}"
            resolved.preferences.append(Preference(chosen.no, rejected.no, 1, chosen.row, name))
    used = {no for one in resolved.preferences for no in (one.first, one.second)}
    resolved.candidates |= {one.no: "duplicate" for one in (*preferred, *dispreferred) if one.no not in used}


def _named_apart(preferences: Sequence[Preference]) -> list[Preference]:
    """The preferences under different names: a repeated name gets a number, as rows of a prompt may share an id (a `prompt_id`)."""
    seen: Counter[str] = Counter()
    found = []
    for one in preferences:
        found.append(replace(one, name=f"{one.name}#{seen[one.name]}") if seen[one.name] else one)
        seen[one.name] += 1
    return found


def _row_outcomes(rows: Sequence[RowEntry], resolved: Resolved) -> None:
    """Gives an outcome to every row of which no completion is in a preference."""
    used = {no for one in resolved.preferences for no in (one.first, one.second)}
    for row in rows:
        if row.no in resolved.rows or any(one.no in used for one in row.candidates):
            continue
        outcomes = {resolved.candidates.get(one.no, one.outcome) for one in row.candidates}
        # These two outcomes are given to all of a prompt's completions that nothing else had left out.
        of_prompt = outcomes & {"reward_gap", "no_contrast"}
        outcome = (of_prompt or outcomes).pop() if of_prompt or len(outcomes) == 1 else ""
        if row.listed and outcome not in NOT_LOST:
            resolved.rows[row.no] = ("no_completion", "every completion was left out")
        else:
            resolved.rows[row.no] = (outcome or "no_completion", "")
            if not row.listed:
                for one in row.candidates:
                    resolved.candidates.pop(one.no, None)
