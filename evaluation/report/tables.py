"""A sweep's results as tidy tables: one row for each run, benchmark and metric. In a notebook:

    from evaluation.report import tables

    results = tables.load("~/.bnf/sweeps/objectives")          # or a list of folders
    gain = results.query("metric == 'delta' and is_target and is_chosen")
    gain.pivot_table(index="objective", columns="train.learning_rate", values="value", aggfunc=["mean", "std", "count"])

Columns: `sweep`, `run`, `name` (the settings in words, without the seed), `objective`, `seed`; a column for each setting, called as its
recipe key; `num_settings` (how many the objective was tuned over), `is_chosen` (on the dev set); `benchmark`, `is_target` (its own
prompts were trained on); `metric`, `value`, `ci_low`, `ci_high` (95 %, over items, where there is an interval), `n` (items).

A benchmark's metrics are `accuracy`, `no_answer`, `truncated`, `accuracy_of_parsed` (all in percent) and `mean_completion_tokens` of the
policy, the same of the base model with `base_` before it, and `delta`: points, over the items that both have. Of several samples of each
item the accuracy is avg@k, and there are `pass@1`, `pass@2`, … and `maj@k` too. The benchmark `dev` has the
figures of the run's dev set, `training` those of its training (`evaluation.report.training_figures`). A training that collapsed has a row
with `collapsed` 1 and nothing else; a run that failed otherwise has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.paired import has_samples, read_scores, share_right
from evaluation.records import Record, read_json, replacing
from evaluation.report.swept import RESULTS, FailedRun, SweptRun
from evaluation.report.targets import is_target
from evaluation.report.training_figures import training_figures
from evaluation.samples import interval_around
from evaluation.statistics import paired_interval

if TYPE_CHECKING:
    from pandas import DataFrame

PARQUET, LATEX = "results.parquet", "results.tex"
_METRICS = ("accuracy", "no_answer", "truncated", "accuracy_of_parsed", "mean_completion_tokens")
_FIRST = ("sweep", "run", "name", "objective", "seed")
_LAST = ("num_settings", "is_chosen", "benchmark", "is_target", "metric", "value", "ci_low", "ci_high", "n")


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
        measured = _measured(run) if isinstance(run, SweptRun) else [{"benchmark": "training", **_row("collapsed", 1.0)}]
        rows += [{**shared, **one} for one in measured]
    frame = pandas.DataFrame(rows, columns=[*_FIRST, *keys, *_LAST])
    for key in keys:
        # Parquet has one type for a column: of mixed values, such as numbers and words, it is text.
        if frame[key].map(type).nunique() > 1:
            frame[key] = frame[key].map(lambda value: None if value is None else str(value))
    frame["is_target"] = frame["is_target"].astype("boolean")
    frame["n"] = frame["n"].astype("Int64")
    return frame


def write(frame: DataFrame, folder: Path) -> None:
    """results.parquet, results.csv and results.tex (a longtable with booktabs' rules), each replaced as a whole."""
    with replacing(folder / PARQUET) as partial:
        frame.to_parquet(partial, index=False)
    with replacing(folder / RESULTS) as partial:
        frame.to_csv(partial, index=False)
    with replacing(folder / LATEX) as partial:
        # Columns with one value for all runs would fill the page and say nothing.
        told = [name for name in frame.columns if name in _LAST or frame[name].nunique(dropna=False) > 1]
        shown = frame[told].drop(columns=["is_chosen", "is_target"] if len(frame) else [])
        partial.write_text(shown.to_latex(index=False, escape=True, float_format="%.4g", na_rep="", longtable=True))


def _measured(run: SweptRun) -> Iterator[Record]:
    for benchmark, models in run.scores.items():
        summaries = {model: read_json(folder / "summary.json") for model, folder in models.items()}
        shared = {"benchmark": benchmark, "is_target": is_target(benchmark, read_json(run.folder / "summary.json")["recipe"])}
        for model, summary in summaries.items():
            for metric in _METRICS:
                ci = summary.get("ci") if metric == "accuracy" else None
                name = metric if model == "aligned" else f"{model}_{metric}"
                yield {**shared, **_row(name, summary.get(metric), ci, summary.get("n"))}
            for metric, found in summary.get("at_k", {}).items():
                name = metric if model == "aligned" else f"{model}_{metric}"
                yield {**shared, **_row(name, found["value"], found["ci"], summary.get("n"))}
        if {"base", "aligned"} <= models.keys():
            yield {**shared, **_delta(models["base"], models["aligned"])}
    for metric, value in run.dev.items():
        yield {"benchmark": "dev", **_row(metric, value)}
    for metric, value in training_figures(run).items():
        yield {"benchmark": "training", **_row(metric, value)}


def _delta(base: Path, aligned: Path) -> Record:
    """As the run's report has it."""
    before, after = read_scores(base), read_scores(aligned)
    items = [item for item in before if item in after]
    changes = [share_right(after[item]) - share_right(before[item]) for item in items]
    clusters = [before[item].get("cluster", item) for item in items]
    around = interval_around if has_samples(before) or has_samples(after) else paired_interval
    ci = around(changes, clusters) if len(set(clusters)) > 1 else None
    return _row("delta", 100 * sum(changes) / len(changes) if changes else None, ci, len(changes))


def _row(metric: str, value: float | None, ci: Sequence[float] | None = None, n: int | None = None) -> Record:
    low, high = ci or (None, None)
    return {"metric": metric, "value": value, "ci_low": low, "ci_high": high, "n": n}


def _plain(value: object) -> object:
    """A setting as a cell: a list or a section of the recipe is text."""
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
