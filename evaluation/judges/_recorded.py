"""Recorded judgments in the formats in which they are published, and in our own: readers that give one kind of record.

Arena-Hard v0.1 (https://github.com/lmarena/arena-hard-auto): `model_judgment/<judge>/<model>.jsonl`, a line per question with two
games. WildBench v2 (https://github.com/allenai/WildBench): `eval_results/…/<model>.json`, one list of scores or of comparisons. Our
own: a judge stage's games.jsonl. All of them plain or gzipped.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation._records import Record
from evaluation.judges._pairwise_score import VERDICTS
from evaluation.judges._replies import rating
from evaluation.judges._style import style
from evaluation.judges._wildbench_score import compared_output_facts, output_facts

_GZIP_MAGIC = b"\x1f\x8b"
_ARENA_BASELINE = "gpt-4-0314"
_WILDBENCH_REFERENCES = ("gpt-4-turbo-2024-04-09", "claude-3-haiku-20240307", "Llama-2-70b-chat")
_WILDBENCH_CHOICES = {("A", 2): "A>>B", ("A", 1): "A>B", ("B", 1): "B>A", ("B", 2): "B>>A"}
_ANSWERS = re.compile(
    r"<\|The Start of Assistant A's Answer\|>\n(.*)\n<\|The End of Assistant A's Answer\|>"
    r".*<\|The Start of Assistant B's Answer\|>\n(.*)\n<\|The End of Assistant B's Answer\|>",
    re.DOTALL,
)


@dataclass
class Judgments:
    """What one judge said of one model in one form: `pairwise`, `checklist_score` or `checklist_pairwise`."""

    model: str
    judge: str | None
    form: str
    baseline: str | None
    records: list[Record] = field(default_factory=list)
    num_repeated: int = 0


def read_judgments(benchmark: str, path: Path, file_format: str | None = None) -> list[Judgments]:
    """The judgments of a file, by model, judge and baseline.

    A question that is there again replaces what was there before: files are appended to when a judge is asked again.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is none of the formats; the message names file and record.
    """
    rows = _read(path)
    found: dict[tuple[str, str | None, str, str | None], dict[tuple[str, int], Record]] = {}
    repeated: dict[tuple[str, str | None, str, str | None], int] = {}
    reference = _reference(rows, path) if benchmark == "wildbench" and _is_comparison(rows[0]) else None
    for number, row in enumerate(rows):

        def error(rule: str, got: object, number: int = number) -> ValueError:
            return ValueError(
                f"{path} must {rule}, got {str(got)[:200]} in record {number + 1}; give a file of {benchmark}'s judgments"
            )

        if not isinstance(row, dict):
            raise error("hold one object per record", type(row).__name__)
        native = "verdict" in row and "form" in row
        if file_format not in (None, "native" if native else "upstream"):
            raise error(f"be in the format {file_format}", "native" if native else "upstream")
        if native:
            key, games = _native(row, benchmark, error)
        elif benchmark == "arena_hard":
            key, games = _arena(row, error)
        elif _is_comparison(row):
            key, games = _comparison(row, reference, path, error)
        else:
            key, games = _score(row, path, error)
        known = found.setdefault(key, {})
        repeated.setdefault(key, 0)
        again = [game for game in games if (game["question_id"], game["game"]) in known]
        repeated[key] += bool(again)
        if again and not native:
            for place in [place for place in known if place[0] == games[0]["question_id"]]:
                del known[place]
        known.update({(game["question_id"], game["game"]): game for game in games})
    return [Judgments(*key, list(games.values()), repeated[key]) for key, games in found.items()]


_Key = tuple[str, str | None, str, str | None]
_Error = Callable[[str, object], ValueError]


def _native(row: dict[str, Any], benchmark: str, error: _Error) -> tuple[_Key, list[Record]]:
    forms = {"arena_hard": ("pairwise",), "wildbench": ("checklist_score", "checklist_pairwise")}[benchmark]
    missing = [name for name in ("question_id", "game", "candidate", "judge") if name not in row]
    if missing or row["form"] not in forms:
        raise error(f"hold games of the form {' or '.join(forms)}", f"form {row['form']!r}, without {missing}")
    if row["form"] != "checklist_score" and row["verdict"] not in (None, *VERDICTS):
        raise error(f"have a verdict among {', '.join(VERDICTS)} or null", row["verdict"])
    score = {"score": row["verdict"]} if row["form"] == "checklist_score" else {}
    return (row["candidate"], row["judge"], row["form"], row.get("baseline")), [{**row, **score}]


def _arena(row: dict[str, Any], error: _Error) -> tuple[_Key, list[Record]]:
    question = row.get("question_id", row.get("uid"))
    if not isinstance(question, str | int):
        raise error("have a question_id", repr(question))
    if not isinstance(row.get("model"), str):
        raise error("have a model", repr(row.get("model")))
    games = row.get("games")
    if not isinstance(games, list) or len(games) > 2:
        raise error("have one or two games", repr(games))
    records = []
    for number, game in enumerate(games, start=1):
        if game is None:
            continue
        if not isinstance(game, dict) or not isinstance(game.get("score"), str | None):
            raise error("have games with a score that is a label or null", repr(game))
        label = game.get("score")
        record: Record = {
            "question_id": str(question),
            "game": number,
            # The protocol knows five labels; another one is no verdict.
            "verdict": label if label in VERDICTS else None,
        }
        records.append(record | _arena_styles(game, number))
    return (row["model"], row.get("judge"), "pairwise", _ARENA_BASELINE), records


def _arena_styles(game: dict[str, Any], number: int) -> Record:
    """The style of both answers, which stand in the judge's prompt."""
    prompt = game.get("user_prompt", game.get("prompt"))
    found = _ANSWERS.search(prompt) if isinstance(prompt, str) else None
    if found is None:
        return {}
    sides = ("baseline_style", "candidate_style") if number == 1 else ("candidate_style", "baseline_style")
    return {side: style(text) for side, text in zip(sides, found.groups(), strict=True)}


def _score(row: dict[str, Any], path: Path, error: _Error) -> tuple[_Key, list[Record]]:
    parsed = row.get("parsed_result")
    score = row.get("score", parsed.get("score") if isinstance(parsed, dict) else None)
    model = row.get("model_test", row.get("generator"))
    if not isinstance(row.get("session_id"), str) or not isinstance(model, str):
        raise error("have a session_id and a model_test", list(row))
    output = row.get("model_output")
    text = output[0] if isinstance(output, list) and output else output
    if not isinstance(text, str):
        raise error("have a model_output", repr(output))
    record = {"question_id": row["session_id"], "game": 1, "score": rating(score), "output": output_facts(text)}
    return (model, _judge_of(path, model), "checklist_score", None), [record]


def _is_comparison(row: object) -> bool:
    return isinstance(row, dict) and "model_A" in row and "model_B" in row


def _comparison(row: dict[str, Any], reference: str | None, path: Path, error: _Error) -> tuple[_Key, list[Record]]:
    models, outputs = (row["model_A"], row["model_B"]), row.get("model_outputs")
    if not isinstance(row.get("session_id"), str):
        raise error("have a session_id", repr(row.get("session_id")))
    if reference not in models or models[0] == models[1]:
        raise error(f"compare a model with the reference {reference}", models)
    if not isinstance(outputs, dict) or not all(isinstance(outputs.get(model), str) for model in models):
        raise error("have both model_outputs", outputs if outputs is None else list(outputs))
    candidate = next(model for model in models if model != reference)
    winner, extent = row.get("winner"), row.get("extent")
    if winner in models:
        verdict = _WILDBENCH_CHOICES.get(("A" if winner == models[0] else "B", extent if isinstance(extent, int) else 0))
    else:
        verdict = "A=B" if winner == "tie" else None
    record = {
        "question_id": row["session_id"],
        "game": 1 if models[0] == reference else 2,
        "verdict": verdict,
        "output": compared_output_facts(outputs[candidate]),
        "baseline_output": compared_output_facts(outputs[reference]),
    }
    return (candidate, _judge_of(path, candidate), "checklist_pairwise", reference), [record]


def _reference(rows: list[Any], path: Path) -> str:
    """Which of the two models is the reference: the records don't say. The path's `ref=…` does, the published references, the name.

    Raises:
        ValueError: where none of them tells.
    """
    compared = [row[side] for row in rows if _is_comparison(row) for side in ("model_A", "model_B")]
    models = sorted({name for name in compared if isinstance(name, str)})
    named = re.findall(r"ref=([^/]+)", str(path))
    by_path = [model for model in models if named and named[-1].startswith(_last(model))]
    published = [model for model in models if any(reference in model for reference in _WILDBENCH_REFERENCES)]
    by_name = [model for model in models if len(models) == 2 and not _is_named(path, model)]
    # One name can be the beginning of another (gpt-4, gpt-4-turbo): the longest is meant.
    for found in (sorted(by_path, key=len)[-1:], published, by_name):
        if len(found) == 1:
            return found[0]
    raise ValueError(
        f"{path} must tell which model is the reference, got {', '.join(models[:4]) or 'no models'}; put the file into a folder "
        "called ref=<reference>, as upstream does"
    )


def _is_named(path: Path, model: str) -> bool:
    return re.search(rf"(?:^|\.){re.escape(_last(model))}(?:\.|$)", path.name) is not None


def _last(model: str) -> str:
    return model.rsplit("/", 1)[-1]


def _judge_of(path: Path, model: str) -> str | None:
    """The judge of a WildBench file: upstream names it in the path alone, as a folder `eval=…` or in front of the model's name."""
    found = re.findall(r"eval=([^/]+)", str(path))
    if not found:
        return None
    name = re.sub(r"\.json(\.gz)?$", "", found[-1]).split(".ref=")[0]
    return str(name.removesuffix("." + _last(model)))


def _read(path: Path) -> list[Any]:
    """The records of a JSON list or of JSON Lines, plain or gzipped."""
    data = path.read_bytes()
    try:
        text = (gzip.decompress(data) if data.startswith(_GZIP_MAGIC) else data).decode("utf-8")
        if text.lstrip()[:1] == "[":
            rows = json.loads(text)
        else:
            rows = []
            for number, line in enumerate(text.split("\n"), start=1):
                if line.strip():
                    rows.append(_parse_line(line, path, number))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} must be JSON, got {error.msg.lower()} on line {error.lineno}; give a file of judgments"
        ) from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"{path} must be JSON, plain or gzipped, got {type(error).__name__}: {error}; give another file"
        ) from error
    if not rows:
        raise ValueError(f"{path} must hold judgments, got none; give another file")
    return list(rows)


def _parse_line(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} must hold a JSON object per line, got {line[:60]!r} on line {number}; correct or remove it"
        ) from error
