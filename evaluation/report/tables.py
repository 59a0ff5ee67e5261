"""A sweep's results as tidy tables: one row for each run, benchmark and metric. In a notebook:

    from evaluation.report import tables

    results = tables.load("~/.bnf/sweeps/objectives")          # or a list of folders
    gain = results.query("metric == 'delta' and is_target and is_chosen")
    gain.pivot_table(index="objective", columns="train.learning_rate", values="value", aggfunc=["mean", "std", "count"])

Columns: `sweep`, `run`, `name` (the settings in words, without the seed), `objective`, `seed`; a column for each setting, called as its
recipe key; `num_settings` (how many the objective was tuned over), `is_chosen` (on the dev set); `benchmark`, `is_target` (its own
prompts were trained on); `metric`, `value`, `unit`, `ci_low`, `ci_high` (95 %, over items, where there is an interval), `n` (items that
the value is over), `note` (why a value or an interval is missing, and what speaks against a value).

A benchmark's metrics are `accuracy`, `no_answer`, `truncated`, `accuracy_of_parsed` (all in percent) and `mean_completion_tokens` of the
policy, the same of the base model with `base_` before it, and `delta`: points, over the items that both have. Of several samples of each
item the accuracy is avg@k, and there are `pass@1`, `pass@2`, … and `maj@k` too. What a judge judged has the judge's score by its name
and `no_verdict` (`evaluation.report.judged_rows`). The benchmark `dev` has the
figures of the run's dev set, `training` those of its training (`evaluation.report.training_figures`). A training that collapsed has a row
with `collapsed` 1 and nothing else; a run that failed otherwise has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.paired import has_samples, read_scores, share_right
from evaluation.records import Record, read_json, replacing
from evaluation.report.judged_rows import judged_rows
from evaluation.report.swept import RESULTS, FailedRun, SweptRun
from evaluation.report.targets import is_target
from evaluation.report.training_figures import training_figures
from evaluation.samples import interval_around
from evaluation.statistics import paired_interval

if TYPE_CHECKING:
    from pandas import DataFrame

PARQUET, LATEX = "results.parquet", "results.tex"
# A benchmark's metrics with their units, and why there may be no value.
_METRICS = {
    "accuracy": ("percent", "no item was asked"),
    "no_answer": ("percent", "no item was asked"),
    "truncated": ("percent", "no completion says how it ended"),
    "accuracy_of_parsed": ("percent", "no completion has an answer that can be read"),
    "mean_completion_tokens": ("tokens", "no completion says its length"),
}
# The units of figures that a run has once. `loss` and `norm` are on the objective's own scale.
_UNITS = {
    **{
        "eval_accuracy": "share",
        "eval_loss": "loss",
        "loss_std": "loss",
        "gini": "coefficient",
        "kl": "nats",
        "tokens": "tokens",
    },
    **dict.fromkeys(("logps_shift/chosen", "logps_shift/rejected", "chosen_shift", "rejected_shift"), "nats per token"),
    **{"grad_norm": "norm", "grad_norm_max": "norm", "steps": "steps", "seconds": "seconds", "collapsed": "0 or 1"},
}
_FIRST = ("sweep", "run", "name", "objective", "seed")
_LAST = (
    *("num_settings", "is_chosen", "benchmark", "is_target"),
    *("metric", "value", "unit", "ci_low", "ci_high", "n", "note"),
)
# What LaTeX takes for commands in a caption.
_ESCAPES = str.maketrans(
    {
        **{mark: f"\\{mark}" for mark in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)


def load(folders: str | Path | Iterable[str | Path]) -> DataFrame:
    """The results of one sweep's folder, or of several below each other; a setting that a sweep doesn't have is missing there (NA).

    Raises:
        FileNotFoundError: where a folder has no results.
    """
    import pandas

    found = [Path(folders).expanduser()] if isinstance(folders, str | Path) else [Path(one).expanduser() for one in folders]
    if not found:
        raise ValueError("folders must name a sweep's folder or more, got none; give the folder that bnf sweep prints")
    for folder in found:
        if not (folder / PARQUET).is_file():
            raise FileNotFoundError(
                f"folders must be those of sweeps, got {folder} without {PARQUET}; give the folder that bnf sweep prints"
            )
    return pandas.concat([pandas.read_parquet(folder / PARQUET) for folder in found], ignore_index=True)


def results(runs: Sequence[SweptRun], sweep: str, failed: Sequence[FailedRun] = ()) -> DataFrame:
    """The table of a sweep's runs. The runs that were trained only, to be chosen from, have their dev set and training; of
    those that failed the collapsed ones say so.

    Raises:
        ValueError: where a file of a run is ill-formed.
    """
    import pandas

    every: list[SweptRun | FailedRun] = [*runs, *(run for run in failed if run.is_collapsed)]
    keys = list(dict.fromkeys(key for run in every for key in run.settings if key != "seed"))
    rows = []
    for run in every:
        settings = {key: _plain(run.settings.get(key)) for key in keys}
        shared = {"sweep": sweep, "run": run.run, "name": run.name, "objective": run.objective, "seed": run.seed, **settings}
        shared |= {"num_settings": run.num_settings, "is_chosen": run.is_chosen}
        measured = _measured(run) if isinstance(run, SweptRun) else [{"benchmark": "training", **_once("collapsed", 1.0)}]
        rows += [{**shared, **one} for one in measured]
    frame = pandas.DataFrame(rows, columns=[*_FIRST, *keys, *_LAST])
    for key in keys:
        # Parquet has one type for a column: of mixed values, such as numbers and words, it is text.
        if frame[key].map(type).nunique() > 1:
            frame[key] = frame[key].map(lambda value: None if value is None else str(value))
    frame["is_target"] = frame["is_target"].astype("boolean")
    frame["n"] = frame["n"].astype("Int64")
    frame["note"] = frame["note"].astype("string")
    return frame


def write(frame: DataFrame, folder: Path) -> None:
    """results.parquet, results.csv and results.tex (a longtable with booktabs' rules), each replaced as a whole."""
    with replacing(folder / PARQUET) as partial:
        frame.to_parquet(partial, index=False)
    with replacing(folder / RESULTS) as partial:
        frame.to_csv(partial, index=False)
    with replacing(folder / LATEX) as partial:
        partial.write_text(_latex(frame), encoding="utf-8")


def _latex(frame: DataFrame) -> str:
    """The table for paper. What would be a column of yes and no is a mark there, and what would be a column of sentences a letter; both are
    explained in the caption.
    """
    # Columns with one value for all runs would fill the page and say nothing.
    told = [name for name in frame.columns if name in _LAST or frame[name].nunique(dropna=False) > 1]
    shown, caption = frame[told].drop(columns=["is_chosen", "is_target", "note"]), []
    if not frame["is_chosen"].all():
        marked = "name" if "name" in shown else "benchmark"
        shown[marked] = shown[marked].astype(str).where(~frame["is_chosen"].astype(bool), shown[marked].astype(str) + " *")
        caption.append("*: settings that were chosen on the dev set; the others were trained to choose from.")
    if frame["is_target"].any():
        shown["benchmark"] = shown["benchmark"].where(~frame["is_target"].fillna(value=False), shown["benchmark"] + " (target)")
        caption.append("Target: a benchmark whose own prompts were trained on.")
    notes = {note: _letter(number) for number, note in enumerate(frame["note"].dropna().unique())}
    if notes:
        shown["note"] = frame["note"].map(notes)
        caption += [f"{letter}: {note}." for note, letter in notes.items()]
    return str(
        shown.to_latex(
            index=False,
            escape=True,
            float_format="%.4g",
            na_rep="",
            longtable=True,
            caption=" ".join(caption).translate(_ESCAPES) or None,
        )
    )


def _letter(number: int) -> str:
    """a, b, …, z, aa, ab, …"""
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)


def _measured(run: SweptRun) -> Iterator[Record]:
    recipe = read_json(run.folder / "summary.json")["recipe"] if run.scores or run.judges else {}
    for benchmark, models in run.scores.items():
        summaries = {model: read_json(folder / "summary.json") for model, folder in models.items()}
        shared = {"benchmark": benchmark, "is_target": is_target(benchmark, recipe)}
        for model, summary in summaries.items():
            prefix = "" if model == "aligned" else f"{model}_"
            for metric, (unit, why_not) in _METRICS.items():
                if metric not in summary:
                    continue
                value, ci = summary[metric], summary.get("ci") if metric == "accuracy" else None
                n, note = (0, why_not) if value is None else (summary.get("n"), None)
                yield {**shared, **_row(prefix + metric, value, unit, ci, n, note)}
            for metric, found in summary.get("at_k", {}).items():
                yield {**shared, **_row(prefix + metric, found["value"], "percent", found["ci"], summary.get("n"))}
        if {"base", "aligned"} <= models.keys():
            yield {**shared, **_delta(models["base"], models["aligned"])}
    for benchmark, folder in run.judges.items():
        for one in judged_rows(folder):
            yield {"benchmark": benchmark, "is_target": is_target(benchmark.partition("/")[0], recipe), **one}
    for metric, value in run.dev.items():
        yield {"benchmark": "dev", **_once(metric, value)}
    for metric, value in training_figures(run).items():
        yield {"benchmark": "training", **_once(metric, value)}


def _delta(base: Path, aligned: Path) -> Record:
    """As the run's report has it."""
    before, after = read_scores(base), read_scores(aligned)
    items = [item for item in before if item in after]
    if not items:
        return _row("delta", None, "points", None, 0, "no item was answered by both models")
    changes = [share_right(after[item]) - share_right(before[item]) for item in items]
    clusters = [before[item].get("cluster", item) for item in items]
    around = interval_around if has_samples(before) or has_samples(after) else paired_interval
    ci = around(changes, clusters) if len(set(clusters)) > 1 else None
    note = None if ci else "no interval: a single question"
    return _row("delta", 100 * sum(changes) / len(changes), "points", ci, len(changes), note)


def _once(metric: str, value: float) -> Record:
    """A figure that a run has once."""
    return _row(metric, value, _UNITS[metric])


def _row(
    metric: str,
    value: float | None,
    unit: str,
    ci: Sequence[float] | None = None,
    n: int | None = None,
    note: str | None = None,
) -> Record:
    low, high = ci or (None, None)
    return {"metric": metric, "value": value, "unit": unit, "ci_low": low, "ci_high": high, "n": n, "note": note}


def _plain(value: object) -> object:
    """A setting as a cell: a list or a section of the recipe is text."""
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
