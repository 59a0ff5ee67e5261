"""The tidy tables: what each row's unit is, why a cell is empty, and what LaTeX shows of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.report import tables
from evaluation.report.swept import FailedRun, SweptRun
from tests.unit.evaluation.report_folders import write_lines
from tests.unit.evaluation.test_sweeps import BETTER, SAME, swept

RATE = "train.learning_rate"


def chosen_of_two(folder: Path) -> list[SweptRun]:
    return [
        swept(folder, "dpo", 0, {"gsm8k": BETTER, "crux": SAME}, settings={RATE: 1e-5}, num_settings=2),
        swept(folder, "dpo", 0, {}, settings={RATE: 2e-5}, num_settings=2, is_chosen=False),
    ]


def test_latex_says_which_setting_was_chosen_and_which_benchmark_is_a_target(tmp_path: Path) -> None:
    tables.write(tables.results(chosen_of_two(tmp_path), "s"), tmp_path)
    text = (tmp_path / tables.LATEX).read_text()
    assert "dpo 1e-05 * &" in text and "dpo 2e-05 &" in text
    assert "*: settings that were chosen on the dev set; the others were trained to choose from." in text
    assert "gsm8k (target) &" in text and "crux &" in text and "Target: a benchmark whose own prompts were trained on." in text
    # Where all runs are compared there is nothing to mark.
    tables.write(tables.results(chosen_of_two(tmp_path)[:1], "s"), tmp_path)
    assert "*" not in (tmp_path / tables.LATEX).read_text()


def test_every_row_has_its_unit(tmp_path: Path) -> None:
    runs = chosen_of_two(tmp_path)
    log = [{"step": step, "loss": 1.0 + step % 2, "grad_norm": 1.0, "logps_shift/chosen": 0.5} for step in range(8)]
    write_lines(tmp_path / "dpo-1e-05-0" / "train" / "metrics.jsonl", log)
    frame = tables.results(runs, "s", [FailedRun("bnf", {}, "collapsed", "r", "bnf", is_collapsed=True)])
    assert frame.unit.notna().all()
    units = dict(zip(frame.metric, frame.unit, strict=True))
    assert {key: units[key] for key in ("accuracy", "delta", "eval_accuracy", "mean_completion_tokens", "kl", "collapsed")} == {
        **{"accuracy": "percent", "delta": "points", "eval_accuracy": "share"},
        **{"mean_completion_tokens": "tokens", "kl": "nats", "collapsed": "0 or 1"},
    }
    assert (units["loss_std"], units["logps_shift/chosen"]) == ("loss", "nats per token")


def test_what_has_no_value_says_why(tmp_path: Path) -> None:
    frame = tables.results([swept(tmp_path, "bnf", 0, {"gsm8k": "000"})], "s").set_index("metric")
    row = frame.loc["accuracy_of_parsed"]
    assert row.value != row.value and row.n == 0 and row.note == "no completion has an answer that can be read"
    base = frame.loc["base_accuracy_of_parsed"]
    assert (base.value, base.n) == (0, 3) and frame.note.notna().sum() == 1
    tables.write(frame.reset_index(), tmp_path)
    assert "a: no completion has an answer that can be read." in (tmp_path / tables.LATEX).read_text()
    assert tables.load(tmp_path).note.notna().sum() == 1


def test_a_single_question_has_no_interval_and_says_so(tmp_path: Path) -> None:
    frame = tables.results([swept(tmp_path, "bnf", 0, {"gsm8k": "+"})], "s").set_index("metric")
    assert frame.loc["delta", "value"] == 100 and frame.loc["delta", "note"] == "no interval: a single question"


@pytest.mark.parametrize(("number", "letter"), [(0, "a"), (25, "z"), (26, "aa"), (51, "az"), (52, "ba")])
def test_notes_are_numbered_by_letters(number: int, letter: str) -> None:
    assert tables._letter(number) == letter
