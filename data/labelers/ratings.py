"""Ratings: people, or a model outside this pipeline, have rated each completion.

`label.path` names a file (JSON Lines, JSON, CSV, Parquet) of rows with the prompt's `id`, the `completion`'s text and its `rating`.
`bnf run RECIPE --only sample` writes the samples to be rated: samples.jsonl of the sample stage.
"""

from __future__ import annotations

from pathlib import Path

from data.reading.records import Bad, DataSource, Reader
from data.rows import Fields, RowError
from evaluation.records import read_repaired, write_whole
from evaluation.types import Progress

READS_FILE = True

_COLUMNS = {"id": ("id",), "completion": ("completion",), "rating": ("rating",)}


def label(samples_file: Path, output_file: Path, *, path: Path, progress: Progress, **rest: object) -> None:
    """Writes the samples with each completion's rating as its `reward` and the outcome "own_scale": `prepare.ratings` then makes labels.
    A completion without a rating has the outcome "unrated", and prepare leaves it out.

    Raises:
        ValueError: a line of the file has no id, completion or rating, gives a completion another rating than a line before, or rates
            what was not sampled.
    """
    records = read_repaired(samples_file)
    ratings = _read(path)
    for number, record in enumerate(records):
        for completion in record["completions"]:
            reward, _ = ratings.get((record["id"], completion["text"]), (None, 0))
            completion["reward"] = reward
            completion["outcome"] = "unrated" if reward is None else "own_scale"
        if number % 256 == 0:
            progress(number, len(records), "")
    sampled = {(record["id"], completion["text"]) for record in records for completion in record["completions"]}
    for (id, text), (_, line) in ratings.items():
        if (id, text) not in sampled:
            raise ValueError(
                f"label.path must rate this run's samples, got {text[:40]!r} of {id} on line {line} of {path}, which is none of them; "
                "rate the sample stage's samples.jsonl"
            )
    write_whole(output_file, records)
    progress(len(records), len(records), "")


def _read(path: Path) -> dict[tuple[str, str], tuple[float, int]]:
    """(prompt's id, completion) → (rating, line)."""
    ratings: dict[tuple[str, str], tuple[float, int]] = {}
    for raw in Reader(DataSource("ratings", str(path))):
        value = raw.parsed()
        try:
            if isinstance(value, Bad):
                raise RowError(value.reason, value.detail)
            fields = Fields(value, _COLUMNS)
            key, rating = (str(fields.need("id")), fields.text("completion")), fields.number("rating")
        except RowError as error:
            raise ValueError(
                f"label.path must hold ratings, got line {raw.where} of {path}: {error}; correct the line"
            ) from error
        if ratings.get(key, (rating, 0))[0] != rating:
            raise ValueError(
                f"label.path must rate a completion once, got {ratings[key][0]:g} on line {ratings[key][1]} and {rating:g} on line "
                f"{raw.line} of {path} for {key[1][:40]!r} of {key[0]}; keep one"
            )
        ratings[key] = (rating, raw.line)
    return ratings
