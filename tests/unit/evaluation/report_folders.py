"""Folders as the stages before the report leave them, small enough to compute every number by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.report.inputs import ReportInputs

OUTCOMES = {"+": "correct", "-": "wrong", "0": "no_answer"}


def write_lines(path: Path, records: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_object(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def scored(
    folder: Path,
    outcomes: str,
    *,
    texts: dict[str, str] | None = None,
    source: str = "hub",
    n_expected: int | None = None,
    n_benchmark: int | None = None,
    first_id: int = 0,
    contents: Sequence[str] | None = None,
    scorer: str = "3",
) -> tuple[Path, Path]:
    """The folders of a score and a generate stage; an outcome per character: + correct, - wrong, 0 no answer (cut off).

    Items are called i0, i1, …, and ask what is called so too, or `contents`; `texts` replaces some completions.
    """
    n, expected = len(outcomes), n_expected or len(outcomes)
    ids = [f"i{first_id + index}" for index in range(n)]
    completions = [(texts or {}).get(id, f"completion of {id}") for id in ids]
    shared = [
        {"id": id, "completion": text, "finish_reason": "length" if mark == "0" else "stop", "num_completion_tokens": 10}
        for id, text, mark in zip(ids, completions, outcomes, strict=True)
    ]
    verdicts = [
        {
            "outcome": OUTCOMES[mark],
            "answer": None if mark == "0" else "42",
            "rule": "json",
            "metrics": {},
            "content": content,
        }
        for mark, content in zip(outcomes, contents or ids, strict=True)
    ]
    write_lines(folder / "score" / "scores.jsonl", [{**a, **b} for a, b in zip(shared, verdicts, strict=True)])
    right, none = outcomes.count("+"), outcomes.count("0")
    write_object(
        folder / "score" / "summary.json",
        {
            "benchmark": folder.name,
            "title": "A benchmark",
            "source": source,
            "n": n,
            "n_expected": expected,
            "n_benchmark": n_benchmark or expected,
            "missing": expected - n,
            "partial": n < expected,
            "accuracy": 100 * right / expected,
            "accuracy_of_present": 100 * right / n,
            "accuracy_of_parsed": 100 * right / (n - none) if n > none else None,
            "no_answer": 100 * none / expected,
            "truncated": 100 * none / n,
            "mean_completion_tokens": 10.0,
            "ci": [1.0, 99.0],
            "scorer": scorer,
        },
    )
    write_lines(folder / "generate" / "completions.jsonl", [{**record, "prompt": "a prompt"} for record in shared])
    write_lines(folder / "generate" / "items.jsonl", [{"id": id, "question": f"question {id}", "answer": "42"} for id in ids])
    return folder / "score", folder / "generate"


def judged(folder: Path, verdicts: Sequence[tuple[str | None, str | None]], *, demonstration: bool = True) -> Path:
    """The folder of a judge stage: per question the verdict with the baseline first, and with the candidate first."""
    from bnf.plugins import load
    from evaluation.judging.aggregates.judgment import Judgment
    from evaluation.judging.protocols import PROTOCOLS
    from evaluation.judging.results import summarize_judgments

    games = [
        {"question_id": f"q{index}", "candidate": "aligned", "game": game, "verdict": verdict, "letter_mass": None}
        for index, both in enumerate(verdicts)
        for game, verdict in enumerate(both, start=1)
    ]
    write_lines(folder / "games.jsonl", games)
    results = summarize_judgments(
        load(PROTOCOLS, "pairwise"),
        list(map(Judgment.from_json, games)),
        ["aligned"],
        [{"id": str(n)} for n in range(len(verdicts))],
        "both",
        demonstration,
    )
    cost = {"num_requests": 4, "num_prompt_tokens": 400, "num_completion_tokens": 40, "usd": 0.01}
    summary = {"judge": "a-judge", "baseline": "base", "form": "pairwise", "orders": "both", "demonstration": demonstration}
    write_object(
        folder / "summary.json", {**summary, **results, "source": "sample", "deviations": ["judge a-judge"], "cost": cost}
    )
    return folder


def trained(folder: Path) -> Path:
    steps = [
        {"step": step, "loss": 1 / step, "grad_norm": 2.0, "rewards/chosen": 0.1 * step, "rewards/rejected": -0.1 * step}
        for step in (1, 2, 3, 4)
    ]
    write_lines(folder / "metrics.jsonl", [*steps, {"step": 4, "train_runtime": 1.0}])
    summary = {"steps": 4, "seconds": 12.0, "tokens_per_second": 100.0, "groups_per_step": 2.0, "peak_memory_gb": 1.5}
    rates = {"first": 5e-6, "highest": 2e-5, "last": 1e-7, "warmup_steps": 2}
    write_object(folder / "train_summary.json", {**summary, "learning_rates": rates})
    return folder


def analyzed(folder: Path, labels: Sequence[str] = ("preferred", "dispreferred")) -> Path:
    """The folder of an analyze stage: preferred completions rose by half a nat per token, dispreferred ones fell by one."""
    shifts: dict[str, Any] = {"preferred": {"completions": 0, "tokens": 0}, "dispreferred": {"completions": 0, "tokens": 0}}
    for name in labels:
        before, after = (-1.25, -0.75) if name == "preferred" else (-1.5, -2.5)
        token = {"context": "<b>the\n", "token": f"\u202e{name}", "reference_logp": before, "policy_logp": after}
        quantiles = {"0.05": after - before - 1, "0.5": after - before, "0.95": after - before + 1}
        shifts[name] = {
            "completions": 4,
            "tokens": 8,
            "logps_per_token": {"reference": before, "policy": after},
            "logps_sum": {"reference": 2 * before, "policy": 2 * after},
            "shift_quantiles": quantiles,
            "share_of_tokens_down": 0.375,
            "shift_histogram": {"edges": [-1.0, 0.0, 1.0], "counts": [1, 2, 4, 1]},
            "policy_entropy": 0.5,
            "largest_rises": [token],
            "largest_falls": [token],
        }
    write_object(folder / "shifts.json", shifts)
    return folder


def prepared(folder: Path) -> Path:
    lengths = {"min": 1, "p10": 1, "median": 2, "p90": 3, "max": 4, "mean": 2.0}
    write_object(
        folder / "ledger.json",
        {
            "source": "labelled.jsonl",
            "num_rows": 10,
            "rows": {"kept": 8, "too_long": 2},
            "completions_left_out": {"duplicate": 3},
            "dropped_share": 0.2,
            "num_groups": 8,
            "num_pairs": 0,
            "num_preferred": 9,
            "num_dispreferred": 7,
            "prompt_length": lengths,
            "completion_length": lengths,
            "group_length": {},
            "num_contradictions": 3,
            "num_flipped": 2,
            "num_still_there": 4,
            "groups_by_labels": {"both": 6, "preferred_only": 2, "dispreferred_only": 0},
            "languages": {"en": 7, "zh": 1},
            "histograms": {
                "prompt_length": {"edges": [0, 16, 32, 64], "counts": [0, 5, 3]},
                "preferred_length": {"edges": [0, 16, 32, 64], "counts": [9, 0, 0]},
                "dispreferred_length": {"edges": [0, 16, 32, 64], "counts": [0, 7, 0]},
                "prompt_share": {"edges": [0.0, 0.5, 1.0], "counts": [4, 4]},
            },
        },
    )
    return folder


def searched(folder: Path, benchmark: str, *, exact: int, overlapping: int) -> Path:
    """The folder of a contamination stage."""
    counts = {"num_exact": exact, "num_overlapping": overlapping, "num_groups": exact + overlapping}
    write_object(
        folder / "contamination.json",
        {"benchmark": benchmark, "num_items": 20, "num_items_compared": 19, "ngram_words": 13, **counts},
    )
    return folder


def inputs(folder: Path, benchmarks: dict[str, dict[str, tuple[Path, Path]]], **more: Any) -> ReportInputs:
    """What the report stage collects; `benchmarks` has what `scored` gives, by benchmark and model."""
    models = {model for by_model in benchmarks.values() for model in by_model}
    recipe = {
        "name": "a-run",
        "model_name_or_path": "models/a-model",
        "seed": 0,
        "evaluation": {"engine": "vllm", "benchmarks": dict.fromkeys(benchmarks)},
        "judge": {"benchmarks": {"arena_hard": {"source": "sample"}}},
    }
    stage = {"stage": "resolve", "model": "base", "benchmark": None, "key": "k" * 32, "fingerprint": "f" * 32}
    collected: dict[str, Any] = {
        "name": "a-run",
        "recipe": recipe,
        "models": {model: f"models/{model}" for model in sorted(models)},
        "digests": {model: "d" * 64 for model in sorted(models)},
        "scores": {name: {model: pair[0] for model, pair in by_model.items()} for name, by_model in benchmarks.items()},
        "generations": {name: {model: pair[1] for model, pair in by_model.items()} for name, by_model in benchmarks.items()},
        "stages": [{**stage, "seconds": 2.5, "other_code": []}],
        "versions": {"torch": "2.13.0"},
        "machine": {"cpu": "a cpu", "cores": 2},
    }
    return ReportInputs(**(collected | more))
