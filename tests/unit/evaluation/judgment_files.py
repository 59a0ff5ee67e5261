"""Recorded judgments in the published formats, as tests write them."""

import json
import os
from pathlib import Path

import pytest

from evaluation.judging.recorded.tables import judgment_rows

needs_data = pytest.mark.skipif("BNF_TEST_DATA" not in os.environ, reason="BNF_TEST_DATA names no folder of upstream data")
RECORDED = Path(os.environ.get("BNF_TEST_DATA", "")) / "recorded_examples"
REFERENCE = "gpt-4-turbo-2024-04-09"
PROMPT = (
    "<|User Prompt|>\nQ\n\n<|The Start of Assistant A's Answer|>\n{}\n<|The End of Assistant A's Answer|>\n\n"
    "<|The Start of Assistant B's Answer|>\n{}\n<|The End of Assistant B's Answer|>"
)


def arena_file(path, verdicts, *, model="m", judge="j", prompts=False):
    """One (game 1, game 2) pair per question; a pair of one is a file without second games."""
    rows = []
    for number, pair in enumerate(verdicts):
        games = [{"judgment": "…", "score": verdict} for verdict in pair]
        if prompts:
            games[0]["user_prompt"], games[1]["user_prompt"] = (
                PROMPT.format("base line", "**mine**"),
                PROMPT.format("**mine**", "base line"),
            )
        rows.append({"question_id": f"q{number}", "model": model, "judge": judge, "games": games})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scores_file(path, scores, *, model="org/m", outputs=None):
    texts = outputs or ["text"] * len(scores)
    rows = [
        {"session_id": f"s{n}", "parsed_result": {"score": score}, "model_test": model, "score": score, "model_output": text}
        for n, (score, text) in enumerate(zip(scores, texts, strict=True))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    return path


def comparison(number, winner, extent, *, candidate="text", reference="text", first="m"):
    second = REFERENCE if first == "m" else "m"
    return {
        "session_id": f"s{number}",
        "model_A": first,
        "model_B": second,
        "winner": winner,
        "extent": extent,
        "model_outputs": {"m": candidate, REFERENCE: reference},
    }


def wildbench_file(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    return path


def notes(result):
    """The text below the tables."""
    return " ".join(row["notes"] for title, rows in judgment_rows(result) if not title for row in rows)


def tags_file(path, tags):
    """Questions with tags alone: no checklist, no conversation."""
    rows = [{"id": f"s{n}", "primary_tag": primary, "secondary_tags": others} for n, (primary, others) in enumerate(tags)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def evaluated(number, choice, first="m", **more):
    sides = ("m", REFERENCE) if first == "m" else (REFERENCE, "m")
    return {
        "session_id": f"s{number}",
        "generator": "m",
        "ref_generator": REFERENCE,
        "assignment": dict(zip("AB", sides, strict=True)),
        "parsed_result": {"choice": choice},
        "winner": choice,
        "model_output": ["one two three"],
        "ref_output": "one",
        **more,
    }
