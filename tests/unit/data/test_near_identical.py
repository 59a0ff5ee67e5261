"""Solutions against copies with one wrong digit: where the digit stands, and that nothing else changes."""

import os
import re
from pathlib import Path

import pytest

from data.parse import Parser
from data.reading.records import Bad, DataSource, Reader
from data.rows import Row
from data.sources.near_identical import with_wrong_digit
from tests.unit.data.helpers import needs_model, prepare, write_rows

DATA = Path(os.environ.get("BNF_TEST_DATA", "nowhere"))


def changed(first: str, second: str) -> list[int]:
    assert len(first) == len(second)
    return [place for place, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1]]


def places(solution: str) -> set[int]:
    """All places that are changed under some seed."""
    found = set()
    for seed in range(300):
        copy = with_wrong_digit(solution, seed=str(seed))
        assert copy is not None
        [place] = changed(solution, copy)
        assert copy[place].isdigit() and solution[place].isdigit()
        found.add(place)
    return found


@pytest.mark.parametrize(
    "marked",
    [
        # A result stands in brackets.
        "Sold 48/2 = <<48/2=[24]>>[24] clips in May.\n#### [72]",
        "She has 5 of 12.\n#### [7]",
        "It is 3*4 = [12], so 12+1 = [13].",
        "Then x = 2 * 30 = [60] of 90",
        "Then x = 2 x 30 = [60] of 90",
        "A = 20 - 5 = $[15.25].",
        "#### [1,234]",
        "#### -[7]",
        "He got 3 = three.\n#### [5]",
        "0.5*9=<<0.5*9=[4.5]>>[4.5]",
        "half is .5 = [.25]",
    ],
)
def test_only_digits_of_results_change(marked: str) -> None:
    expected, solution, inside = set(), "", False
    for character in marked:
        if character in "[]":
            inside = character == "["
            continue
        if inside and character.isdigit():
            expected.add(len(solution))
        solution += character
    assert places(solution) == expected


def test_a_copy_states_another_value_and_begins_with_no_zero() -> None:
    for seed in range(300):
        number = (with_wrong_digit("#### 105", seed=str(seed)) or "")[5:]
        assert int(number) != 105 and number[0] != "0"
    assert "#### 0" in {with_wrong_digit("#### 7", seed=str(seed)) for seed in range(100)}


@pytest.mark.parametrize("solution", ["", "No number here.", "She had 5 of 12.", "y = x", "#### none"])
def test_a_solution_without_a_result_gives_no_copy(solution: str) -> None:
    assert with_wrong_digit(solution, seed="0") is None


@needs_model
def test_a_row_without_a_result_is_a_line_of_the_ledger(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n} + 1?", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"} for n in range(10, 14)]
    file = write_rows(tmp_path / "rows.jsonl", [*rows, {"question": "Why?", "answer": "Because."}])
    groups, lines, counts = prepare(tmp_path / "out", ("near_identical", file))
    assert len(groups) == 4 and all(len(group.completions) == 2 for group in groups)
    assert (counts["rows"]["kept"], counts["rows"]["no_result"]) == (4, 1)
    assert lines[-1]["outcome"] == "no_result" and "answer must state a result in digits" in lines[-1]["detail"]


@pytest.mark.skipif(not DATA.is_dir(), reason="BNF_TEST_DATA names no folder of real data")
def test_gsm8ks_own_rows_each_give_a_pair() -> None:
    """Each copy differs in one digit, states a wrong number where the solution states a right one, and is the same every time."""
    for name in ("train.first1000.jsonl", "test.jsonl"):
        source = DataSource("near_identical", str(DATA / "gsm8k" / name))
        parse = Parser(source)
        rows = [parse(raw)[1] for raw in Reader(source)]
        assert len(rows) == (1000 if "train" in name else 1319) and not any(isinstance(row, Bad) for row in rows)
        finals = 0
        for row in rows:
            assert isinstance(row, Row)
            (chosen, rejected), question = (one.text for one in row.candidates), row.messages[0]["content"]
            assert row.is_pair and rejected == with_wrong_digit(chosen, seed=f"{question}\n{chosen}")
            [place] = changed(chosen, rejected)
            before = chosen[:place].rstrip("0123456789.,")
            assert re.search(r"(=|>>|####)\s*[-−]?[$£€]?[-−]?\s*$", before), chosen[place - 20 : place + 5]
            finals += chosen.rpartition("####")[2] != rejected.rpartition("####")[2]
        # A solution has several results, the final answer is one of them.
        assert 0.1 < finals / len(rows) < 0.5
