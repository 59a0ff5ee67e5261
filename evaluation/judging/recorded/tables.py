"""Recorded judgments' results as tables of text, none of them wider than a terminal of 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from evaluation.formats import NONE, interval, number, signed
from evaluation.judging.recorded.arena import V01
from evaluation.records import Record

_WIDTH = 100
# Where a longer name or figure goes on in the next row.
_WIDTHS = {"model": 34, "judge": 24, "judges": 18, "same, %": 10, "κ": 14, "as published": 14}

Table = tuple[str, list[dict[str, str]]]


def judgment_rows(result: Record) -> list[Table]:
    """Tables as (title, rows): scores, what they rest on, lengths, agreement, and notes on what speaks against them."""
    entries = [*result["models"].items(), *result["together"].items()]
    parts = [part for name, found in entries for part in _parts(name, found)]
    row = _win_rate_row if result["benchmark"] == "arena_hard" else _wildbench_row
    scores: dict[str, list[dict[str, str]]] = {}
    for part in parts:
        scores.setdefault(_heading(str(result["benchmark"]), part[2]), []).append(row(*part))
    tables = [
        *scores.items(),
        ("what the scores rest on", [_basis_row(*part) for part in parts]),
        ("lengths", [_length_row(*part) for part in parts if _lengths(part[2])]),
        ("WB-Reward by length margin", [_margin_row(*part) for part in parts if part[2].get("wb_reward_by_margin")]),
        ("agreement of judges", [_agreement_row(entry) for entry in result["agreement"]]),
    ]
    said = [note for name, found in entries for note in _notes(name, found)]
    said += [note for entry in result["agreement"] for note in _agreement_notes(entry)]
    said += _unpaired(result)
    notes = [line for note in said for line in _wrapped(note)]
    filled = [(title, [line for row in rows for line in _folded(row)]) for title, rows in tables if rows]
    return [*filled, *([("", [{"notes": line} for line in notes])] if notes else [])]


def _heading(benchmark: str, found: Record) -> str:
    """The title of a score's table: scores on other questions, or against another baseline, have a table of their own."""
    heading = benchmark.replace("_", "-")
    if found.get("version", "v0.1") != "v0.1":
        heading += f" {found['version']}, {found['category']}"
        return f"{heading}, against {found['baseline']}" + (", judges together" if found.get("judges") else "")
    if found.get("published_baseline") not in (None, found.get("baseline")):
        return f"{heading}, against {found['baseline']}"
    return heading


def _parts(name: str, found: Record) -> Iterator[tuple[str, str, Record]]:
    """(model, what is measured, its result). A WildBench entry has several: each score by itself, before them the mean over references."""
    if "score" in found:
        yield name, "score", found
    if "wb_score" in found:
        yield name, "WB-Score", found.get("checklist_score", found)
    if "wb_reward" in found:
        references = found["references"]
        if len(references) > 1:
            yield name, "WB-Reward", _rewards_alone(found)
        for reference, part in references.items():
            yield (f"· {reference}" if len(references) > 1 else name), "WB-Reward", part


def _rewards_alone(found: Record) -> Record:
    """An entry's mean reward with the counts of the comparisons alone: the entry's own may be those of a WB-Score."""
    parts = list(found["references"].values())
    return {
        **found,
        "judge": parts[0]["judge"],
        "ci_clustered": found["wb_reward_ci"],
        **{key: sum(part[key] for part in parts) for key in ("n_games", "n_null")},
        "n_questions": min(part["n_questions"] for part in parts),
        "partial": any(part["partial"] for part in parts),
        "trusted": all(part["trusted"] for part in parts),
    }


def _win_rate_row(name: str, label: str, found: Record) -> dict[str, str]:
    return {
        "model": name,
        "score": number(found["score"], 2),
        "95 % by question": interval(found["ci_clustered"], 2) or NONE,
        **(_by_game(found) if "as_published" not in found else {"as published": _as_published(found["as_published"])}),
        "style": number((found.get("style_controlled") or {}).get("score"), 2),
        "trusted": _trusted(found),
    }


def _by_game(found: Record) -> dict[str, str]:
    return {"95 % by game": interval(found["ci"], 2) or NONE}


def _as_published(published: Record | None) -> str:
    return NONE if published is None else _with_interval(published["score"], published["ci"], 1, 1)


def _wildbench_row(name: str, label: str, found: Record) -> dict[str, str]:
    key = "wb_score" if label == "WB-Score" else "wb_reward"
    return {
        "model": name,
        "": label,
        "score": number(found[key], 2),
        "95 % by question": interval(found["ci_clustered"], 2) or NONE,
        "by task": number(found[f"{key}_macro"], 2),
        "trusted": _trusted(found),
    }


def _trusted(found: Record) -> str:
    return ("yes" if found["trusted"] else "no") + (", partial" if found["partial"] else "")


def _basis_row(name: str, label: str, found: Record) -> dict[str, str]:
    return {
        "model": name,
        "judge": str(found["judge"] or NONE),
        "questions": f"{found['n_questions']}/{found['n_expected']}",
        # Without those that are left out for the question's other game, of which a note tells.
        "no verdict": f"{found.get('n_without_verdict', found['n_null'])}/{found['n_games']}",
        "bias": signed(found.get("position_bias"), 2),
    }


def _lengths(found: Record) -> Record | None:
    """Arena-Hard's and WB-Reward's lengths; WB-Score has the candidate's mean alone."""
    if found.get("lengths"):
        return dict(found["lengths"])
    if "wb_score" in found and found.get("mean_characters") is not None:
        return {"unit": "characters", "candidate": {"mean": found["mean_characters"]}}
    return None


def _length_row(name: str, label: str, found: Record) -> dict[str, str]:
    lengths = _lengths(found) or {}
    sides = {side: lengths.get(side, {}) for side in ("candidate", "baseline")}
    longer = lengths.get("longer_won")
    return {
        "model": name,
        "unit": lengths["unit"],
        "mean": number(sides["candidate"].get("mean"), 0),
        "median": number(sides["candidate"].get("median"), 0),
        "baseline": number(sides["baseline"].get("mean"), 0),
        "its median": number(sides["baseline"].get("median"), 0),
        "longer won": NONE if longer is None else f"{number(100 * longer, 0)} %",
    }


def _margin_row(name: str, label: str, found: Record) -> dict[str, str]:
    margins = {"off" if margin == "-1" else margin: value for margin, value in found["wb_reward_by_margin"].items()}
    return {"model": name, **{margin: number(value, 2) for margin, value in margins.items()}}


def _notes(name: str, found: Record) -> Iterator[str]:
    published = found.get("published_baseline")
    if published not in (None, found["baseline"]):
        yield f"{name}: against {found['baseline']} instead of the published {published}"
    for deviation in found.get("deviations", []):
        yield f"{name}: not as published: {deviation}"
    if found["n_unjudged"]:
        yield (
            f"{name}: {found['n_unjudged']} of {found['n_games']} games have an empty or cut answer and tell nothing of the judge; bias "
            "and games without a verdict are of the others"
        )
    by_judge: Mapping[str, int] = found.get("questions_by_judge", {})
    if any(number != found["n_common_questions"] for number in by_judge.values()):
        each = ", ".join(f"{judge} on {number}" for judge, number in by_judge.items())
        common = found["n_common_questions"]
        yield f"{name}: all judges gave a verdict that counts on {common} questions, {each}; the score is of all verdicts"
    yield from _sums(name, found)
    if reasons := found.get("null_reasons"):
        yield f"{name}: without a verdict: {', '.join(f'{count} × {reason}' for reason, count in reasons.items())}"
    if missing := found.get("missing_questions"):
        given = f", of the {found['n_given_questions']} in --questions" if "n_given_questions" in found else ""
        yield f"{name}: {len(missing)} questions have no judgment: {_several(missing)}{given}"
    if "score" in found and found["n_questions"] > found["n_expected"]:
        yield f"{name}: {found['n_questions']} questions where the protocol has {found['n_expected']}"
    if note := (found.get("style_controlled") or {}).get("note"):
        yield f"{name}: style is held equal over {note}"
    if found["n_questions"] == 1:
        yield f"{name}: one question has no interval"
    if not found["trusted"]:
        yield f"{name} is not to be trusted: {found['untrusted_reason']}"
    if found["n_repeated"]:
        how = "every one counts, as in upstream's code" if found["repeated_rows"] == "counted" else "the last one counts"
        yield f"{name}: {found['n_repeated']} × a question that was there before; {how}"
    if found["n_faulty"]:
        yield f"{name}: {found['n_faulty']} × a row with faults, taken as null or missing; the first: {found['first_fault']}"


def _sums(name: str, found: Record) -> Iterator[str]:
    """How Arena-Hard's questions and games add up. Nothing where every game counts and no question is known to be missing."""
    if "n_counted" not in found:
        return
    if found["n_counted"] < found["n_games"] or found.get("missing_questions"):
        expected = max(found["n_expected"], found["n_questions"])
        yield (
            f"{name}: {expected} questions = {found['n_counted_questions']} that count + "
            f"{found['n_questions'] - found['n_counted_questions']} judged without a verdict that counts + "
            f"{expected - found['n_questions']} without a judgment"
        )
        yield (
            f"{name}: {found['n_games']} games = {found['n_counted']} that count + {found['n_left_out']} left out, as the question's "
            f"other game has no verdict + {found['n_without_verdict']} without a verdict"
        )


def _wrapped(note: str) -> list[str]:
    return textwrap.wrap(note, _WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _folded(row: Mapping[str, str]) -> list[dict[str, str]]:
    """The row, with a long name folded into rows below it: a name is never cut, and takes no room from the figures."""
    pieces = {key: textwrap.wrap(value, _WIDTHS[key]) if key in _WIDTHS else [value] for key, value in row.items()}
    height = max(len(lines) for lines in pieces.values())
    return [{key: lines[line] if line < len(lines) else "" for key, lines in pieces.items()} for line in range(height)]


def _agreement_row(entry: Record) -> dict[str, str]:
    judges: Sequence[object] = entry["judges"]
    return {
        "model": _judged(entry),
        "judges": " and ".join(map(str, judges)),
        "games": str(entry["n_games"]),
        "same, %": _with_interval(entry["same_verdict"], entry["same_verdict_ci"], 100, 0),
        "κ": _with_interval(entry["kappa"], entry["kappa_ci"], 1, 2),
        "κ winner": number(entry["kappa_winner"], 2),
    }


def _judged(entry: Record) -> str:
    """The model, with its category in Arena-Hard v2.0, which has two."""
    category = entry["category"]
    return str(entry["model"]) + ("" if category in (None, V01) else f", {category}")


def _with_interval(value: float | None, ci: Sequence[float] | None, scale: float, digits: int) -> str:
    """Where it is folded, the interval stays whole."""
    if value is None:
        return NONE
    between = interval(None if ci is None else [scale * bound for bound in ci], digits).replace(" ", "\N{NO-BREAK SPACE}")
    return f"{number(scale * value, digits)} {between}".strip()


def _unpaired(result: Record) -> list[str]:
    """Where there are several judges, and no two of them judged the same: names that differ would leave that unsaid."""
    by_judge = {str(found["judge"]): name for name, found in result["models"].items()}
    if result["agreement"] or len(by_judge) < 2:
        return []
    judged = ", ".join(f"{judge} judged {name}" for judge, name in by_judge.items())
    return [f"no two judges judged one model against one baseline, so there is no agreement: {judged}; names must be the same"]


def _agreement_notes(entry: Record) -> Iterator[str]:
    """What two judges' agreement is not over."""
    first, second = entry["judges"]
    counts = {
        f"without a verdict by {first}": entry["n_first_null"],
        f"without a verdict by {second}": entry["n_second_null"],
        f"judged by {first} alone": entry["n_first_alone"],
        f"judged by {second} alone": entry["n_second_alone"],
        "of other answers": entry["n_other_answers"],
    }
    left_out = [f"{count} {what}" for what, count in counts.items() if count]
    if left_out:
        yield f"{_judged(entry)}: the agreement of {first} and {second} leaves out games: {', '.join(left_out)}"


def _several(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
