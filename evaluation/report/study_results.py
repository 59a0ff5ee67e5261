"""A study's results: a row for each setting with its columns over the seeds, and what the page says of them.

They are found once, at the end of the sweep, and lie in its folder as `study.json`, from which the page is written: no run and no artifact
is needed for it any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evaluation.crossed import CrossedMean, seeds_interval
from evaluation.records import read_json, replacing
from evaluation.report.answer import Answer
from evaluation.report.study_facts import COLUMNS, Column, Made, StudyFacts, delta_column
from evaluation.report.study_pairs import Candidate, study_pairs
from evaluation.report.study_tests import Comparison, Figures, compare, tested_columns
from evaluation.report.study_words import Reading, reading, study_answer
from evaluation.report.sweep_charts import Shift, shifts_of
from evaluation.report.sweep_results import LIMITS, Row, SweepResults, find_results
from evaluation.report.swept import VARIANT, FailedRun, SweepFacts, SweptRun
from evaluation.report.training_figures import training_figures
from evaluation.statistics import Interval

STUDY_FILE = "study.json"
_PERCENT = {"eval_accuracy"}
_SEED = "seed"


@dataclass(frozen=True)
class Cell:
    """A mean over `num_seeds` seeds with its 95 % interval, where there is one; of trainings in several rounds it may be one of the last
    round alone.
    """

    mean: float
    ci: Interval | None
    num_seeds: int
    is_of_last_round: bool = False


@dataclass(frozen=True)
class StudyRow:
    """A setting.

    Attributes:
        title: its objective, or where several settings have it or variants have names, all settings in words.
        settings: its value on each axis but the seed.
        num_seeds: how many runs it was to have.
        num_collapsed, num_cancelled, num_failed: those without a result: whose training collapsed, that somebody cancelled, and that failed
            otherwise.
        cells: by the column's key. What isn't there is missing.
    """

    title: str
    settings: Mapping[str, object]
    num_seeds: int
    num_collapsed: int
    num_failed: int
    cells: Mapping[str, Cell]
    num_cancelled: int = 0


@dataclass(frozen=True)
class StudyResults:
    """All that the page says.

    Attributes:
        axis: the axis of numbers that the figure is drawn over; None where settings have names.
        answer: what the sweep's page says first: where BNF loses.
        failed: the runs without a result; those of settings that were not chosen are among them.
        shifts: the likelihood of both sides over training, for a study that asks for `chosen_shift`.
        comparisons: of settings in the columns that the study tests.
        made_of: what decides all this beside the runs: digests of the study's file with its base and settings, and of the code.
    """

    study: StudyFacts
    sweep: str
    axis: str | None
    columns: Sequence[Column]
    rows: Sequence[StudyRow]
    comparisons: Sequence[Comparison]
    answer: Answer
    reading: Reading
    notes: Sequence[str]
    failed: Sequence[FailedRun]
    shifts: Sequence[Shift]
    made: Made
    made_of: str

    def write(self, folder: Path) -> None:
        """Write study.json into the sweep's folder, replaced as a whole."""
        from pydantic import TypeAdapter

        with replacing(folder / STUDY_FILE) as partial:
            partial.write_bytes(TypeAdapter(StudyResults).dump_json(self, indent=1))

    @classmethod
    def read(cls, folder: Path) -> StudyResults | None:
        """The results in a sweep's folder; None where there are none that this version can read: they are found anew by the sweep."""
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(StudyResults).validate_json((folder / STUDY_FILE).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    @staticmethod
    def made_of_in(folder: Path) -> str | None:
        """What the results in a sweep's folder are made of, be they of another version; None where there are none."""
        try:
            found = read_json(folder / STUDY_FILE).get("made_of")
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, str) else None


def find_study(runs: Sequence[SweptRun], sweep: SweepFacts, study: StudyFacts, made: Made, made_of: str) -> StudyResults:
    """The results of a study's sweep.

    Raises:
        ValueError: where a file of a run is ill-formed.
    """
    found = find_results(runs, sweep)
    settings = _settings(runs, sweep)
    objectives = [_objective(one) for one in settings.values()]
    by_name = {row.setting.name: row for row in found.rows}
    titles = {
        name: objective if objective is not None and objectives.count(objective) == 1 and VARIANT not in sweep.axes else name
        for name, objective in zip(settings, objectives, strict=True)
    }
    done = {name: [run for run in those if isinstance(run, SweptRun)] for name, those in settings.items()}
    figures = {run.run: _figures(run) for those in done.values() for run in those}
    rows = [_row(titles[name], those, by_name.get(name), figures) for name, those in settings.items()]
    shifts = []
    if "chosen_shift" in study.columns:
        shifts = [shift for name, those in done.items() if (shift := shifts_of(titles[name] + _of_round(those), those))]
    tests = tested_columns(study, found.scores)
    candidates = [Candidate(name, those[0].objective, those[0].settings) for name, those in settings.items()]
    comparisons = compare(study_pairs(candidates, sweep, study.compare), done, titles, tests, found.scores, figures)
    # The family is the page's own.
    found = replace(found, num_compared=sum(one.found is not None and one.found.p_holm is not None for one in comparisons))
    seeds = {titles[name]: len(those) for name, those in done.items() if those}
    return StudyResults(
        study=study,
        sweep=sweep.name,
        axis=_axis(sweep),
        columns=list(_columns(study, found)),
        rows=rows,
        comparisons=comparisons,
        answer=study_answer(comparisons, tests, found, sweep, seeds),
        reading=reading(comparisons, tests, found),
        notes=found.scores.notes,
        failed=sweep.failed,
        shifts=shifts,
        made=made,
        made_of=made_of,
    )


_Runs = Sequence[SweptRun | FailedRun]


def _settings(runs: Sequence[SweptRun], sweep: SweepFacts) -> dict[str, list[SweptRun | FailedRun]]:
    """The runs of each setting that was chosen, those without a result too, in the order of the sweep's file."""
    known = {run.run for run in runs}
    every: list[SweptRun | FailedRun] = [*runs, *(run for run in sweep.failed if run.run not in known)]
    every.sort(key=lambda run: [_place(run.settings.get(key), values) for key, values in sweep.axes.items() if key != _SEED])
    found: dict[str, list[SweptRun | FailedRun]] = {}
    for run in every:
        if run.is_chosen:
            found.setdefault(run.name, []).append(run)
    return found


def _place(value: object, values: Sequence[object]) -> int:
    return values.index(value) if value in values else len(values)


def _objective(runs: _Runs) -> str | None:
    return runs[0].objective


def _axis(sweep: SweepFacts) -> str | None:
    """The axis of numbers with most values."""
    numeric = {
        key: len(values)
        for key, values in sweep.axes.items()
        if key != _SEED
        and key not in sweep.over
        and len(values) > 1
        and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    }
    return max(numeric, key=numeric.__getitem__, default=None)


def _columns(study: StudyFacts, found: SweepResults) -> Iterator[Column]:
    for name in study.columns:
        if name == "delta":
            yield from (delta_column(benchmark, label) for benchmark, label in found.scores.labels.items())
        else:
            yield from COLUMNS[name]


def _of_round(runs: Sequence[SweptRun]) -> str:
    return " (the last round)" if any("chosen_shift" in run.of_last_round for run in runs) else ""


def _row(title: str, runs: _Runs, row: Row | None, figures: Figures) -> StudyRow:
    done = [run for run in runs if isinstance(run, SweptRun)]
    collapsed = sum(isinstance(run, FailedRun) and run.is_collapsed for run in runs)
    cells = dict(_of_trainings(done, figures))
    if row is not None:
        crossed = {"gain": row.gain, "tax": row.tax, "tokens": row.length}
        crossed |= {delta_column(name, "").key: tested.of for name, tested in row.by_benchmark.items()}
        cells |= {key: _crossed(mean) for key, mean in crossed.items() if mean is not None}
    trained = sum(run.train is not None for run in done) + collapsed
    if trained:
        cells["collapsed"] = Cell(100 * collapsed / trained, None, trained)
    settings = {key: value for key, value in runs[0].settings.items() if key != _SEED}
    cancelled = sum(isinstance(run, FailedRun) and run.is_cancelled for run in runs)
    return StudyRow(title, settings, len(runs), collapsed, len(runs) - len(done) - collapsed - cancelled, cells, cancelled)


def _crossed(found: CrossedMean) -> Cell:
    return Cell(found.mean, found.ci, found.num_seeds)


def _figures(run: SweptRun) -> dict[str, float]:
    """What a run's training and its dev set have once. `tokens` is of the benchmarks' completions, and so is none of it."""
    found = {**training_figures(run), **run.dev}
    return {key: (100.0 if key in _PERCENT else 1.0) * value for key, value in found.items() if key != "tokens"}


def _of_trainings(runs: Sequence[SweptRun], figures: Figures) -> Iterator[tuple[str, Cell]]:
    """Over the seeds that have it."""
    of_runs = [figures[run.run] for run in runs]
    for key in dict.fromkeys(key for one in of_runs for key in one):
        values, factor = [one[key] for one in of_runs if key in one], 100.0 if key in _PERCENT else 1.0
        ci = seeds_interval(values, *(factor * end for end in LIMITS.get(key, ())))
        yield key, Cell(sum(values) / len(values), ci, len(values), any(key in run.of_last_round for run in runs))
