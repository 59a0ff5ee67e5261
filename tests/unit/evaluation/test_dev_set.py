"""What a training measured on its dev set stands in the summary, the report, `show` and `compare`."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evaluation.report.dev_set import compare_dev, compared_dev_rows, dev_meaning, dev_rows, dev_title, read_dev
from evaluation.report.summary import summarize
from flows.commands import comparing as comparison
from flows.commands import showing
from tests.unit.evaluation.report_folders import inputs, scored, trained, write_lines, write_object
from tests.unit.evaluation.test_report import built


def evaluation(step: int, **changes: Any) -> dict[str, Any]:
    """Accuracy and KL grow with the steps."""
    values = {
        "loss": 0.75 - step / 100,
        "rewards/accuracies": 0.5 + step / 10,
        "logps_shift/chosen": 0.125 * step,
        "logps_shift/rejected": -0.25 * step,
        "samples/number": 8,
        "samples/kl": 0.5 * step,
        "samples/unterminated": 0.125,
        "samples/tokens": 20.5,
    }
    return {"step": step, **{f"eval_{name}": value for name, value in (values | changes).items()}}


def trained_with_dev(folder: Path, last: dict[str, Any] | None = None, **changes: Any) -> Path:
    trained(folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluations = [evaluation(step, **changes) for step in (0, 2)] + [last or evaluation(4, **changes)]
    write_lines(folder / "metrics.jsonl", [evaluations[0], *lines[:2], evaluations[1], *lines[2:], evaluations[2]])
    summary = json.loads((folder / "train_summary.json").read_text())
    dev = {"groups": 8, "before": evaluations[0], "after": evaluations[-1]}
    write_object(folder / "train_summary.json", {**summary, "dev": dev})
    return folder


def test_every_evaluation_is_a_row(tmp_path: Path) -> None:
    dev = read_dev(Path(trained_with_dev(tmp_path)))
    assert dev is not None and dev_title(dev) == "dev set: 8 groups, 8 samples of their prompts"
    assert dev_rows(dev) == [
        {
            "step": step,
            "loss": loss,
            "accuracy": f"{accuracy} %",
            "preferred": preferred,
            "dispreferred": dispreferred,
            "KL": kl,
            "unterminated": "12.5 %",
            "tokens": "20.5",
        }
        for step, loss, accuracy, preferred, dispreferred, kl in (
            ("0", "0.7500", "50.0", "0.000", "0.000", "0.000"),
            ("2", "0.7300", "70.0", "+0.250", "−0.500", "1.000"),
            ("4", "0.7100", "90.0", "+0.500", "−1.000", "2.000"),
        )
    ]
    # An objective without a reference has no shifts, and a training without dev groups no dev set.
    dev = read_dev(Path(trained_with_dev(tmp_path, **{"logps_shift/chosen": None, "logps_shift/rejected": None})))
    assert dev is not None and not any("preferred" in column for column in dev_rows(dev)[0])
    assert read_dev(Path(trained(tmp_path / "without"))) is None


def test_the_meaning_is_of_the_figures_that_are_there(tmp_path: Path) -> None:
    whole = read_dev(Path(trained_with_dev(tmp_path / "whole")))
    without = dict.fromkeys(("samples/number", "samples/kl", "samples/unterminated", "samples/tokens", "logps_shift/chosen"))
    bare = read_dev(Path(trained_with_dev(tmp_path / "bare", **without)))
    assert whole is not None and bare is not None
    assert "KL to the reference" in dev_meaning(whole) and "KL to the reference" in dev_meaning(bare, whole)
    assert "KL" not in dev_meaning(bare) and "Preferred and dispreferred completions" in dev_meaning(bare)
    assert dev_meaning(bare).startswith("Dev set: loss and accuracy")


def test_the_summary_and_the_report_have_it(tmp_path: Path) -> None:
    folder = trained_with_dev(tmp_path / "train")
    summary = summarize(inputs(tmp_path, {}, train=folder))
    assert [entry["step"] for entry in summary["train"]["dev"]["evaluations"]] == [0, 2, 4]
    assert summary["train"]["dev"]["after"]["eval_samples/kl"] == 2
    # A dev evaluation is no training step.
    assert summary["train"]["first"]["loss"] == 1
    _, page = built(tmp_path / "out", inputs(tmp_path, {}, train=folder, stages=[]))
    text = " ".join(page.text.split())
    assert "Dev set: 8 groups, 8 samples of their prompts" in text and "4 0.7100 90.0 % +0.500 −1.000 2.000 12.5 % 20.5" in text
    # Loss, rewards, gradient norm as ever, and the dev set's own accuracy; the loss has two lines.
    assert page.tags.count("svg") == 4 and "training dev" in text


def test_a_report_without_a_dev_set_names_none(tmp_path: Path) -> None:
    _, page = built(tmp_path / "out", inputs(tmp_path, {}, train=trained(tmp_path / "train"), stages=[]))
    assert "Dev set:" not in page.text and " dev " not in page.text and page.tags.count("svg") == 3


def test_dev_sets_of_runs_beside_each_other(tmp_path: Path) -> None:
    first = read_dev(Path(trained_with_dev(tmp_path / "a")))
    second = read_dev(Path(trained_with_dev(tmp_path / "b", evaluation(4, **{"samples/kl": 7.25}))))
    assert first is not None and second is not None
    compared = compare_dev(
        [
            ("mine", first, {"objective": "bnf", "data": "d1", "dev_max_new_tokens": 256}),
            ("other", second, {"objective": "dpo", "data": "d2", "dev_max_new_tokens": 32}),
        ]
    )
    assert compared is not None
    rows = {row.pop("dev set"): row for row in compared_dev_rows(compared)}
    assert rows["groups"] == {"mine": "8", "other": "8"}
    assert rows["KL"] == {"mine": "0.000 → 2.000", "other": "0.000 → 7.250"}
    assert rows["accuracy"]["other"] == "50.0 % → 90.0 %" and rows["dispreferred"]["mine"] == "0.000 → −1.000"
    _, data, objective, length = compared["notes"]
    assert data == "other has other data than mine, and so another dev set: their figures are not of the same groups."
    assert objective == "other was trained by dpo, mine by bnf: their losses and rewards differ in kind."
    assert length == ("other samples up to 32 tokens, mine up to 256: KL, unterminated and tokens are not of the same length.")
    how = {"objective": "bnf", "data": "d1", "dev_max_new_tokens": 256}
    same = compare_dev([("mine", first, how), ("other", second, how)])
    assert same is not None and len(same["notes"]) == 1 and compare_dev([]) is None


def run_of(name: str, folder: Path, scores: str | None) -> SimpleNamespace:
    artifacts: dict[str, Any] = {"score/aligned/gsm8k": SimpleNamespace(stage="score", path=scores)} if scores else {}
    # Of several rounds the last one's counts.
    for round_number in (1, 2):
        artifacts[f"prepare/round{round_number}"] = SimpleNamespace(stage="prepare", fingerprint=f"data{round_number}")
        artifacts[f"train/round{round_number}"] = SimpleNamespace(
            stage="train", path=folder if round_number == 2 else folder / "nothing"
        )
    recipe = SimpleNamespace(train_config=lambda: SimpleNamespace(objective="bnf", dev_max_new_tokens=256))
    return SimpleNamespace(id=name, artifacts=artifacts, state="completed", recipe=recipe)


@pytest.mark.parametrize("has_scores", [True, False])
def test_compare_shows_dev_sets_with_and_without_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], has_scores: bool
) -> None:
    runs = {}
    for name, outcomes in (("one", "++--"), ("two", "+++-")):
        scores = scored(tmp_path / name / "scores", outcomes)[0] if has_scores else None
        runs[name] = run_of(name, Path(trained_with_dev(tmp_path / name / "train")), scores)
    monkeypatch.setattr(comparison, "taken_run", lambda home, name, need: runs[name])
    monkeypatch.setattr(comparison, "differing_settings", lambda runs: [])
    monkeypatch.setattr(comparison, "home_folder", lambda: tmp_path)
    monkeypatch.setattr(comparison, "open_store", lambda home: SimpleNamespace(fetch=lambda artifact, *_: artifact.path))
    comparison.compare_runs(["one", "two"], as_json=False)
    printed = capsys.readouterr().out
    assert printed.count("0.000 → 2.000") == 2 and "before → after training" in printed
    assert ("50.0 → 75.0" in printed) == has_scores
    comparison.compare_runs(["one", "two"], as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["dev"]["runs"]["two"]["after"]["eval_samples/kl"] == 2
    assert [entry["step"] for entry in found["dev"]["runs"]["one"]["evaluations"]] == [0, 2, 4]


def test_show_has_the_dev_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = summarize(inputs(tmp_path, {}, train=trained_with_dev(tmp_path / "train"), stages=[]))
    write_object(tmp_path / "run" / "summary.json", summary)
    showing.show_results(SimpleNamespace(folder=tmp_path / "run", artifacts={}))
    printed = capsys.readouterr().out
    assert "dev set: 8 groups, 8 samples of their prompts" in printed and "−1.000" in printed
