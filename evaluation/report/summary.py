"""What a run found, as one JSON object: the alignment tax with its intervals, the judges, training, times and contents.

The table and the notes that terminal, report and Prefect show are made from it here, so that they say the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from evaluation.formats import NONE, difference, interval, number, p_value
from evaluation.paired import compare_scores, correct_and_judge, has_samples, holm_p, read_scores
from evaluation.records import Record, read_json, read_records
from evaluation.report.checkpoints import kept_note, summarize_checkpoints
from evaluation.report.ches import scored_by, summarize_ches
from evaluation.report.dev_set import read_dev
from evaluation.report.inputs import MODELS, ReportInputs
from evaluation.report.judged import add_agreement, judge_entry, judge_notes
from evaluation.report.lm_eval import cross_check_of, room_notes, room_of, tasks_of
from evaluation.report.rounds import summarize_rounds
from evaluation.report.samples import at_k_rows, compare_at_k, num_samples_of, sampling_note

# The values that a training takes from a cache: what they are, the figure that says whether they fit, and what it computed otherwise.
_CACHED = {
    "reference": ("The cached reference was", "weight", "one of its own"),
    "old": ("The cached log-probabilities of the policy that sampled were", "ratio", "them itself"),
    "base": ("The cached log-probabilities of the base model were", "ratio", "them itself"),
}


def summarize(inputs: ReportInputs) -> Record:
    """The content of summary.json; rates and differences in percent, unrounded.

    Raises:
        ValueError: where a stage's file is ill-formed.
    """
    benchmarks = {name: _benchmark(folders) for name, folders in inputs.scores.items()}
    correct_and_judge([entry for entry in benchmarks.values() if "delta" in entry])
    for name, folders in inputs.cross_checks.items():
        for model, folder in folders.items():
            benchmarks[name][model]["cross_check"] = cross_check_of(folder)
    train = _train(inputs.train)
    judges = {name: judge_entry(folder) for name, folder in inputs.judges.items()}
    add_agreement(judges, inputs.judges)
    summary = {
        "name": inputs.name,
        "models": {role: {"model": model, "digest": inputs.digests.get(role)} for role, model in inputs.models.items()},
        "alignment_tax": [_tax_row(name, entry) for name, entry in benchmarks.items() if "delta" in entry],
        "benchmarks": benchmarks,
        "judges": judges,
        "lm_eval": tasks_of(inputs.lm_eval),
        "lm_eval_room": room_of(inputs.lm_eval),
        "train": train,
        "checkpoints": summarize_checkpoints(inputs, train),
        "rounds": summarize_rounds(inputs.rounds),
        "shifts": read_json(inputs.shifts / "shifts.json") if inputs.shifts else None,
        "data": read_json(inputs.data / "ledger.json") if inputs.data else None,
        "ches": summarize_ches(
            inputs.reference, inputs.data, inputs.shifts, scored_by(inputs.recipe, len(inputs.rounds) or None)
        ),
        "contamination": {name: read_json(folder / "contamination.json") for name, folder in inputs.contamination.items()},
        "stages": list(inputs.stages),
        "seconds": sum(stage["seconds"] for stage in inputs.stages),
        "versions": dict(inputs.versions),
        "machine": inputs.machine,
        "recipe": inputs.recipe,
    }
    return {key: _finite(value) for key, value in summary.items()}


def label(name: str, entry: Record) -> str:
    """A benchmark's name as it is shown everywhere: `gsm8k (sample)` is never taken for GSM8K."""
    source = entry.get("source")
    if source in (None, "hub", "own"):
        return name
    return f"{name} (sample)" if source == "sample" else f"{name} (own file)"


def table_rows(summary: Record) -> list[dict[str, str]]:
    """The table of results: one row per benchmark, every row with the same columns, all as text. Rates in percent."""
    compared = any("delta" in entry for entry in summary["benchmarks"].values())
    return [_compared_row(name, entry) if compared else _row(name, entry) for name, entry in summary["benchmarks"].items()]


def shown_names(summary: Record) -> dict[str, str]:
    """Each benchmark's name as `label` gives it."""
    return {name: label(name, entry) for name, entry in summary["benchmarks"].items()}


def sample_rows(summary: Record) -> list[dict[str, str]]:
    """The table of pass@k and maj@k: empty where no benchmark has several samples of an item."""
    return at_k_rows(summary, shown_names(summary))


def notes(summary: Record) -> list[str]:
    """What has to be read with the table."""
    entries = summary["benchmarks"]
    compared = any("delta" in entry for entry in entries.values())
    found = []
    if entries:
        found.append(
            "Intervals are 95 % and cover the choice of items only: this is one run with one seed, and a claim about an objective "
            "needs several."
        )
    if compared:
        found.append(
            "Noise: the paired interval holds 0, the exact test's p after Holm's correction is 0.05 or more, or the difference is "
            "below one point (served elsewhere, the same weights flip that many items)."
        )
    found += [text for name, entry in entries.items() if (text := sampling_note(label(name, entry), entry)) is not None]
    if any(entry["source"] == "sample" for entry in entries.values()):
        found.append(
            "(sample): items that this project generated in the benchmark's format; not the benchmark, and not comparable with "
            "published figures."
        )
    found += [text for name, entry in entries.items() for text in _incomplete(name, entry)]
    found += [text for text in (_cut_off(summary),) if text is not None]
    found += [text for name, entry in entries.items() if (text := _beside(name, entry))]
    found += [text for name, entry in entries.items() for text in _cross_checked(name, entry)]
    found += [text for name, entry in entries.items() if (text := _thoughts(label(name, entry), entry)) is not None]
    found += room_notes(summary)
    found += [text for name, entry in summary["judges"].items() for text in judge_notes(label(name, entry), entry)]
    found += [text for name, entry in summary["contamination"].items() if (text := _contaminated(name, entry))]
    trained = summary["train"] or {}
    found += [text for text in (kept_note(trained),) if text is not None]
    found += [text for of in _CACHED if (text := _computed_itself(trained, of)) is not None]
    if (whose := trained.get("step0_check_skipped")) is not None:
        found.append(
            f"The reference is {whose}: the check that policy and reference are equal before the first step doesn't hold, and was skipped."
        )
    found += [
        f"{_task(stage)} was made by other code than today's ({', '.join(stage['other_code'])}) and kept as it was."
        for stage in summary["stages"]
        if stage["other_code"]
    ]
    return found


def _computed_itself(trained: Record, of: str) -> str | None:
    """That training didn't take cached values, and why; None where it did."""
    mean, elsewhere = trained.get(f"{of}_mismatch"), trained.get(f"{of}_made_elsewhere")
    if mean is None and elsewhere is None:
        return None
    named, figure, own = _CACHED[of]
    why = f"made elsewhere: {elsewhere}" if elsewhere else f"mean {figure} {mean:.3f} before the first step, where it is 1"
    return f"{named} not of the arithmetic that trained ({why}): training computed {own}, of the same weights."


def _thoughts(name: str, entry: Record) -> str | None:
    """How much each model thought before its answers; None where none did."""
    said = []
    for model in MODELS:
        thoughts = (entry.get(model) or {}).get("thoughts")
        if thoughts is None:
            continue
        lengths = ""
        if thoughts["mean_thought_tokens"] is not None:
            lengths = (
                f", in the mean {thoughts['mean_thought_tokens']:.0f} tokens and {thoughts['mean_answer_tokens']:.0f} of answer"
            )
        cut = f", and {thoughts['cut']:.1f} % met the limit of thoughts and were ended there" if "cut" in thoughts else ""
        said.append(
            f"{model} in {thoughts['share']:.1f} % of the completions{lengths}; {thoughts['unfinished']:.1f} % end in mid-thought{cut}"
        )
    if not said:
        return None
    return f"{name}: thoughts are not scored, and a completion that ends in mid-thought has no answer. They are there: {'; '.join(said)}."


def _contaminated(name: str, entry: Record) -> str | None:
    matched = entry["num_exact"] + entry["num_overlapping"]
    if not matched:
        return None
    return (
        f"{name}: the training data hold {entry['num_exact']} of its {entry['num_items']} items word for word, and share "
        f"{entry['ngram_words']} words in succession with {entry['num_overlapping']} more; contamination.jsonl names them."
    )


def _task(stage: Record) -> str:
    return "-".join(filter(None, (stage["stage"], stage["model"], stage["benchmark"])))


def _benchmark(folders: Mapping[str, Path]) -> Record:
    """A benchmark's entry: each model's score, and what changed where there are both."""
    summaries = {model: read_json(folder / "summary.json") for model, folder in folders.items()}
    first = next(iter(summaries.values()))
    shared = {"title": first.get("title"), "source": first.get("source"), "n_benchmark": first["n_benchmark"]}
    if set(summaries) != set(MODELS):
        return {**shared, **summaries}
    base, aligned = (read_scores(folders[model]) for model in MODELS)
    changes = {
        f"{rate}_delta": _subtract(summaries["aligned"].get(rate), summaries["base"].get(rate))
        for rate in ("no_answer", "truncated", "mean_completion_tokens", "accuracy_of_parsed")
    }
    numbers = {summary.get("num_samples", 1) for summary in summaries.values()}
    at_k: Record = {}
    if has_samples(base) and has_samples(aligned) and len(numbers) == 1:
        at_k = {"at_k_delta": compare_at_k(base, aligned, numbers.pop())}
    return {**shared, **summaries, **compare_scores(base, aligned), **changes, **at_k}


def _tax_row(name: str, entry: Record) -> Record:
    """What alignment gained and cost on one benchmark; rates in percent, differences in points, lengths in tokens."""
    rates = ("accuracy", "no_answer", "truncated", "mean_completion_tokens", "accuracy_of_parsed")
    row: Record = {"benchmark": label(name, entry)}
    for rate in rates:
        base, aligned = (entry[model].get(rate) for model in MODELS)
        row[rate] = {"base": base, "aligned": aligned, "delta": _subtract(aligned, base)}
    shared = ("delta", "delta_ci", "delta_ci_bootstrap", "mcnemar_p", "mcnemar_p_holm", "flips", "verdict", "n_paired")
    of_shares: Record = {key: entry[key] for key in ("paired_p", "paired_p_holm") if key in entry}
    return {
        **row,
        **{key: entry[key] for key in shared},
        **of_shares,
        **({"num_samples": number} if (number := num_samples_of(entry)) > 1 else {}),
        "n": {model: entry[model]["n"] for model in MODELS},
        "n_expected": {model: entry[model]["n_expected"] for model in MODELS},
        "n_benchmark": entry["n_benchmark"],
    }


def _subtract(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _train(folder: Path | None) -> Record | None:
    """train_summary.json, what was logged of the first and the last step, and every evaluation of the dev set."""
    if folder is None:
        return None
    logged = [record for record in read_records(folder / "metrics.jsonl") if "loss" in record]
    ends = {"first": logged[0], "last": logged[-1]} if logged else {}
    dev = read_dev(folder)
    return {**read_json(folder / "train_summary.json"), **ends, **({"dev": dev} if dev is not None else {})}


def _finite(value: object) -> object:
    """The value with None in place of not-a-number and the infinities, which are no JSON."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _row(name: str, entry: Record) -> dict[str, str]:
    score = next(entry[model] for model in MODELS if model in entry)
    return {
        "benchmark": label(name, entry),
        "accuracy": f"{number(score['accuracy'])} {interval(score['ci'])}".rstrip(),
        "no answer": number(score["no_answer"]),
        "n": _items([score]),
    }


def _compared_row(name: str, entry: Record) -> dict[str, str]:
    base, aligned = (entry.get(model) for model in MODELS)
    return {
        "benchmark": label(name, entry),
        "base": number(base["accuracy"]) if base else NONE,
        "aligned": number(aligned["accuracy"]) if aligned else NONE,
        "Δ [95 %]": difference(entry.get("delta"), entry.get("delta_ci")),
        "verdict": entry.get("verdict") or NONE,
        "p (Holm)": p_value(holm_p(entry)),
        "no answer": " → ".join(number(score["no_answer"]) if score else NONE for score in (base, aligned)),
        "n": _items([score for score in (base, aligned) if score]),
    }


def _items(scores: list[Record]) -> str:
    """`128/128`; `425/721` of a partial one; `12/12 of 1319` where the protocol has more than was asked for; `30/30 × 16` of samples."""
    least = min(scores, key=lambda score: int(score["n"]))
    full = "" if least["n_benchmark"] in (None, least["n_expected"]) else f" of {least['n_benchmark']}"
    times = f" × {number}" if (number := least.get("num_samples", 1)) > 1 else ""
    return f"{least['n']}/{least['n_expected']}{full}{times}"


def _incomplete(name: str, entry: Record) -> list[str]:
    found = [
        f"{label(name, entry)}, {model}: partial, {entry[model]['n']}/{entry[model]['n_expected']} items; missing ones count as wrong"
        for model in MODELS
        if model in entry and entry[model]["partial"]
    ]
    if any(entry[model].get("has_published_answers") is False for model in MODELS if model in entry):
        found.append(
            f"{label(name, entry)}: its gold answers are not the published ones, so it is another data set or version of it"
        )
    left_out = next((entry[model].get("left_out") for model in MODELS if model in entry), None)
    if left_out:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in left_out.items())
        found.append(f"{label(name, entry)}: {sum(left_out.values())} of the rows that were read are no items ({reasons})")
    if "delta" in entry and any(entry[model]["n"] != entry["n_paired"] or entry[model]["partial"] for model in MODELS):
        found.append(f"{label(name, entry)}: Δ is over the {entry['n_paired']} items that both models have")
    return found


def _cut_off(summary: Record) -> str | None:
    """How many completions of each benchmark were cut off; None where none were. They may lack an answer that was to come."""
    said = []
    for name, entry in summary["benchmarks"].items():
        rates = [entry[model].get("truncated") for model in MODELS if model in entry]
        if any(rates):
            said.append(f"{label(name, entry)} {' → '.join(map(number, rates))}")
    if not said:
        return None
    limit = (summary["recipe"].get("evaluation") or {}).get("max_new_tokens")
    at = (
        "the benchmark's limit"
        if limit is None
        else f"the lower of evaluation.max_new_tokens ({limit}) and the benchmark's limit"
    )
    return f"Completions that were cut off, at {at} or where the context ends, in percent: {', '.join(said)}."


def _beside(name: str, entry: Record) -> str | None:
    """A benchmark's further metrics, of the base and of the aligned model; None where it has none."""
    metrics = [entry[model].get("metrics", {}) for model in MODELS if model in entry]
    values = {metric: [found.get(metric) for found in metrics] for one in metrics for metric in one}
    if not values:
        return None
    said = (f"{metric} {' → '.join(number(value, 2) for value in found)}" for metric, found in sorted(values.items()))
    return f"{label(name, entry)}: beside the accuracy, in percent, {', '.join(said)}."


def _cross_checked(name: str, entry: Record) -> list[str]:
    found = []
    for model in MODELS:
        checked = entry.get(model, {}).get("cross_check")
        if checked is None:
            continue
        main = checked["main"]
        found.append(
            f"{label(name, entry)}, {model}: {number(entry[model]['accuracy_of_present'], 2)} here, {number(main['value'], 2)} by "
            f"lm-eval's {main['task']} ({main['filter']}, {main['metric']}) on the same completions; they differ on "
            f"{checked['n_disagreements']} of {checked['n']} items."
        )
    return found
