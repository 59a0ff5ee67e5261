"""The answer of a report in one sentence: what did the alignment gain, what did it cost, and can it be believed?

It is made from the numbers of summary.json alone, and says as much as they show: a change within noise is no gain and no proof that
nothing was lost, a sample is not its benchmark, and one training is one training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.formats import interval, number, p_value, signed
from evaluation.paired import holm_p
from evaluation.records import Record
from evaluation.report.inputs import MODELS
from evaluation.report.summary import label
from evaluation.report.targets import is_target

_MOST_NAMES = 3
# The share of dev samples by which those that don't end must have grown for a policy to have unlearned to end.
_MANY_ENDLESS = 0.1
# Points by which the share without an answer must have moved for the gain to be called partly one of format.
_FORMAT_POINTS = 5


@dataclass(frozen=True)
class Point:
    """One of the three questions, and its answer in a few sentences."""

    question: str
    sentences: Sequence[str]


@dataclass(frozen=True)
class Answer:
    """The headline, the count of verdicts where models were compared (verdict, words), and the questions with their answers."""

    sentence: str
    verdicts: Sequence[tuple[str, str]]
    points: Sequence[Point]


@dataclass(frozen=True)
class _Compared:
    """A benchmark that both models answered; `target` says what it is to the training: `the target`, `a target` of several, or nothing."""

    name: str
    entry: Record
    target: str

    @property
    def verdict(self) -> str:
        return str(self.entry["verdict"])

    @property
    def delta(self) -> float:
        return float(self.entry["delta"])

    @property
    def points(self) -> str:
        """`3.0 points [−2.0, +8.0]`, without the difference's sign."""
        return f"{number(abs(self.delta))} points {interval(self.entry['delta_ci'], with_sign=True)}".rstrip()

    @property
    def rates(self) -> str:
        return " → ".join(number(self.entry[model]["accuracy"]) for model in MODELS) + " %"

    @property
    def line(self) -> str:
        """The rates and the difference as a sentence."""
        return f"{self.name}: {self.rates}, {_moved(self)}{f' ({self.target})' if self.target else ''}."


def answer(summary: Record) -> Answer:
    """The answer that a run's summary gives."""
    entries = {name: entry for name, entry in summary["benchmarks"].items() if entry.get("delta") is not None}
    targets = [name for name in entries if is_target(name, summary["recipe"])]
    target = "the target" if len(targets) == 1 else "a target"
    compared = [_Compared(label(name, entry), entry, target if name in targets else "") for name, entry in entries.items()]
    if not compared:
        return Answer(_nothing_compared(summary), (), _points(("Can I believe it?", _doubts(summary, []))))
    kinds = {kind: [one for one in compared if one.verdict == kind] for kind in ("gain", "loss", "noise")}
    words = {"gain": "gained", "loss": "lost", "noise": "within noise"}
    return Answer(
        _sentence(compared),
        [(kind if kinds[kind] else "none", f"{len(kinds[kind])} {words[kind]}") for kind in kinds],
        _points(
            ("What did it gain?", _gained(kinds["gain"])),
            ("What did it cost?", [*_cost(kinds), *_judged(summary)]),
            ("Can I believe it?", [*_trust(kinds), *_doubts(summary, compared)]),
        ),
    )


def _points(*found: tuple[str, list[str]]) -> list[Point]:
    return [Point(question, sentences) for question, sentences in found if sentences]


def _sentence(compared: Sequence[_Compared]) -> str:
    # Of several, such as `math` and `math_l5` of the source `math`, the first.
    aimed = next((one for one in compared if one.target), None)
    others = [one for one in compared if one is not aimed]
    if all(one.verdict == "noise" for one in compared):
        most = max(compared, key=lambda one: abs(one.delta))
        if len(compared) == 1:
            return f"The change on {most.name} can't be told from noise: {_moved(most)}."
        return f"No change on {len(compared)} benchmarks can be told from noise; the largest is {_moved(most)} on {most.name}."
    first = (
        _on_target(aimed)
        if aimed
        else _listed([one for one in others if one.verdict == "gain"], "gained") or "It gained nothing"
    )
    losses = [one for one in others if one.verdict == "loss"]
    gains = [one for one in others if one.verdict == "gain"] if aimed else []
    quiet = [one for one in others if one.verdict == "noise"]
    rest = [part for part in (_listed(gains, "it also gained"), _listed(losses, "it lost")) if part]
    if quiet and not losses:
        which = f"the other {len(quiet)} show" if len(quiet) > 1 else f"{quiet[0].name} shows"
        rest.append(f"{which} no change beyond noise" + _room(quiet))
    return _capital("; ".join([first, *rest])) + "."


def _on_target(one: _Compared) -> str:
    if one.verdict == "noise":
        return f"on its target, {one.name}, no change can be told from noise ({_moved(one)})"
    verb = "gained" if one.verdict == "gain" else "lost"
    return f"the model {verb} {one.points} on its target, {one.name} ({one.rates})"


def _listed(found: Sequence[_Compared], verb: str) -> str | None:
    if not found:
        return None
    ordered = sorted(found, key=lambda one: -abs(one.delta))
    named = [f"{one.points} on {one.name}" for one in ordered[:_MOST_NAMES]]
    more = len(found) - len(named)
    subject = "" if verb.startswith("it") else "the model "
    return f"{subject}{verb} {_and(named)}" + (f", and on {more} more" if more else "")


def _room(quiet: Sequence[_Compared]) -> str:
    """Which loss the intervals of these still allow; empty where that is little."""
    low = [one.entry["delta_ci"][0] for one in quiet if one.entry["delta_ci"]]
    return f", where a loss of up to {number(-min(low), 0)} points could hide" if low and min(low) <= -1.5 else ""


def _moved(one: _Compared) -> str:
    return f"{signed(one.delta)} points {interval(one.entry['delta_ci'], with_sign=True)}".rstrip()


def _gained(gains: Sequence[_Compared]) -> list[str]:
    if not gains:
        return ["No benchmark shows a gain."]
    return [*(one.line for one in gains), *(text for one in gains if (text := _format_share(one)))]


def _format_share(one: _Compared) -> str | None:
    """How far the gain is one of giving an answer at all."""
    before, after = (one.entry[model].get("no_answer") for model in MODELS)
    if before is None or after is None or before - after < _FORMAT_POINTS:
        return None
    parsed = [one.entry[model].get("accuracy_of_parsed") for model in MODELS]
    among = f"; among answers that could be read {' → '.join(map(number, parsed))} %" if None not in parsed else ""
    return f"Part of {one.name}'s gain is format: no answer {number(before)} → {number(after)} %{among}."


def _cost(kinds: Record) -> list[str]:
    found = [one.line for one in kinds["loss"]]
    quiet = kinds["noise"]
    if not quiet:
        return found or ["No benchmark shows a loss."]
    widest = min(quiet, key=lambda one: one.entry["delta_ci"][0] if one.entry["delta_ci"] else 0.0)
    low = widest.entry["delta_ci"][0] if widest.entry["delta_ci"] else None
    names = _and([one.name for one in quiet[:_MOST_NAMES]]) + (
        f" and {len(quiet) - _MOST_NAMES} more" if quiet[_MOST_NAMES:] else ""
    )
    verb = "is" if len(quiet) == 1 else "are"
    allowed = (
        f": the interval of {widest.name} still allows a loss of {number(-low)} points" if low is not None and low < 0 else ""
    )
    return [*(found or ["No loss is shown."]), f"{names} {verb} within noise, which is no proof of no loss{allowed}."]


def _judged(summary: Record) -> list[str]:
    """What judges say of both models, where they may be trusted."""
    found = []
    for name, entry in summary["judges"].items():
        if entry["demonstration"] or entry.get("delta") is None or not all(one["trusted"] for one in entry["models"].values()):
            continue
        shown = f"{signed(entry['delta'])} {interval(entry['delta_ci'], with_sign=True)}".rstrip()
        found.append(f"Judged by {entry['judge']} on {label(name, entry)}: aligned minus base {shown}.")
    return found


def _trust(kinds: Record) -> list[str]:
    told = [*kinds["gain"], *kinds["loss"]]
    if not told:
        return ["Nothing is shown that one could believe: every change is within noise."]
    weakest = max(holm_p(one.entry) or 0.0 for one in told)
    which = "The change is" if len(told) == 1 else f"The {len(told)} changes are"
    return [f"{which} more than the choice of items explains (p {_p(weakest)} after Holm's correction)."]


def _p(p: float) -> str:
    shown = p_value(p)
    return shown.replace("<", "< ") if shown.startswith("<") else f"= {shown}"


def _doubts(summary: Record, compared: Sequence[_Compared]) -> list[str]:
    """What stands against taking the numbers as they are."""
    found = []
    if compared and summary["recipe"].get("train"):
        found.append("It is one training with one seed: another seed gives another policy, and no interval here covers that.")
    entries = {label(name, entry): entry for name, entry in summary["benchmarks"].items()}
    samples = [name for name, entry in entries.items() if entry.get("source") == "sample"]
    if samples:
        named = _and([name.removesuffix(" (sample)") for name in samples])
        what = (
            "is a sample: items of the project's own, and not the benchmark"
            if len(samples) == 1
            else ("are samples: items of the project's own, and not these benchmarks")
        )
        found.append(f"{named} {what}.")
    for name, entry in entries.items():
        score = next(entry[model] for model in reversed(MODELS) if model in entry)
        if entry.get("source") != "sample" and entry["n_benchmark"] not in (None, score["n_expected"]):
            found.append(f"{name}: {score['n_expected']} of the benchmark's {entry['n_benchmark']} items.")
        if any(entry[model]["partial"] for model in MODELS if model in entry):
            found.append(f"{name} is partial: missing items count as wrong.")
    found += _endless(summary)
    for name, entry in summary["contamination"].items():
        if matched := entry["num_exact"] + entry["num_overlapping"]:
            found.append(f"{name}: the training data hold, or overlap with, {matched} of its {entry['num_items']} items.")
    for name, entry in summary["judges"].items():
        if entry["demonstration"]:
            found.append(f"The judge of {label(name, entry)} is a demonstration: its verdicts mean nothing.")
        elif not all(one["trusted"] for one in entry["models"].values()):
            found.append(f"The judge of {label(name, entry)} is not to be trusted.")
    return found


def _endless(summary: Record) -> list[str]:
    """Where many more samples of the dev prompts don't end than did before the training."""
    dev = (summary["train"] or {}).get("dev") or {}
    before, after = ((dev.get(when) or {}).get("eval_samples/unterminated") for when in ("before", "after"))
    if before is None or after is None or after - before < _MANY_ENDLESS:
        return []
    return [
        f"Of the policy's {dev['after']['eval_samples/number']} dev samples {number(100 * after)} % don't end, and "
        f"{number(100 * before)} % before the training."
    ]


def _nothing_compared(summary: Record) -> str:
    scored = [
        (label(name, entry), next(entry[model] for model in MODELS if model in entry))
        for name, entry in summary["benchmarks"].items()
    ]
    if scored:
        shown = [f"{number(score['accuracy'])} % {interval(score['ci'])} on {name}" for name, score in scored[:_MOST_NAMES]]
        more = f", and {len(scored) - _MOST_NAMES} benchmarks more" if scored[_MOST_NAMES:] else ""
        return f"The model scores {_and(shown)}{more}; there is no second model to compare it with."
    found = []
    if summary["judges"]:
        judged = _and([f"{label(name, entry)} by {entry['judge']}" for name, entry in summary["judges"].items()])
        found.append(f"The answers were judged: {judged}.")
    if summary["lm_eval"]:
        found.append(f"The models answered tasks of lm-eval: {_and(list(summary['lm_eval']))}.")
    if found:
        return " ".join([*found, "No benchmark was scored."])
    if summary["train"]:
        return "The policy is trained; nothing was evaluated, so nothing is known of its gain or its cost."
    return "Nothing was evaluated."


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
