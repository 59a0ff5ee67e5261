"""Gain and tax over training, from score folders small enough to count."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.report.build import build_report
from evaluation.report.checkpoints import Plot, checkpoint_rows, kept_note, plots
from evaluation.report.dev_set import dev_rows
from evaluation.report.inputs import CheckpointFolders, ReportInputs
from evaluation.report.summary import notes
from evaluation.report.targets import is_target
from tests.unit.evaluation.report_folders import scored, trained, write_lines, write_object

KEPT = {
    "figure": "eval_accuracy",
    "step": 4,
    "value": 0.75,
    "last_step": 6,
    "last_value": 0.5,
    "planned_steps": 9,
    "patience": 2,
}
RECIPE = {
    "name": "way",
    "model_name_or_path": "m",
    "sample": {
        **{"source": "gsm8k", "temperature": 1.0, "rounds": 1, "prompts_per_round": None, "num_prompts": 4},
        **{"samples_per_prompt": 2, "offline_mix": 0.0, "reference": "fixed"},
    },
    "train": {"objective": "bnf", "learning_rate": 1e-6, "lr_scheduler_type": "cosine"},
    "evaluation": {"engine": "vllm"},
}
OUTCOMES = {
    "gsm8k": {"base": "--------", 2: "+-------", 4: "+++++++-"},
    "crux": {"base": "++++----", 2: "+++-----", 4: "++------"},
}


def evaluated(folder: Path, dev: bool = True) -> ReportInputs:
    train = trained(folder / "train")
    summary = json.loads((train / "train_summary.json").read_text()) | {"steps": 6}
    if dev:
        figures = {2: 0.5, 4: 0.75, 6: 0.5}
        lines = [
            {"step": step, "eval_loss": 1.0, "eval_rewards/accuracies": share, "eval_rewards/num_pairs": 16}
            for step, share in figures.items()
        ]
        write_lines(train / "metrics.jsonl", [{"step": 1, "loss": 1.0}, *lines])
        summary |= {"dev": {"groups": 16, "before": lines[0], "after": lines[1]}, "kept": KEPT}
    write_object(train / "train_summary.json", summary)
    scores, ways = {}, {2: {}, 4: {}}
    for name, outcomes in OUTCOMES.items():
        folders = {which: scored(folder / str(which) / name, text) for which, text in outcomes.items()}
        scores[name] = {"base": folders["base"][0], "aligned": folders[4][0]}
        for step in (2, 4):
            ways[step][name] = folders[step][0]
    checkpoints = []
    for step, scored_ in ways.items():
        write_object(folder / f"way{step}" / "checkpoint.json", {"name": f"save{step // 2}", "step": step})
        checkpoints.append(CheckpointFolders(f"save{step // 2}", folder / f"way{step}", scored_))
    return ReportInputs(
        name="way",
        recipe=RECIPE,
        models={"base": "m", "aligned": "m aligned"},
        digests={},
        stages=[],
        versions={},
        machine={},
        scores=scores,
        train=train,
        checkpoints=checkpoints,
    )


def test_each_step_is_compared_with_the_base_model_item_by_item(tmp_path: Path) -> None:
    summary = build_report(evaluated(tmp_path), tmp_path / "report")
    found = summary["checkpoints"]
    assert found["targets"] == ["gsm8k"] and found["taken"] == 4 and found["last"] == 6
    # The policy that was taken is that of the second save, and stands there once.
    assert [(point["step"], point["names"]) for point in found["points"]] == [(2, ["save1"]), (4, ["save2", "policy"])]
    first, second = (point["benchmarks"] for point in found["points"])
    assert (first["gsm8k"]["delta"], second["gsm8k"]["delta"], second["crux"]["delta"]) == (12.5, 87.5, -25.0)
    assert second["gsm8k"]["delta_ci"] == summary["benchmarks"]["gsm8k"]["delta_ci"]
    assert first["gsm8k"]["flips"] == {"gained": 1, "lost": 0}
    dev = {entry["step"]: entry for entry in found["dev"]}
    assert dev[4]["accuracy"] == 0.75 and dev[4]["ci"][0] < 75 < dev[4]["ci"][1]
    assert json.loads((tmp_path / "report" / "summary.json").read_text())["checkpoints"] == found

    rows = checkpoint_rows(found, {"gsm8k": "gsm8k", "crux": "crux (sample)"})
    assert [row["step"] for row in rows] == ["2", "4 = the policy"]
    assert rows[1]["gsm8k (target)"].startswith("+87.5 [") and rows[1]["crux (sample)"].startswith("−25.0 [")
    assert rows[1]["dev accuracy"].startswith("75.0 % [")
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count('<section id="checkpoints">') == 1 and page.count("Δ to the base model over training") == 2
    assert "target: gain in points" in page and "other: tax in points" in page and "Dev accuracy over training" in page


def dev_plots(*evaluations: tuple[int, float, float]) -> list[Plot]:
    """The charts of evaluations of the dev set alone: of each the step, the accuracy and the margin."""
    dev = [{"step": step, "accuracy": share, "ci": None, "margin": margin} for step, share, margin in evaluations]
    return plots({"dev": dev, "taken": 2, "last": 4, "points": [{"step": 4, "benchmarks": {}}], "targets": []}, {})


def lowest(plot: Plot) -> float:
    """The lowest number of the axis of shares; those of steps end at 4."""
    return min(float(text) for text in re.findall(r"<text[^>]*>([\d.]+)</text>", plot.chart) if float(text) > 4)


def test_the_dev_accuracy_begins_before_the_first_step_where_rewards_differ_there() -> None:
    (plot,) = dev_plots((0, 0.5, 0.2), (2, 0.6, 0.5), (4, 0.7, 0.6))
    assert plot.beside == "preferred above dispreferred, %" and lowest(plot) <= 50
    (same,) = dev_plots((0, 0.0, 0.0), (2, 0.6, 0.5), (4, 0.7, 0.6))
    assert same.beside == "preferred above dispreferred, %; none at step 0, where all rewards are 0"
    assert lowest(same) > 50
    assert not dev_plots((0, 0.0, 0.0))


def test_the_axis_of_the_dev_accuracy_ends_at_100_percent() -> None:
    (plot,) = dev_plots((2, 1.0, 0.5), (4, 1.0, 0.5))
    numbers = [float(text) for text in re.findall(r"<text[^>]*>([\d.]+)</text>", plot.chart)]
    assert 100 in numbers and max(numbers) == 100


def test_with_fewer_steps_than_benchmarks_the_steps_are_columns(tmp_path: Path) -> None:
    inputs = evaluated(tmp_path)
    one = replace(inputs, checkpoints=inputs.checkpoints[1:])
    rows = checkpoint_rows(build_report(one, tmp_path / "report")["checkpoints"], {})
    assert [row["Δ to base"] for row in rows] == ["gsm8k (target)", "crux", "dev accuracy"]
    assert list(rows[0]) == ["Δ to base", "step 4 = the policy"]


def test_without_policies_of_the_way_there_is_no_section(tmp_path: Path) -> None:
    inputs = replace(evaluated(tmp_path, dev=False), checkpoints=())
    summary = build_report(inputs, tmp_path / "report")
    assert summary["checkpoints"] is None and checkpoint_rows(None, {}) == []
    assert 'id="checkpoints"' not in (tmp_path / "report" / "report.html").read_text()
    assert kept_note(summary["train"]) is None


def test_which_policy_was_taken_is_said_with_the_last_ones_figure(tmp_path: Path) -> None:
    summary = build_report(evaluated(tmp_path), tmp_path / "report")
    said = (
        "The policy is that of step 4 of 6, with the best dev accuracy: 75.0 %, where the last step has 50.0 %; the training stopped 3 "
        "steps early, after 2 evaluations without a better one."
    )
    assert said in notes(summary) and said in (tmp_path / "report" / "report.html").read_text()
    assert [row["step"] for row in dev_rows(summary["train"]["dev"])] == ["2", "4 = the policy", "6"]
    last = KEPT | {"step": 6, "value": 0.25, "last_value": 0.25, "figure": "eval_loss", "planned_steps": 6}
    assert kept_note({"kept": last}) == "The policy is that of the last step, 6: its dev loss, 0.2500, is the best."
    tied = KEPT | {"step": 2, "last_step": 6, "value": 1.0, "last_value": 1.0, "planned_steps": 6}
    assert kept_note({"kept": tied}) == (
        "The policy is that of step 2 of 6, the first with the best dev accuracy, 100.0 %, which the last step has too."
    )


@pytest.mark.parametrize(
    ("benchmark", "recipe", "expected"),
    [
        ("gsm8k", {"sample": {"source": "gsm8k"}}, True),
        ("math_l5", {"data": {"source": "math"}}, True),
        ("math", {"data": [{"source": "pairs"}, {"source": "math"}]}, True),
        ("mathematics", {"data": {"source": "math"}}, False),
        ("gsm8k", {"data": {"source": "pairs"}, "sample": None}, False),
    ],
)
def test_a_target_is_what_the_training_has_prompts_of(benchmark: str, recipe: dict[str, object], expected: bool) -> None:
    assert is_target(benchmark, recipe) == expected
