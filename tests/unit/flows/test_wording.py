"""What people see has no Python in it, no colour where the terminal has none, and no line twice."""

import io
import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from flows import cli
from flows import display as module
from flows.display import Display, print_json, print_notes, print_table
from flows.wording import in_words, place, rounded
from tasks.nodes import Node


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        ([], "–"),
        (True, "true"),
        (2e-05, "2e-05"),
        ("a [b]", "a [b]"),
        (["gsm8k", "crux"], "gsm8k, crux"),
        ({"limit": 16, "source": None}, "limit 16, source –"),
        ([{"a": 1, "b": [1, 2]}, 3], "(a 1, b (1, 2)), 3"),
    ],
)
def test_values_have_no_brackets_and_quotes_of_python(value, words):
    assert in_words(value) == words


def test_numbers_have_the_places_that_are_asked_for():
    assert rounded(57.142857) == "57.1" and rounded(-3.0, 2) == "−3.00" and rounded(3) == "3" and rounded("x") == "x"
    assert in_words({"json": 57.142857, "none": [1, 2.5]}, lambda leaf: rounded(leaf, 2)) == "json 57.14, none (1, 2.50)"


def test_paths_are_as_short_as_a_shell_takes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "me")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    folder = tmp_path / "me" / "project"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    shown = [
        place(path) for path in (folder / ".bnf" / "runs", tmp_path / "me" / "x", tmp_path / "me", tmp_path / "mean", folder)
    ]
    assert shown == [".bnf/runs", "~/x", "~", str(tmp_path / "mean"), "."]
    # In the root, all would be below the working folder.
    monkeypatch.chdir("/")
    assert place(tmp_path / "mean") == str(tmp_path / "mean")


def test_a_table_shows_brackets_as_they_are_and_values_in_words(capsys):
    print_table(
        "", [{"key": "rules", "value": {"json": 4}}, {"key": "[bold]x", "value": [1, 2]}, {"key": "none", "value": None}]
    )
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["key", "value"],
        ["rules", "json", "4"],
        ["[bold]x", "1,", "2"],
        ["none"],
    ]


def test_what_others_wrote_cannot_steer_the_terminal(capsys):
    hostile = "\x1b]0;owned\x07 \x9b2J \u202ex"
    print_table(hostile, [{hostile: hostile}])
    print_json({hostile: hostile})
    print_notes([hostile])
    Display().message(hostile)
    with pytest.raises(SystemExit):
        cli._fail(hostile, 1, False)
    shown = capsys.readouterr()
    assert shown.out.count("␛]0;owned") == 4 and shown.err.count("␛]0;owned") == 2
    assert json.loads(shown.out[shown.out.index("{\n") : shown.out.index("}\n") + 2]) == {hostile: hostile}
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown.out + shown.err)


def test_a_terminal_that_is_too_narrow_cuts_no_number(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(module.sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", "60")
    row = {
        "benchmark": "number_comparison",
        "base": "25.8",
        "Δ [95 %]": "+50.8 [+40.6, +60.0]",
        "no answer": "34.4 → 0.0",
        "n": "12/12 of 1319",
    }
    print_table("", [row])
    print_notes(["Intervals are 95 % and cover the choice of items only: this is one run with one seed."])
    shown = stream.getvalue()
    assert "  Intervals are 95 % and cover the choice of items only:\n  this is one run with one seed." in re.sub(
        " +\n", "\n", shown
    )
    assert "…" not in shown and all(part in shown for value in row.values() for part in value.split())


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown_on(monkeypatch, stream, width=80, height=24, **environment):
    """A display on a stream, with these variables beside."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        module,
        "Console",
        lambda **how: Console(file=stream, width=width, height=height, **{k: v for k, v in how.items() if k != "stderr"}),
    )
    return Display()


def a_run(display):
    node = Node("prepare", {})
    display.done(node, True, 0.0)
    display.done(node, False, 1.25)
    display.start(node)
    display.progress(node, 1, 2, "rows")
    display.broken_off("failed")


def test_a_file_gets_no_colours_and_no_lines_that_change(monkeypatch):
    stream = io.StringIO()
    a_run(shown_on(monkeypatch, stream))
    assert "\x1b" not in stream.getvalue()
    assert [line.split() for line in stream.getvalue().splitlines()][:2] == [
        ["1", "cached:", "prepare"],
        ["prepare", "done", "1.2", "s"],
    ]


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_are_off_where_the_terminal_has_none_or_nobody_wants_them(monkeypatch, environment):
    stream = Terminal()
    display = shown_on(monkeypatch, stream, **environment)
    a_run(display)
    colours = [f"\x1b[{code}" for code in ("31", "32", "92", "94", "38")]
    assert not any(colour in stream.getvalue() for colour in colours)
    if "TERM" in environment:
        assert display.status is None and "\x1b" not in stream.getvalue()


def test_a_terminal_has_colours(monkeypatch):
    stream = Terminal()
    a_run(shown_on(monkeypatch, stream))
    assert "\x1b[32m" in stream.getvalue() and "\x1b[31m" in stream.getvalue()


def folded(monkeypatch, stream, number, **how):
    display = shown_on(monkeypatch, stream, **how)
    for place_ in range(number):
        node = Node("score", {}, role="base", benchmark=f"b{place_}")
        display.start(node)
        display.done(node, True, 0.0)
    display.done(Node("report", {}), False, 2.0)
    display.total()
    return [line for line in stream.getvalue().replace("\r", "\n").splitlines() if line.strip()]


def test_lines_that_change_erase_nothing_that_stands_above_them(monkeypatch):
    """With several lines, the first start after a stop went up once more than it had come down."""
    stream = Terminal()
    display = shown_on(monkeypatch, stream)
    display.message("run mine-20261129")
    for number in range(6):
        node = Node("score", {}, role="base", benchmark=f"b{number}")
        display.start(node)
        display.done(node, True, 0.0)
    display.message("    a message")
    display.stop()
    row, lowest = 0, []
    for step in re.findall(r"\x1b\[\d*A|\n", stream.getvalue().split("run mine-20261129\n")[1]):
        row += 1 if step == "\n" else -int(step[2:-1] or 1)
        lowest.append(row)
    assert len(lowest) > 12 and min(lowest) == 0


def test_cached_tasks_fold_into_one_line(monkeypatch):
    lines = folded(monkeypatch, io.StringIO(), 7)
    assert lines[0] == "  7 cached: " + ", ".join(f"score-base-b{number}" for number in range(7))
    assert lines[1].split() == ["report", "done", "2.0", "s"] and lines[2] == "  8 tasks, 7 from the cache, 2 s of work"


def test_cached_tasks_that_a_terminal_does_not_hold_are_a_number(monkeypatch):
    stream = Terminal()
    folded(monkeypatch, stream, 12, TERM="dumb")
    (line,) = [line for line in stream.getvalue().splitlines() if "cached:" in line]
    assert line == "  12 cached: score-base-b0, score-base-b1, score-base-b2, … and 9 more" and len(line) <= 80


def test_cached_tasks_of_several_runs_fold_into_one_line_each(monkeypatch):
    stream = io.StringIO()
    display = shown_on(monkeypatch, stream)
    for label in ("dpo: prepare", "kto: prepare", "dpo: reference"):
        display.done(SimpleNamespace(label=label), True, 0.0)
    display.stop()
    assert stream.getvalue().splitlines() == ["  dpo: 2 cached: prepare, reference", "  kto: 1 cached: prepare"]


def test_cached_tasks_are_said_before_whatever_comes_after_them(monkeypatch):
    stream = io.StringIO()
    display = shown_on(monkeypatch, stream)
    display.done(Node("budget", {}), True, 0.0)
    display.message("    rows of 512 tokens fit")
    assert stream.getvalue().splitlines() == ["  1 cached: budget", "    rows of 512 tokens fit"]


def test_each_task_at_work_has_a_line_of_its_own_while_half_of_the_terminal_holds_them(monkeypatch):
    display, shown = shown_on(monkeypatch, Terminal(), height=8), []
    display.status = type(
        "Status", (), {"update": lambda self, text: shown.append(text.plain), "start": print, "stop": print}
    )()
    monkeypatch.setattr(display.status.__class__, "start", lambda self: None)
    train, judge = Node("train", {}), Node("judge", {}, role="judge", benchmark="arena_hard")
    display.start(train)
    display.start(judge)
    display.progress(train, 3, 60, "steps, loss 0.5000, accuracy 0.75, 37 tokens/s, 0:01:26 left")
    display.progress(judge, 2, 5, "games, 0:01:00 left")
    lines = shown[-1].split("\n  ")
    # The word for what is counted goes where the line would be too long.
    assert lines[0] == "train             3/60  loss 0.5000, accuracy 0.75, 37 tokens/s, 0:01:26 left"
    assert lines[1] == "judge-arena_hard  2/5  games, 0:01:00 left"
    display.done(Node("prepare", {}), True, 0.0)
    assert shown[-1].split("\n  ")[2] == "1 cached: prepare", "until it is printed"
    display.message("")
    for number in range(4):
        display.start(Node("score", {}, role="base", benchmark=f"b{number}"))
    lines = shown[-1].split("\n  ")
    assert len(lines) == 4 and "│" not in "".join(lines[:3])
    assert lines[3] == "score-base-b1 …  │  score-base-b2 …  │  score-base-b3 …"
    assert all(len(line) <= 78 for line in lines)


def test_in_a_pipe_the_name_in_the_first_column_is_whole(capsys):
    name = "a-run-" + "x" * 60
    others = {f"column {number}": "x" * 60 for number in range(6)}
    print_table("", [{"run": name} | others], words=True)
    assert name in capsys.readouterr().out


def test_a_wait_is_shown_on_a_terminal_until_there_is_more_to_say(monkeypatch):
    stream = Terminal()
    display = shown_on(monkeypatch, stream)
    display.wait("starting Prefect …")
    display.stop()
    display.message("run r-1")
    assert "starting Prefect …" in stream.getvalue()
    assert stream.getvalue().endswith("run r-1\n")
    for quiet, environment in ((io.StringIO(), {}), (Terminal(), {"TERM": "dumb"})):
        shown_on(monkeypatch, quiet, **environment).wait("starting Prefect …")
        assert quiet.getvalue() == ""


RESULTS = [
    {
        "benchmark": name,
        "base": "25.8",
        "aligned": "76.6",
        "Δ [95 %]": "+50.8 [+40.6, +60.0]",
        "verdict": "gain",
        "p (Holm)": "<0.001",
        "no answer": "100.0 → 91.7",
        "n": "12/12 of 1319",
    }
    for name in ("number_comparison", "mmlu_redux (sample)")
]


@pytest.mark.parametrize(("columns", "parts"), [(30, 7), (50, 4), (80, 2), (106, 1), (200, 1)])
def test_a_table_of_numbers_comes_in_parts_where_the_terminal_is_narrow(monkeypatch, columns, parts):
    """No cell is folded: a number and its interval stand side by side, and each part begins with the whole names."""
    stream = Terminal()
    monkeypatch.setattr(module.sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", str(columns))
    print_table("results", RESULTS)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()
    heads = [line.split()[1:] for line in lines if line.startswith("benchmark")]
    assert (
        len(heads) == parts
        and [*itertools.chain(*heads)] == " ".join(list(RESULTS[0])[1:]).split()
        and lines[0].strip() == "results"
    )
    for row in RESULTS:
        mine = [line for line in lines if line.startswith(row["benchmark"])]
        assert len(mine) == parts
        if columns > 30:
            assert all(any(value in line for line in mine) for value in row.values())
            assert max(map(len, lines)) <= columns


def test_rows_of_one_name_stay_together(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(module.sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", "80")
    rows = [{"stage": "score", "folder": letter * 65, "bytes": f"{number} kB"} for number, letter in enumerate("ab")]
    print_table("", rows, words=True)
    lines = [line.split() for line in stream.getvalue().splitlines()[1:]]
    assert lines == [["score", "a" * 65, "0", "kB"], ["score", "b" * 65, "1", "kB"]]


def test_a_name_that_is_wider_than_the_terminal_is_whole(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(module.sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", "40")
    name = "generate-aligned-" + "x" * 50
    print_table("", [{"task": name, "": "cached", "seconds": "1.0"}])
    print_table("", [{"run": name}], words=True)
    assert stream.getvalue().count(name) == 3 and "cached" in stream.getvalue()
