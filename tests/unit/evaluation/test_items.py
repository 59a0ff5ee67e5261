"""The items of a scored benchmark: what each filter takes, what a search finds, and thoughts apart from answers."""

import json
from pathlib import Path

import pytest

from evaluation.report.excerpts import Excerpt, as_field, as_text
from evaluation.report.items import FILTERS, Items, filter_name, filters_of
from tests.unit.evaluation.report_folders import scored, write_lines

THOUGHT = "<think>It is 41. No: 42.</think>\n\n"


def both(folder: Path, base: str, aligned: str, /, **texts: dict[str, str]) -> Items:
    """The items of two models, whose outcomes are those of `scored`."""
    found = {
        "base": scored(folder / "base", base, texts=texts.get("base")),
        "aligned": scored(folder / "aligned", aligned, texts=texts.get("aligned")),
    }
    return Items({model: pair[0] for model, pair in found.items()}, {model: pair[1] for model, pair in found.items()})


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("wrong→right", ["i2", "i4"]),
        ("right→wrong", ["i1", "i5"]),
        ("changed", ["i1", "i2", "i4", "i5"]),
        ("wrong", ["i1", "i3", "i5"]),
        ("right", ["i0", "i2", "i4"]),
        ("no-answer", ["i5"]),
        (" wrong -> RIGHT", ["i2", "i4"]),
        ("no_answer", ["i5"]),
        (None, ["i0", "i1", "i2", "i3", "i4", "i5"]),
    ],
)
def test_what_a_filter_takes(name: str | None, ids: list[str], tmp_path: Path) -> None:
    items = both(tmp_path, "++-00+", "+-+-+0")
    assert items.chosen(name) == ids
    if name is not None:
        assert all(filter_name(name) in filters_of(item.kind, item.replies[-1].outcome) for item in items.read(ids))


def test_one_model_alone_has_no_changes(tmp_path: Path) -> None:
    scores, completions = scored(tmp_path, "+-0")
    items = Items({"base": scores}, {"base": completions})
    assert items.filters == ("wrong", "right", "no-answer")
    assert [items.chosen(name) for name in items.filters] == [["i1", "i2"], ["i0"], ["i2"]]
    with pytest.raises(ValueError, match="one of wrong, right, no-answer, got 'changed'; with one model nothing changes"):
        items.chosen("changed")
    with pytest.raises(ValueError, match=f"one of {', '.join(FILTERS)}, got 'lost'$"):
        filter_name("lost")


def test_a_search_reads_ids_fields_and_every_models_whole_completion(tmp_path: Path) -> None:
    items = both(tmp_path, "++--", "+-+-", base={"i1": "x" * 5000 + " ÄPFEL"}, aligned={"i2": "äpfel"})
    assert items.chosen(None, "Äpfel") == ["i1", "i2"]
    assert items.chosen("wrong→right", "äpfel") == ["i2"]
    assert items.chosen(None, "Question I3") == ["i3"] and items.chosen(None, "i0") == ["i0"]
    assert items.chosen(None, "nowhere") == []


def test_an_item_is_whole_and_its_thought_apart(tmp_path: Path) -> None:
    long = "y" * 5000
    both(tmp_path, "+-0", "++0", aligned={"i0": THOUGHT + long, "i1": "<think> quoted, not thought", "i2": "on and on"})
    file = tmp_path / "aligned" / "score" / "scores.jsonl"
    starts: dict[str, int | None] = {"i0": len(THOUGHT), "i2": None}
    records = [json.loads(line) for line in file.read_text().splitlines()]
    write_lines(file, [one | ({"answer_start": starts[one["id"]]} if one["id"] in starts else {}) for one in records])
    found = Items(
        {model: tmp_path / model / "score" for model in ("base", "aligned")},
        {model: tmp_path / model / "generate" for model in ("base", "aligned")},
    )
    first, second, third = found.read(["i0", "i1", "i2"])
    assert first.fields == {"question": "question i0", "answer": "42"} and first.kind == "right both times"
    assert [(one.model, one.thought, one.completion) for one in first.replies] == [
        ("base", None, "completion of i0"),
        ("aligned", THOUGHT, long),
    ]
    # What was scored as a whole is shown as a whole, whatever it looks like.
    assert (second.replies[1].thought, second.replies[1].completion) == (None, "<think> quoted, not thought")
    assert (third.replies[1].thought, third.replies[1].completion, third.replies[1].answer) == ("on and on", None, None)
    assert found.chosen(None, "41. no") == ["i0"]


def test_items_of_one_model_alone_are_counted_and_lost_ones_refused(tmp_path: Path) -> None:
    items = both(tmp_path, "++-", "+-")
    assert items.chosen() == ["i0", "i1"] and items.num_left_out == 1
    file = tmp_path / "aligned" / "generate" / "completions.jsonl"
    file.write_text(file.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match=r"completions.jsonl must hold every scored item, got none called 'i1'; run the stage"):
        items.read(["i0", "i1"])


def test_a_long_text_keeps_its_end():
    """A completion has its answer there."""
    lines = [f"step {n}" for n in range(500)]
    solution = as_text("\n".join([*lines, r"so \boxed{42}"]))
    assert solution.text.startswith("step 0\n") and solution.text.endswith("step 27")
    assert solution.end.startswith("step 488\n") and solution.end.endswith(r"so \boxed{42}")
    whole = len("\n".join(lines)) + len("\nso \\boxed{42}")
    assert solution.num_left_out == whole - solution.num_characters
    for most in (700, 150, 20):
        short = as_text("x" * 1399 + "y").shortened(most)
        assert (short.num_characters, short.num_left_out, short.end[-1]) == (most, 1400 - most, "y")
    again = solution.shortened(100).shortened(20)
    assert again == Excerpt("step 0\nstep 1"[:13], whole - 20, r"xed{42}", True)
    # Many short lines: the beginning is shorter than its part, and the end has the rest.
    lines = as_text("\n".join(["a"] * 60) + "\n" + "z" * 2000)
    assert (len(lines.text), lines.num_left_out) == (55, 2120 - 55 - 500)
    short = lines.shortened(350)
    assert (len(short.text), len(short.end), short.num_left_out) == (55, 295, 2120 - 350)
    assert as_text("x" * 1500) == Excerpt("x" * 1500, 0, keeps_end=True)
    assert as_text("x" * 1501) == Excerpt("x" * 1000, 1, "x" * 500, True)
    assert as_field("x" * 300 + "y").shortened(200) == Excerpt("x" * 200, 101), "a field is cut at its end"
