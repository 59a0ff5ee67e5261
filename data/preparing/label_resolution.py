"""From what rows say to verdicts: ties and ratings become labels, limits and pairing hold, and every completion left out has its word."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace

from data.preparing.config import PrepareConfig, RatingRule
from data.preparing.ledger import NOT_LOST
from data.preparing.staging import CandidateEntry, Verdict, Workbench


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
class Settled:
    """What a prompt's rows come to: verdicts, and per row or candidate that gives none the word for the ledger."""

    verdicts: list[Verdict] = field(default_factory=list)
    rows: dict[int, tuple[str, str]] = field(default_factory=dict)
    candidates: dict[int, str] = field(default_factory=dict)


def settle_all(bench: Workbench, config: PrepareConfig) -> None:
    """Settles every prompt on the workbench, one after another."""
    for prompt in bench.prompts():
        by_row: dict[int, list[CandidateEntry]] = {}
        for candidate in bench.candidates(prompt):
            by_row.setdefault(candidate.row, []).append(candidate)
        rows = [
            RowEntry(no, id, line, bool(tie), bool(listed), by_row.get(no, []))
            for no, id, line, tie, listed in bench.run(
                "select no, id, line, tie, listed from rows where prompt = ? order by no", prompt
            )
        ]
        settled = settle(rows, config)
        bench.add_verdicts(prompt, settled.verdicts)
        for row, (outcome, detail) in settled.rows.items():
            bench.set_row(row, outcome, detail)
        for candidate_no, outcome in settled.candidates.items():
            bench.set_candidate(candidate_no, outcome)


def settle(rows: Sequence[RowEntry], config: PrepareConfig) -> Settled:
    """The verdicts of one prompt's rows."""
    settled = Settled()
    single: list[CandidateEntry] = []
    lines: dict[tuple[str, str], int] = {}  # of the rows' own pairs
    for row in rows:
        labels = sorted(one.label or 0 for one in row.candidates if not one.outcome)
        if row.tie and config.ties == "drop":
            settled.rows[row.no] = ("tie", "")
        elif not row.tie and not row.listed and labels == [-1, 1]:
            chosen, rejected = sorted(row.candidates, key=lambda one: -(one.label or 0))
            texts = chosen.text, rejected.text
            if texts in lines:
                # Other scores make it no other pair: masking one of two would hide nothing.
                settled.rows[row.no] = ("duplicate", f"the same pair as on line {lines[texts]}")
            else:
                lines[texts] = row.line
                settled.verdicts.append(Verdict(chosen.no, rejected.no, 1, row.no, row.id))
        else:
            single += [_untied(one, config) for one in row.candidates if not one.outcome]
    rated = [one for one in single if one.label is None]
    labels_of = {one.no: one.label for one in single if one.label is not None} | rating_labels(rated, config.ratings)
    usable = _chosen(_once(single, labels_of, settled), labels_of, settled, config)
    ids = {row.no: row.id for row in rows}
    if config.pairing == "none":
        settled.verdicts += [
            Verdict(one.no, None, labels_of[one.no], one.row, f"{ids[one.row]}/{one.position}") for one in usable
        ]
    elif usable:
        _pair_up(usable, labels_of, ids, lines, settled, config)
    settled.verdicts = _named_apart(settled.verdicts)
    _row_words(rows, settled)
    return settled


def rating_labels(rated: Sequence[CandidateEntry], rule: RatingRule) -> dict[int, int]:
    """The labels of a prompt's rated candidates by number; 0 is the middle."""
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
            dispreferred = False  # without a margin the threshold itself is preferred
        if preferred != dispreferred:
            labels[no] = 1 if preferred else -1
        else:
            # The threshold itself is preferred, as without a margin; a score on the median lies on neither side.
            above = score >= border if rule.threshold is not None else score > border
            labels[no] = above - (score < border) if rule.middle == "keep" else 0
    return labels


def _untied(one: CandidateEntry, config: PrepareConfig) -> CandidateEntry:
    return replace(one, label=1 if config.ties == "both_preferred" else -1) if one.label == 0 else one


def _once(single: Iterable[CandidateEntry], labels: dict[int, int], settled: Settled) -> list[CandidateEntry]:
    """The candidates with a label, each text and label once."""
    seen: set[tuple[str, int]] = set()
    found = []
    for one in single:
        label = labels[one.no]
        if label == 0:
            settled.candidates[one.no] = "middle"
        elif (one.text, label) in seen:
            settled.candidates[one.no] = "duplicate"
        else:
            seen.add((one.text, label))
            found.append(one)
    return found


def _chosen(
    found: list[CandidateEntry], labels: dict[int, int], settled: Settled, config: PrepareConfig
) -> list[CandidateEntry]:
    """What `min_reward_gap`, `keep` and the limits leave of a prompt's candidates."""
    sides = {sign: [one for one in found if labels[one.no] == sign] for sign in (1, -1)}
    scores = [one.score for one in found if one.score is not None]
    if config.min_reward_gap and (not scores or max(scores) - min(scores) < config.min_reward_gap):
        settled.candidates |= {one.no: "reward_gap" for one in found}
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
            settled.candidates |= {one.no: "no_contrast" for one in found}
            return []
    limits = {1: config.max_preferred, -1: config.max_dispreferred}
    within = {one.no for sign, side in kept.items() for one in side[: limits[sign]]}
    settled.candidates |= {one.no: "over_limit" for one in found if one.no not in within}
    return [one for one in found if one.no in within]


def _pair_up(
    usable: list[CandidateEntry],
    labels: dict[int, int],
    ids: dict[int, str],
    said: Container[tuple[str, str]],
    settled: Settled,
    config: PrepareConfig,
) -> None:
    """Pairs among candidates that came without a partner: the best with the worst, or every preferred with every dispreferred; those
    that rows have `said` themselves, as (chosen, rejected), are not made again."""
    preferred = [one for one in usable if labels[one.no] > 0]
    dispreferred = [one for one in usable if labels[one.no] < 0]
    if not preferred or not dispreferred:
        detail = f"{len(preferred)} preferred and {len(dispreferred)} dispreferred completions"
        settled.rows |= {one.row: ("no_pair", detail) for one in usable}
        return
    if config.pairing == "best_worst":
        best = max(preferred, key=lambda one: one.score or 0.0)
        worst = min(dispreferred, key=lambda one: one.score or 0.0)
        settled.candidates |= {one.no: "unpaired" for one in usable if one.no not in (best.no, worst.no)}
        preferred, dispreferred = [best], [worst]
    for chosen in preferred:
        for rejected in dispreferred:
            if (chosen.text, rejected.text) in said:
                continue
            name = f"{ids[chosen.row]}/{chosen.position}>{ids[rejected.row]}/{rejected.position}"
            settled.verdicts.append(Verdict(chosen.no, rejected.no, 1, chosen.row, name))
    used = {no for one in settled.verdicts for no in (one.first, one.second)}
    settled.candidates |= {one.no: "duplicate" for one in (*preferred, *dispreferred) if one.no not in used}


def _named_apart(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts with different names. Rows of one prompt may share an id, as a `prompt_id` is shared: the first keeps its name, so
    that where all differ nothing changes, and later ones are numbered."""
    seen: Counter[str] = Counter()
    found = []
    for one in verdicts:
        found.append(replace(one, name=f"{one.name}#{seen[one.name]}") if seen[one.name] else one)
        seen[one.name] += 1
    return found


def _row_words(rows: Sequence[RowEntry], settled: Settled) -> None:
    """A row none of whose completions is in a verdict has a word of its own."""
    used = {no for one in settled.verdicts for no in (one.first, one.second)}
    for row in rows:
        if row.no in settled.rows or any(one.no in used for one in row.candidates):
            continue
        words = {settled.candidates.get(one.no, one.outcome) for one in row.candidates}
        # These are said of all of a prompt's completions that were left, whatever became of the others.
        of_prompt = words & {"reward_gap", "no_contrast"}
        word = (of_prompt or words).pop() if of_prompt or len(words) == 1 else ""
        if row.listed and word not in NOT_LOST:
            settled.rows[row.no] = ("no_completion", "every completion was left out")
        else:
            settled.rows[row.no] = (word or "no_completion", "")
            if not row.listed:
                for one in row.candidates:
                    settled.candidates.pop(one.no, None)
