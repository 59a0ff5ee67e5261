"""Recorded judgments in the formats in which they are published, and in our own.

Arena-Hard v0.1 and v2.0 (https://github.com/lmarena/arena-hard-auto): `model_judgment/<judge>/<model>.jsonl`, read by
`arena.py`. WildBench v2 (https://github.com/allenai/WildBench): `eval_results/…/<model>.json`, one list of scores or of
comparisons, and what its `eval.py` writes. Our own: a judge stage's games.jsonl. All of them as JSON Lines or a list, plain or gzipped.

As upstream does, every row counts, also one on a question that has been there before; in our own format a later judgment replaces an
earlier one. A row with faults is a judgment without a verdict, or none, and is counted.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from evaluation.judging.aggregates.judgment import Facts, Judgment
from evaluation.judging.aggregates.style_control import FEATURES
from evaluation.judging.aggregates.wildbench import EMPTY, NO_OUTPUT, compared_output_facts, output_facts
from evaluation.judging.aggregates.win_rate import VERDICTS
from evaluation.judging.recorded.arena import V01, arena_row
from evaluation.judging.recorded.names import arena_judge, is_comparison, wildbench_judge, wildbench_reference
from evaluation.judging.recorded.rows import Fault, Key, Read, UnreadableRowError
from evaluation.judging.replies import cut_words, rating
from evaluation.records import UNREADABLE, BadRow, Record, Rows, read_rows, unpacked, unreadable

_WILDBENCH_CHOICES = {"A++": "A>>B", "A+": "A>B", "A=B": "A=B", "tie": "A=B", "B+": "B>A", "B++": "B>>A"}

# Our own judge protocols of Arena-Hard, each with the category of its questions.
_ARENA = {"pairwise": V01, "pairwise_hard_prompt": "hard_prompt", "pairwise_creative_writing": "creative_writing"}
# The outputs that a judgment of our own has, by protocol.
_OUTPUTS: dict[str, tuple[str, ...]] = {"checklist_score": ("output",), "checklist_pairwise": ("output", "baseline_output")}


@dataclass
class Judgments:
    """What one judge said of one model by one protocol: `pairwise`, `checklist_score` or `checklist_pairwise`.

    Attributes:
        num_repeated: How many rows are on a question that was there before.
        num_faulty: How many rows are not as they should be; `first_fault` says what is wrong with the first of them.
        native: Whether all rows are of our own format.
        content: The digest of the file's text.
    """

    model: str
    judge: str | None
    protocol: str
    baseline: str | None
    category: str | None = None
    judgments: list[Judgment] = field(default_factory=list)
    num_repeated: int = 0
    num_faulty: int = 0
    first_fault: str | None = None
    native: bool = False
    content: str = ""

    @property
    def key(self) -> Key:
        return Key(self.model, self.judge, self.protocol, self.baseline, self.category)

    def add(self, judgments: list[Judgment]) -> None:
        """Adds further judgments; in our own format they replace those of the same comparisons or answers."""
        known = self.places()
        self.num_repeated += len({one.question_id for one in judgments if one.place in known})
        self.judgments = self.judgments + judgments
        if self.native:
            self.judgments = list({one.place: one for one in self.judgments}.values())

    def add_faults(self, number: int, first: str | None) -> None:
        self.num_faulty += number
        self.first_fault = self.first_fault or first

    def about(self) -> Record:
        """What its result says besides the figures."""
        return {
            "judge": self.judge,
            "baseline": self.baseline,
            "n_repeated": self.num_repeated,
            "repeated_rows": "replaced" if self.native else "counted",
            "n_faulty": self.num_faulty,
            "first_fault": self.first_fault,
        }

    def places(self) -> set[tuple[str, int]]:
        return {one.place for one in self.judgments}


def read_judgments(benchmark: str, path: Path, file_format: str | None = None) -> list[Judgments]:
    """The judgments of a file, by model, judge, baseline and category.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where nothing in it can be read; the message names file and record.
    """
    rows, content = _read(path)
    judge = arena_judge(rows, path)
    reference = wildbench_reference(rows, path) if benchmark == "wildbench" and any(map(is_comparison, rows)) else None
    found: dict[Key, tuple[list[list[Judgment]], bool]] = {}
    faults: list[tuple[Key | None, str]] = []
    for place, row in rows.numbered():
        if isinstance(row, BadRow):
            faults.append((None, f"{row.fault} in {place}"))
            continue
        native = isinstance(row, dict) and "verdict" in row and "form" in row
        if isinstance(row, dict) and file_format not in (None, "native" if native else "upstream"):
            raise ValueError(
                f"{path} must be in the format {file_format}, got {'native' if native else 'upstream'} in {place}; "
                f"give a file of {benchmark}'s judgments in that format, or leave the format open"
            )
        try:
            key, judgments, fault = _judgment(row, benchmark, reference, judge, path)
        except UnreadableRowError as error:
            faults.append((None, f"{error.fault} in {place}"))
            continue
        if fault is not None:
            faults.append((key, f"{fault} in {place}"))
        found.setdefault(key, ([], native))[0].append(judgments)
    results = [_judgments(key, read, native, content) for key, (read, native) in found.items()]
    if len(faults) == len(rows) and all(one.verdict is None for result in results for one in result.judgments):
        raise ValueError(f"{path} {faults[0][1]}; give a file of {benchmark}'s judgments")
    for result in results:
        # A row that doesn't say whose it is may be any result's: its fault stands with every one.
        own = [text for key, text in faults if key in (None, result.key)]
        result.add_faults(len(own), f"{path.name} {own[0]}" if own else None)
    return results


def _judgments(key: Key, rows: list[list[Judgment]], native: bool, content: str) -> Judgments:
    """All rows of one key in one step: files have thousands."""
    result = Judgments(*key, native=native, content=content)
    known: dict[tuple[str, int], Judgment] = {}
    for row in rows:
        result.num_repeated += any(one.place in known for one in row)
        known.update({one.place: one for one in row})
    result.judgments = list(known.values()) if native else [one for row in rows for one in row]
    return result


def _judgment(row: object, benchmark: str, reference: str | None, judge: str | None, path: Path) -> Read:
    if not isinstance(row, dict):
        raise UnreadableRowError("hold one object per record", type(row).__name__)
    if "verdict" in row and "form" in row:
        return _native(row, benchmark)
    if benchmark == "arena_hard":
        return arena_row(row, judge)
    if is_comparison(row):
        return _comparison(row, reference, path)
    return _evaluated_comparison(row, path) if "ref_generator" in row or "assignment" in row else _score(row, path)


def _native(row: Record, benchmark: str) -> Read:
    protocols = tuple(_ARENA) if benchmark == "arena_hard" else ("checklist_score", "checklist_pairwise")
    if row["form"] not in protocols:
        raise UnreadableRowError(f"hold games of the form {' or '.join(protocols)}", repr(row["form"]))
    bad = [name for name in ("question_id", "candidate") if not isinstance(row.get(name), str)]
    bad += [] if "judge" in row and isinstance(row["judge"], str | None) else ["judge"]
    if not isinstance(row.get("baseline"), str | None):
        bad.append("baseline")
    if row.get("game") not in (1, 2) or isinstance(row["game"], bool):
        bad.append("game")
    required = _OUTPUTS.get(row["form"], ())
    said = [name for name in ("output", "baseline_output") if name in required or row.get(name) is not None]
    bad += [name for name in said if not _is_output(row.get(name))]
    bad += [name for name in ("candidate_style", "baseline_style") if not _is_style(row.get(name))]
    bad += [] if isinstance(row.get("null_reason"), str | None) else ["null_reason"]
    if bad:
        raise UnreadableRowError(f"have {', '.join(bad)} as a judge stage writes it", [row.get(name) for name in bad])
    category = _ARENA.get(row["form"])
    protocol = row["form"] if category is None else "pairwise"
    key = Key(row["candidate"], row["judge"], protocol, row.get("baseline"), category)
    if row["form"] == "checklist_score":
        return key, [replace(Judgment.from_json(row), verdict=rating(row["verdict"]))], None
    if row["verdict"] is None or (isinstance(row["verdict"], str) and row["verdict"] in VERDICTS):
        return key, [Judgment.from_json(row)], None
    fault = Fault(f"have a verdict among {', '.join(VERDICTS)} or null", row["verdict"])
    return key, [replace(Judgment.from_json(row), verdict=None)], fault


def _is_output(value: object) -> bool:
    """Whether a value says of an output what the scores need, as `output_facts` does."""
    if not isinstance(value, dict):
        return False
    flags, length = (value.get("empty"), value.get("cut"), value.get("missing", False)), value.get("characters")
    return all(isinstance(flag, bool) for flag in flags) and type(length) is int and length >= 0


def _is_style(value: object) -> bool:
    """Whether a value has the counts of an answer's style, or says nothing of it."""
    counts = [value.get(name) for name in FEATURES] if isinstance(value, dict) else []
    return value is None or (bool(counts) and all(type(count) is int and count >= 0 for count in counts))


def _score(row: Record, path: Path) -> Read:
    model = row.get("model_test", row.get("generator"))
    if not isinstance(row.get("session_id"), str) or not isinstance(model, str):
        raise UnreadableRowError("have a session_id and a model_test", list(row))
    parsed = row.get("parsed_result")
    score = row.get("score")
    if score is None and isinstance(parsed, dict):
        score = parsed.get("score")
    key = Key(model, wildbench_judge(row, path, model), "checklist_score", None)
    if "criteria" in row:
        raise UnreadableRowError("be the score of a whole answer", "one of a single criterion")
    text = _text(row.get("model_output"))
    if text is None:
        fault = Fault("have a model_output", repr(row.get("model_output")))
        return key, [Judgment(row["session_id"], 1, None, Facts(output=NO_OUTPUT))], fault
    return key, [Judgment(row["session_id"], 1, rating(score), Facts(output=output_facts(text)))], None


def _text(output: object) -> str | None:
    text = output[0] if isinstance(output, list) and output else output
    return text if isinstance(text, str) else None


def _comparison(row: Record, reference: str | None, path: Path) -> Read:
    models, outputs = [row["model_A"], row["model_B"]], row.get("model_outputs")
    if not isinstance(row.get("session_id"), str):
        raise UnreadableRowError("have a session_id", repr(row.get("session_id")))
    if reference is None or reference not in models or models[0] == models[1] or not all(isinstance(m, str) for m in models):
        raise UnreadableRowError(f"compare a model with the reference {reference}", models)
    candidate = next(model for model in models if model != reference)
    winner, extent = row.get("winner"), row.get("extent")
    if winner in models:
        choice: object = ("A" if winner == models[0] else "B") + ("+" if extent == 1 else "++" if extent == 2 else "")
    elif "winner" not in row:
        parsed = row.get("parsed_result")
        choice = parsed.get("choice") if isinstance(parsed, dict) else None
    else:
        choice = "A=B" if winner == "tie" else None
    found = outputs if isinstance(outputs, dict) else {}
    fault = None
    if not all(isinstance(found.get(model), str) for model in models):
        fault = Fault("have both model_outputs", outputs if outputs is None else found)
    key = Key(candidate, wildbench_judge(row, path, candidate), "checklist_pairwise", reference)
    number = 1 if models[0] == reference else 2
    return key, [_compared(row["session_id"], number, choice, found.get(candidate), found.get(reference))], fault


def _evaluated_comparison(row: Record, path: Path) -> Read:
    """A row that upstream's `eval.py` writes: the choice is by letter, and outputs are whole where the judge saw their first words."""
    candidate, reference = row.get("generator"), row.get("ref_generator")
    assignment, parsed, config = row.get("assignment"), row.get("parsed_result"), row.get("eval_config")
    if not isinstance(row.get("session_id"), str) or not isinstance(candidate, str) or not isinstance(reference, str):
        raise UnreadableRowError("have a session_id, a generator and a ref_generator", list(row))
    sides = [assignment.get("A"), assignment.get("B")] if isinstance(assignment, dict) else []
    if candidate == reference or sorted(map(str, sides)) != sorted((candidate, reference)):
        raise UnreadableRowError("assign its two models to A and B", assignment)
    choice = parsed.get("choice") if isinstance(parsed, dict) else None
    max_words = config.get("max_words") if isinstance(config, dict) else None
    limit = max_words if isinstance(max_words, int) and max_words > 0 else None
    texts = [_text(row.get(name)) for name in ("model_output", "ref_output")]
    shown = [None if text is None else cut_words(text, limit) if text.strip() else EMPTY for text in texts]
    fault = None
    if None in shown:
        fault = Fault(
            "have a model_output and a ref_output", [type(row.get(name)).__name__ for name in ("model_output", "ref_output")]
        )
    elif choice in ("A", "B"):
        fault = Fault("have a choice of WildBench v2 (A++, A+, A=B, B+, B++)", f"{choice}, whose extent nobody knows")
    key = Key(candidate, wildbench_judge(row, path, candidate), "checklist_pairwise", reference)
    return key, [_compared(row["session_id"], 1 if sides[0] == reference else 2, choice, *shown)], fault


def _compared(question: str, number: int, choice: object, candidate: str | None, reference: str | None) -> Judgment:
    output, baseline_output = (
        compared_output_facts(text) if isinstance(text, str) else NO_OUTPUT for text in (candidate, reference)
    )
    has_verdict = isinstance(choice, str) and not output.missing and not baseline_output.missing
    verdict = _WILDBENCH_CHOICES.get(choice.strip()) if has_verdict and isinstance(choice, str) else None
    return Judgment(question, number, verdict, Facts(output=output, baseline_output=baseline_output))


def _read(path: Path) -> tuple[Rows, str]:
    """The rows of a file, a line that is no JSON among them, and the digest of its text."""
    data = path.read_bytes()
    try:
        rows, content = read_rows(data), hashlib.sha256(unpacked(data).encode()).hexdigest()
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} must be JSON, got {error.msg.lower()} on line {error.lineno}; give a file of judgments"
        ) from error
    except UNREADABLE as error:
        raise ValueError(f"{path} must be JSON, plain or gzipped, got {unreadable(error)}; give another file") from error
    if not rows:
        raise ValueError(f"{path} must hold judgments, got none; give another file")
    return rows, content
