"""The runs of a home as `bnf runs` lists them: what each trained, what it changed, and what came out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypedDict, TypeVar, cast

from evaluation.fields import is_number
from evaluation.formats import number, signed
from evaluation.records import Record, read_json
from evaluation.report.inputs import MODELS
from evaluation.report.judged_rows import metric_of
from evaluation.report.targets import is_target
from flows.errors import RecipeError
from flows.runs.naming import changes
from flows.runs.record import Run
from flows.runs.sizes import run_sizes

T = TypeVar("T")


class Headline(TypedDict):
    """The benchmark that a run's report begins with: a target of its training, else the first one. Where no benchmark was scored by a rule,
    the first of lm-eval's tasks, or else of those that a judge scored.

    `metric` is `accuracy`, which is in percent, its difference in points; else lm-eval's or the judge's own, on its own scale. A model
    that was not evaluated has None. `verdict` is the comparison's; of a judge that shows nothing `demonstration` or `untrusted`.
    """

    benchmark: str
    metric: str
    base: float | None
    aligned: float | None
    delta: float | None
    verdict: str | None


class ListedRun(TypedDict):
    """A run as `bnf runs --json` lists it.

    `bytes_of_its_own` are the artifacts that no other run names: what `bnf rm` frees. `seconds` are from its start to its end. `repeats` is
    the run of which it is a repeat: all of its tasks were cached, and it names the same artifacts. `sweep` is the sweep that began it.
    """

    run: str
    state: str
    started: str
    ended: str | None
    seconds: float | None
    recipe: str
    sweep: str | None
    objective: str | None
    model: str | None
    changed: dict[str, object]
    headline: Headline | None
    dev_accuracy: float | None
    tasks: int
    bytes: int
    bytes_of_its_own: int
    repeats: str | None


def list_runs(runs: Sequence[Run], sweeps: Mapping[str, str] | None = None) -> list[ListedRun]:
    """The runs, in the order given, which is newest first. A recipe or summary that can't be read leaves its columns empty.

    Args:
        sweeps: the sweep of each run that one began, by the run's id.
    """
    sizes, repeats, sweeps = run_sizes(runs), _repeats(runs), sweeps or {}
    return [_listed(run, sizes[run.id].artifacts, sizes[run.id].own, repeats.get(run.id), sweeps.get(run.id)) for run in runs]


def _listed(run: Run, size: int, own: int, repeats: str | None, sweep: str | None) -> ListedRun:
    summary = _summary(run)
    recipe, (headline, share) = _recipe(run, summary), _results(summary)
    train, model = recipe.get("train"), recipe.get("model_name_or_path")
    started, ended = run.record.started, run.record.ended
    took_s = (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds() if ended else None
    return {
        "run": run.id,
        "state": run.state,
        "started": started,
        "ended": ended,
        # Unknown where the clock was set back meanwhile.
        "seconds": None if took_s is None or took_s < 0 else took_s,
        "recipe": run.record.recipe,
        "sweep": sweep,
        "objective": str(train.get("objective", "bnf")) if isinstance(train, dict) else None,
        "model": model.rstrip("/").rsplit("/", 1)[-1] if isinstance(model, str) else None,
        "changed": {key: value for key, value in run.record.changed.items() if key != "name"},
        "headline": headline,
        "dev_accuracy": None if share is None else 100 * share,
        "tasks": len(run.record.tasks),
        "bytes": size,
        "bytes_of_its_own": own,
        "repeats": repeats,
    }


def _summary(run: Run) -> Record:
    try:
        return read_json(run.folder / "summary.json")
    except (OSError, ValueError):
        return {}


def _recipe(run: Run, summary: Record) -> Mapping[str, object]:
    """The recipe as the run's report shows it. Where it has none, as it was written down: to read YAML takes a hundred times as long."""
    shown = summary.get("recipe")
    if isinstance(shown, dict) and isinstance(shown.get("model_name_or_path"), str):
        return shown
    try:
        return run.written_recipe
    except (OSError, RecipeError):
        return {}


def _results(summary: Record) -> tuple[Headline | None, float | None]:
    """The headline, and the dev accuracy as a share; None what isn't there, or where no run wrote the summary so."""
    return _where_so(_headline, summary), _where_so(_dev_accuracy, summary)


def _where_so(read: Callable[[Record], T], summary: Record) -> T | None:
    try:
        return read(summary)
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return None


def _dev_accuracy(summary: Record) -> float | None:
    """That of the policy: of the step that `keep_best` took, or else of the last one."""
    dev = (summary.get("train") or {}).get("dev") or {}
    evaluations = dev.get("evaluations") or [{}]
    of_kept = (entry for entry in evaluations if "kept" in dev and entry["step"] == dev["kept"])
    return _figure(next(of_kept, evaluations[-1]).get("eval_rewards/accuracies"))


def _headline(summary: Record) -> Headline | None:
    return _of_benchmarks(summary) or _of_lm_eval(summary.get("lm_eval", {})) or _of_judges(summary.get("judges", {}))


def _of_benchmarks(summary: Record) -> Headline | None:
    benchmarks = summary.get("benchmarks", {})
    compared = (name for name, entry in benchmarks.items() if entry.get("delta") is not None)
    target = next((name for name in compared if is_target(name, summary.get("recipe", {}))), None)
    for name in [target] if target is not None else list(benchmarks)[:1]:
        entry = benchmarks[name]
        base, aligned = ((entry.get(model) or {}).get("accuracy") for model in MODELS)
        return _made(name, "accuracy", base, aligned, entry.get("delta"), entry.get("verdict"))
    return None


def _of_lm_eval(by_name: Record) -> Headline | None:
    for name, tasks in by_name.items():
        # Where a group of tasks was asked for, its tasks are there under their own names.
        task = name if name in tasks else next(iter(tasks), None)
        for metric, entry in tasks.get(task, {}).items():
            base, aligned = ((entry.get(model) or {}).get("value") for model in MODELS)
            return _made(str(task), metric, base, aligned, entry.get("delta"), None)
    return None


def _of_judges(by_name: Record) -> Headline | None:
    for name, entry in by_name.items():
        metric, models = metric_of(entry), entry["models"]
        base, aligned = (models.get(model, {}).get(metric.key) for model in MODELS)
        trusted = all(one["trusted"] for one in models.values())
        verdict = "demonstration" if entry["demonstration"] else None if trusted else "untrusted"
        return _made(name, metric.words, base, aligned, entry.get("delta"), verdict)
    return None


def _made(benchmark: str, metric: str, base: object, aligned: object, delta: object, verdict: str | None) -> Headline:
    return {
        "benchmark": benchmark,
        "metric": metric,
        "base": _figure(base),
        "aligned": _figure(aligned),
        "delta": _figure(delta),
        "verdict": verdict,
    }


def _figure(value: object) -> float | None:
    """Raises TypeError where a value is neither a number nor nothing."""
    if value is not None and not is_number(value):
        raise TypeError(f"a figure must be a number, got {value!r}")
    return cast(float | None, value)


def _repeats(runs: Sequence[Run]) -> dict[str, str]:
    """Each run that is a repeat, with the newest run before it that names the same artifacts, or what that one repeats."""
    found: dict[str, str] = {}
    made: dict[frozenset[str], str] = {}
    for run in reversed(runs):
        names = frozenset(artifact.path.name for artifact in run.artifacts.values() if artifact.stage != "report")
        is_cached = all(task.cached for name, task in run.record.tasks.items() if task.artifact.stage != "report")
        if run.state == "completed" and names:
            if is_cached and names in made:
                found[run.id] = made[names]
            else:
                made[names] = run.id
    return found


def _result(headline: Headline | None) -> float | None:
    """What the result is sorted by: the difference, or of one model alone its accuracy."""
    if headline is None:
        return None
    return headline["base"] if headline["delta"] is None else headline["delta"]


# Verdicts that a result is not read without.
_SAID = ("noise", "demonstration", "untrusted")

# The columns that may be sorted by, the greatest first.
SORTS: Mapping[str, Callable[[ListedRun], float | None]] = {
    "age": lambda run: datetime.fromisoformat(run["started"]).timestamp(),
    "took": lambda run: run["seconds"],
    "result": lambda run: _result(run["headline"]),
    "dev": lambda run: run["dev_accuracy"],
    "size": lambda run: run["bytes_of_its_own"],
}
FILTERS = ("run", "state", "recipe", "sweep", "objective", "model", "changed")


def chosen(rows: Sequence[ListedRun], filters: Sequence[str], sort: str) -> list[ListedRun]:
    """The runs that all filters (`column=text`) fit, sorted by a column; those without a value in it come last.

    Raises:
        RecipeError: an unknown column.
    """
    if sort not in SORTS:
        raise RecipeError(f"--sort must be one of {', '.join(SORTS)}, got {sort!r}; name one of them")
    found = list(rows)
    for one in filters:
        column, equals, text = one.partition("=")
        if not equals or column not in FILTERS:
            raise RecipeError(
                f"--filter must be COLUMN=TEXT with a column among {', '.join(FILTERS)}, got {one!r}; write e.g. state=completed"
            )
        found = [row for row in found if text.lower() in _text(row, column).lower()]
    values = {row["run"]: SORTS[sort](row) for row in found}
    with_value = [(value, row) for row in found if (value := values[row["run"]]) is not None]
    ordered = sorted(with_value, key=lambda one: one[0], reverse=True)
    return [row for _, row in ordered] + [row for row in found if values[row["run"]] is None]


def _text(row: ListedRun, column: str) -> str:
    return changes(row["changed"]) if column == "changed" else str(row[column] or "")  # type: ignore[literal-required]


def fold(rows: Sequence[ListedRun]) -> list[tuple[ListedRun, list[str]]]:
    """The rows without repeats of others among them, and the repeats that each stands for. A run at work is never folded."""
    names = {row["run"] for row in rows}
    repeats = {row["run"]: [one["run"] for one in rows if one["repeats"] == row["run"]] for row in rows}
    return [(row, repeats[row["run"]]) for row in rows if row["repeats"] not in names]


def headline_text(headline: Headline | None) -> str:
    """`gsm8k 25.8 → 76.6 (+50.8)`, with `noise` where that is the verdict; of one model alone `gsm8k 25.8`. What is no accuracy has the
    name of its metric: `hellaswag acc,none 0.4512 → 0.4620 (+0.0108)`.
    """
    if headline is None:
        return ""
    is_accuracy, digits = headline["metric"] == "accuracy", 4 if "," in headline["metric"] else 1
    known = [number(value, digits) for value in (headline["base"], headline["aligned"]) if value is not None]
    said = [] if headline["delta"] is None else [signed(headline["delta"], digits)]
    said += [headline["verdict"]] if headline["verdict"] in _SAID else []
    words = [headline["benchmark"], *([] if is_accuracy else [headline["metric"]]), " → ".join(known)]
    return " ".join([*filter(None, words), *([f"({', '.join(said)})"] if said else [])])
