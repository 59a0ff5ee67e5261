"""The summary's numbers, by hand, and what is said beside them."""

import json
import math
from pathlib import Path

import pytest

from evaluation.report.build import render
from evaluation.report.summary import notes, summarize, table_rows
from evaluation.statistics import tango_interval
from tests.unit.evaluation.report_folders import inputs, judged, prepared, scored, trained, write_lines


def pair(folder: Path, base: str, aligned: str, **settings: object) -> dict[str, tuple[Path, Path]]:
    return {
        "base": scored(folder / "base", base, **settings),  # type: ignore[arg-type]
        "aligned": scored(folder / "aligned", aligned, **settings),  # type: ignore[arg-type]
    }


def test_a_pair_of_models_by_hand(tmp_path: Path) -> None:
    # Ten items: 2 right both times, 5 gained, 1 lost, 2 wrong both times.
    entry = summarize(inputs(tmp_path, {"crux": pair(tmp_path, "++-----+00", "+++++++---")}))["benchmarks"]["crux"]
    assert entry["base"]["accuracy"] == 30 and entry["aligned"]["accuracy"] == 70
    assert entry["delta"] == pytest.approx(40)
    assert entry["flips"] == {"gained": 5, "lost": 1}
    # d: five 1, one −1, four 0; mean .4, Σ(d−.4)² = 5·.36 + 1.96 + 4·.16 = 4.4, standard error √(4.4/9/10) = .22111
    assert entry["delta_stderr"] == pytest.approx(22.1108, abs=1e-3)
    assert entry["delta_ci"] == list(tango_interval(5, 1, 10))
    # Two-sided: 2 · (C(6,0) + C(6,1)) / 2⁶ = 14/64; alone, so Holm leaves it.
    assert entry["mcnemar_p"] == pytest.approx(14 / 64) and entry["mcnemar_p_holm"] == entry["mcnemar_p"]
    assert entry["no_answer_delta"] == -20 and entry["truncated_delta"] == -20
    # Of the base's 8 parsed answers 3 are right, of the aligned model's 10 there are 7.
    assert entry["accuracy_of_parsed_delta"] == pytest.approx(70 - 37.5)
    assert entry["mean_completion_tokens_delta"] == 0
    assert entry["n_paired"] == 10 and entry["verdict"] == "noise"


@pytest.mark.parametrize(
    ("base", "aligned", "verdict"),
    [
        ("-" * 10, "+" * 10, "gain"),
        ("+" * 10, "-" * 10, "loss"),
        ("+-" * 5, "-+" * 5, "noise"),
        # The interval excludes 0 (four of twelve), the exact test does not (p = .125).
        ("-" * 12, "++++" + "-" * 8, "noise"),
        # Significant, and less than a point: eight of a thousand, p = 2/2⁸.
        ("-" * 1000, "+" * 8 + "-" * 992, "noise"),
        ("-" * 1000, "+" * 11 + "-" * 989, "gain"),
        ("-", "+", "noise"),
    ],
)
def test_a_difference_counts_only_where_interval_test_and_size_agree(
    base: str, aligned: str, verdict: str, tmp_path: Path
) -> None:
    entry = summarize(inputs(tmp_path, {"crux": pair(tmp_path, base, aligned)}))["benchmarks"]["crux"]
    assert entry["verdict"] == verdict


def test_holm_corrects_over_the_benchmarks_of_the_run(tmp_path: Path) -> None:
    found = summarize(
        inputs(
            tmp_path,
            {
                # p = 2/2⁶ = .03125, alone below .05
                "crux": pair(tmp_path / "1", "------", "++++++"),
                # p = 2/2⁷ = .015625
                "gsm8k": pair(tmp_path / "2", "-------", "+++++++"),
                "mmlu_redux": {"base": scored(tmp_path / "3", "++--")},
            },
        )
    )["benchmarks"]
    assert found["gsm8k"]["mcnemar_p_holm"] == pytest.approx(2 * 0.015625)
    assert found["crux"]["mcnemar_p_holm"] == pytest.approx(0.03125)
    assert "delta" not in found["mmlu_redux"]


def test_a_partial_run_is_paired_over_shared_items_and_says_so(tmp_path: Path) -> None:
    models = {
        "base": scored(tmp_path / "base", "--++"),
        "aligned": scored(tmp_path / "aligned", "+++", n_expected=4),
    }
    summary = summarize(inputs(tmp_path, {"gsm8k": models}))
    entry = summary["benchmarks"]["gsm8k"]
    # The fourth item is missing: it counts as wrong in the accuracy, and not at all in the difference.
    assert entry["aligned"]["accuracy"] == 75 and entry["base"]["accuracy"] == 50
    assert entry["n_paired"] == 3 and entry["delta"] == pytest.approx(200 / 3)
    said = " ".join(notes(summary))
    assert "gsm8k, aligned: partial, 3/4 items" in said and "Δ is over the 3 items" in said
    assert table_rows(summary)[0]["n"] == "3/4"


def test_a_reference_that_training_made_itself_is_said(tmp_path: Path) -> None:
    folder = Path(trained(tmp_path / "train"))
    for mismatch in (None, 0.98528):
        kept = json.loads((folder / "train_summary.json").read_text())
        (folder / "train_summary.json").write_text(json.dumps({**kept, "reference_mismatch": mismatch}))
        said = " ".join(notes(summarize(inputs(tmp_path, {}, train=folder))))
        assert ("mean weight 0.985 before the first step" in said) == (mismatch is not None)
    kept |= {"reference_mismatch": None, "reference_made_elsewhere": "head_logits 1, here 2"}
    (folder / "train_summary.json").write_text(json.dumps(kept))
    said = " ".join(notes(summarize(inputs(tmp_path, {}, train=folder))))
    assert "(made elsewhere: head_logits 1, here 2): training computed one of its own" in said
    (folder / "train_summary.json").write_text(json.dumps({**kept, "old_mismatch": 0.98528}))
    said = " ".join(notes(summarize(inputs(tmp_path, {}, train=folder))))
    assert "the policy that sampled were not of the arithmetic that trained (mean ratio 0.985 before the first step" in said
    (folder / "train_summary.json").write_text(json.dumps({**kept, "base_made_elsewhere": "head_logits 1, here 2"}))
    said = " ".join(notes(summarize(inputs(tmp_path, {}, train=folder))))
    assert "log-probabilities of the base model were not of the arithmetic that trained (made elsewhere: head_logits 1" in said


def test_models_without_shared_items_have_no_difference(tmp_path: Path) -> None:
    models = {"base": scored(tmp_path / "base", "+-"), "aligned": scored(tmp_path / "aligned", "+-", first_id=2)}
    summary = summarize(inputs(tmp_path, {"gsm8k": models}))
    entry = summary["benchmarks"]["gsm8k"]
    assert entry["delta"] is None and entry["mcnemar_p_holm"] is None and entry["verdict"] is None
    assert table_rows(summary)[0]["Δ [95 %]"] == "–"


def test_one_model_alone(tmp_path: Path) -> None:
    summary = summarize(inputs(tmp_path, {"gsm8k": {"base": scored(tmp_path, "+--0", source="sample", n_benchmark=1319)}}))
    (row,) = table_rows(summary)
    assert row == {"benchmark": "gsm8k (sample)", "accuracy": "25.0 [1.0, 99.0]", "no answer": "25.0", "n": "4/4 of 1319"}
    assert not any("Noise" in note for note in notes(summary))


def test_the_table_says_what_is_a_sample_and_has_equal_columns(tmp_path: Path) -> None:
    summary = summarize(
        inputs(
            tmp_path,
            {
                "gsm8k": pair(tmp_path / "1", "-" * 10, "+" * 10, source="sample", n_benchmark=1319),
                "crux": {"base": scored(tmp_path / "2", "+-", source="file")},
                "mmlu_redux": pair(tmp_path / "3", "+-", "+-"),
            },
        )
    )
    first, second, third = table_rows(summary)
    assert list(first) == list(second) == list(third)
    assert all(isinstance(value, str) for row in (first, second, third) for value in row.values())
    assert first == {
        "benchmark": "gsm8k (sample)",
        "base": "0.0",
        "aligned": "100.0",
        "Δ [95 %]": "+100.0 [+44.5, +100.0]",
        "verdict": "gain",
        "p (Holm)": "0.004",
        "no answer": "0.0 → 0.0",
        "n": "10/10 of 1319",
    }
    assert second["benchmark"] == "crux (own file)" and second["aligned"] == "–" and second["verdict"] == "–"
    assert third["benchmark"] == "mmlu_redux" and third["Δ [95 %]"] == "0.0 [−65.8, +65.8]"
    said = " ".join(notes(summary))
    assert "items only" in said and "one seed" in said and "not the benchmark" in said


def test_a_demonstration_judge_is_flagged_wherever_it_stands(tmp_path: Path) -> None:
    # Always A: exactly 50 %, and a position bias of 1.
    folder = judged(tmp_path / "judge", [("A>B", "A>B"), ("A>>B", "A>>B"), (None, "A>B")])
    summary = summarize(inputs(tmp_path, {}, judges={"arena_hard": folder}))
    entry = summary["judges"]["arena_hard"]
    assert entry["demonstration"] and entry["source"] == "sample" and not entry["models"]["aligned"]["trusted"]
    assert entry["verdicts"] == {
        "baseline_first": {"A>B": 1, "A>>B": 1, "none": 1},
        "candidate_first": {"A>B": 2, "A>>B": 1},
    }
    (note,) = notes(summary)
    assert (
        "DEMONSTRATION" in note and "arena_hard (sample)" in note and "1 of 6 games" in note and "position bias +1.00" in note
    )


def test_a_judge_that_is_not_to_be_trusted_says_why(tmp_path: Path) -> None:
    folder = judged(tmp_path / "judge", [("A>B", "A>B")] * 4, demonstration=False)
    (note,) = notes(summarize(inputs(tmp_path, {}, judges={"arena_hard": folder})))
    assert "DEMONSTRATION" not in note and "not to be trusted: position bias +1.00" in note


def test_training_data_and_times_are_taken_over(tmp_path: Path) -> None:
    stages = [
        {"stage": "train", "model": None, "benchmark": None, "key": "", "fingerprint": "", "seconds": seconds}
        for seconds in (1.5, 2)
    ]
    summary = summarize(
        inputs(tmp_path, {}, train=trained(tmp_path / "train"), data=prepared(tmp_path / "data"), stages=stages)
    )
    assert summary["train"]["steps"] == 4
    # The last line of metrics.jsonl is no step's.
    assert summary["train"]["first"]["loss"] == 1 and summary["train"]["last"]["loss"] == 0.25
    assert summary["data"]["num_groups"] == 8 and summary["seconds"] == 3.5


def test_numbers_that_are_no_json_become_null(tmp_path: Path) -> None:
    folder = Path(trained(tmp_path / "train"))
    write_lines(folder / "metrics.jsonl", [{"step": 1, "loss": math.nan, "grad_norm": math.inf}])
    summary = summarize(inputs(tmp_path, {}, train=folder))
    assert summary["train"]["last"] == {"step": 1, "loss": None, "grad_norm": None}
    json.dumps(summary, allow_nan=False)


def test_an_ill_formed_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    models = pair(tmp_path, "+-", "-+")
    path = Path(models["base"][0]) / "scores.jsonl"
    whole = path.read_text()
    path.write_text(whole + "{not json\n")
    with pytest.raises(ValueError, match=r"scores\.jsonl, line 3, must be a JSON object"):
        summarize(inputs(tmp_path, {"crux": models}))
    path.write_text(whole + whole)
    with pytest.raises(ValueError, match="must hold each item once, got 'i0' twice"):
        summarize(inputs(tmp_path, {"crux": models}))
    (Path(models["base"][0]) / "summary.json").write_text("[]")
    with pytest.raises(ValueError, match=r"summary\.json must be a JSON object"):
        summarize(inputs(tmp_path, {"crux": models}))


def test_the_alignment_tax_has_every_column_of_the_protocol(tmp_path: Path) -> None:
    # 2 right both times, 5 gained, 1 lost; no answer (and cut off) 2 of 10 before, none after.
    summary = summarize(inputs(tmp_path, {"crux": pair(tmp_path, "++-----+00", "+++++++---", n_expected=12, n_benchmark=800)}))
    (row,) = summary["alignment_tax"]
    assert row["benchmark"] == "crux" and row["flips"] == {"gained": 5, "lost": 1}
    assert row["accuracy"] == {
        "base": pytest.approx(25),
        "aligned": pytest.approx(100 * 7 / 12),
        "delta": pytest.approx(100 * 4 / 12),
    }
    assert row["delta"] == pytest.approx(40), "the paired difference is over the items that both have"
    assert row["mcnemar_p"] == row["mcnemar_p_holm"] == pytest.approx(14 / 64)
    assert row["no_answer"]["delta"] == pytest.approx(-100 * 2 / 12) and row["truncated"]["delta"] == -20
    assert row["mean_completion_tokens"] == {"base": 10, "aligned": 10, "delta": 0}
    assert row["accuracy_of_parsed"]["delta"] == pytest.approx(70 - 37.5)
    assert row["n"] == {"base": 10, "aligned": 10} and row["n_expected"] == {"base": 12, "aligned": 12}
    assert row["n_benchmark"] == 800 and row["verdict"] == "noise"
    assert row["delta_ci"] == summary["benchmarks"]["crux"]["delta_ci"]


def test_items_that_ask_one_question_are_clustered(tmp_path: Path) -> None:
    # Differences 1, 1, 0, 0 in two clusters: sums of deviations ±1, standard error √(2/1 · 2)/4 = .5; unclustered √(1/3)/2.
    folders = pair(tmp_path, "----", "++--")
    for model in folders:
        path = Path(folders[model][0]) / "scores.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        write_lines(path, [{**record, "cluster": "ab"[index // 2]} for index, record in enumerate(records)])
    entry = summarize(inputs(tmp_path, {"mmlu_redux": folders}))["benchmarks"]["mmlu_redux"]
    assert (entry["n_paired"], entry["n_clusters"]) == (4, 2)
    assert entry["delta_stderr"] == pytest.approx(50)
    # The variance is 3 times that of single items, and 2 times were all of a cluster to flip together, with half its weight:
    # two flips and one give a design effect of (2 · 3 + 1 · 2) / 3.
    assert entry["delta_ci"] == pytest.approx(list(tango_interval(2, 0, 4, z=1.959964 * math.sqrt(8 / 3))))


def test_a_cross_check_stands_beside_the_score(tmp_path: Path) -> None:
    column = {"task": "gsm8k", "metric": "exact_match", "stderr": 1.0, "n": 2, "n_killed": 0}
    columns = [
        {**column, "filter": "strict-match", "value": 0.0, "agreement": 50.0},
        {**column, "filter": "flexible-extract", "value": 100.0, "agreement": 50.0},
    ]
    differing = {
        "task": "gsm8k",
        "metric": "exact_match",
        "outcome": "correct",
        "answer": "1",
        "lm_eval": 0.0,
        "lm_eval_answer": "<b>",
    }
    folder = tmp_path / "check"
    write_lines(
        folder / "disagreements.jsonl",
        [{**differing, "id": "i0", "filter": "strict-match"}, {**differing, "id": "i1", "filter": "flexible-extract"}],
    )
    checked = {"benchmark": "gsm8k", "n": 2, "columns": columns, "main": columns[1]}
    (folder / "cross_check.json").write_text(json.dumps(checked))
    checks = {"gsm8k": {"base": folder}}
    found = inputs(tmp_path, {"gsm8k": {"base": scored(tmp_path / "1", "+-")}}, cross_checks=checks)
    summary = summarize(found)
    checked = summary["benchmarks"]["gsm8k"]["base"]["cross_check"]
    assert checked["n_disagreements"] == 1
    assert [entry["id"] for entry in checked["disagreements"]] == ["i1"]
    assert any("50.00 here, 100.00 by lm-eval's gsm8k" in note and "1 of 2 items" in note for note in notes(summary))
    page = render(found, summary)
    assert "Cross-check by lm-eval" in page and "&lt;b&gt;" in page and "<b>1" not in page


def test_further_metrics_are_named_beside_the_accuracy(tmp_path: Path) -> None:
    folders = pair(tmp_path, "+-", "++")
    for model, metrics in (
        ("base", {"prompt_loose": 50.0, "instruction_strict": 75.125}),
        ("aligned", {"prompt_loose": 100.0}),
    ):
        path = Path(folders[model][0]) / "summary.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "metrics": metrics}))
    found = inputs(tmp_path, {"ifeval": folders})
    said = "ifeval: beside the accuracy, in percent, instruction_strict 75.12 → –, prompt_loose 50.00 → 100.00."
    assert said in notes(summarize(found)) and said in render(found, summarize(found))
    alone = inputs(tmp_path, {"gsm8k": {"base": scored(tmp_path / "alone", "+-")}})
    assert not any("beside the accuracy" in note for note in notes(summarize(alone)))


def test_completions_that_were_cut_off_are_said_of_one_model_too(tmp_path: Path) -> None:
    whole, cut = scored(tmp_path / "whole", "+-+-"), scored(tmp_path / "cut", "0-+-")
    limited = {"name": "a-run", "model_name_or_path": "m", "evaluation": {"engine": "vllm", "max_new_tokens": 40}}
    said = notes(summarize(inputs(tmp_path, {"gsm8k": {"base": cut}, "crux": {"base": whole}}, recipe=limited)))
    assert [text for text in said if text.startswith("Completions that were cut off")] == [
        "Completions that were cut off, at the lower of evaluation.max_new_tokens (40) and the benchmark's limit or where the context "
        "ends, in percent: gsm8k 25.0."
    ]
    said = notes(summarize(inputs(tmp_path, {"gsm8k": {"base": cut, "aligned": whole}})))
    assert any(
        text.endswith("at the benchmark's limit or where the context ends, in percent: gsm8k 25.0 → 0.0.") for text in said
    )
    assert not any("cut off" in text for text in notes(summarize(inputs(tmp_path, {"gsm8k": {"base": whole}}))))


def test_rows_that_are_no_items_are_named(tmp_path: Path) -> None:
    folders = {"base": scored(tmp_path / "1", "+-", source="file")}
    path = Path(folders["base"][0]) / "summary.json"
    groups = {"subject": {"anatomy": {"n": 2, "accuracy": 50.0, "no_answer": 0.0}}}
    path.write_text(
        json.dumps(
            {**json.loads(path.read_text()), "left_out": {"expert": 3, "unclear": 1}, "groups": groups, "n_benchmark": None}
        )
    )
    found = inputs(tmp_path, {"mmlu_redux_2": folders})
    summary = summarize(found)
    assert any("4 of the rows that were read are no items (expert: 3, unclear: 1)" in note for note in notes(summary))
    assert table_rows(summary)[0]["n"] == "2/2"
    assert "mmlu_redux_2 (own file) by subject" in render(found, summary)
