"""The rounds' part of the summary: what each says, what was spent until then, and which columns are shown."""

import json

from evaluation.report.rounds import round_rows, summarize_rounds
from tests.unit.evaluation.report_folders import write_object

PART = {
    "num_prompts": 4,
    "num_samples": 8,
    "num_labels": 7,
    "num_tokens": 40,
    "reward_mean": 0.25,
    "reward_best": 0.5,
    "gold_mean": None,
    "pass_at_k": {"1": 0.25, "2": 0.5},
    "all_right": 0.0,
    "all_wrong": 0.5,
    "distinct": 1.0,
    "tokens": 5.0,
    "unterminated": 0.125,
}


def folders(tmp_path, number, *, held_out=None, measured=None):
    places = {stage: tmp_path / f"{stage}{number}" for stage in ("label", "prepare", "train")}
    write_object(tmp_path / f"label{number}" / "rewards.json", {**PART, "held_out": held_out})
    write_object(tmp_path / f"prepare{number}" / "ledger.json", {"num_groups": 3, "num_offline": 1})
    write_object(tmp_path / f"train{number}" / "train_summary.json", {"steps": 5})
    if measured:
        write_object(tmp_path / f"measure{number}" / "divergence.json", measured)
        places["measure"] = tmp_path / f"measure{number}"
    return places


def test_rounds_add_up(tmp_path):
    held_out = {**PART, "num_samples": 2, "num_labels": 2, "num_tokens": 10, "gold_mean": 0.75}
    measured = {"entropy": 1.5, "kl": 0.4, "kl_per_token": 0.1}
    found = summarize_rounds([folders(tmp_path, n, held_out=held_out, measured=measured) for n in (1, 2)])
    assert [entry["round"] for entry in found] == [1, 2] and found[1]["kl"] == 0.4
    assert found[0]["spent"] == {"samples": 10, "labels": 9, "tokens": 50, "updates": 5}
    assert found[1]["spent"] == {"samples": 20, "labels": 18, "tokens": 100, "updates": 10}
    row = round_rows(found)[0]
    assert row["pass@k"] == "50.0 % (k=2)" and row["held-out gold"] == "0.750" and row["groups"] == "3 (1 offline)"


def test_columns_without_a_figure_are_left_out(tmp_path):
    (row,) = round_rows(summarize_rounds([folders(tmp_path, 1)]))
    assert "KL" not in row and "held-out gold" not in row and row["mean reward"] == "0.250"
    assert round_rows([]) == []


def test_clipped_ratios_have_a_column_where_an_objective_clips(tmp_path):
    own = folders(tmp_path, 1)
    lines = [{"step": 1, "clip_ratio/low": 0.0, "clip_ratio/high": 0.0}, {"step": 1, "eval_loss": 1.0}]
    lines.append({"step": 2, "clip_ratio/low": 0.25, "clip_ratio/high": 0.25})
    (own["train"] / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = summarize_rounds([own])
    assert found[0]["clipped"] == 0.25 and round_rows(found)[0]["clipped"] == "25.0 %"
    (own["train"] / "metrics.jsonl").unlink()
    assert "clipped" not in round_rows(summarize_rounds([own]))[0]
