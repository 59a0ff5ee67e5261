"""The quick start at a small size, from end to end, and what reruns of it execute."""

import json
import time

import pytest

from tests.e2e.conftest import RECIPE, SMALL

pytestmark = [pytest.mark.e2e, pytest.mark.vllm]

GENERATED = {"number_comparison", "gsm8k", "arena_hard"}


@pytest.fixture(scope="module", autouse=True)
def served(bnf, first):
    """The first run has had its own server; the commands after it share one."""
    with bnf.served():
        yield


def test_every_stage_is_executed_and_the_summary_has_its_shape(bnf, first):
    assert first["state"] == "completed"
    expected = {"resolve/base", "sample", "label", "prepare", "reference", "train", "analyze", "judge/arena_hard", "report"}
    expected |= {f"generate/{model}/{name}" for model in ("base", "aligned") for name in GENERATED}
    expected |= {f"contamination/{name}" for name in GENERATED}
    expected |= {f"score/{model}/{name}" for model in ("base", "aligned") for name in GENERATED - {"arena_hard"}}
    assert set(first["tasks"]) == expected == bnf.executed()
    summary = first["summary"]
    entry = summary["benchmarks"]["gsm8k"]
    assert entry["base"]["n"] == 3 and entry["base"]["source"] == "sample"
    low, high = entry["delta_ci"]
    assert low <= entry["delta"] <= high and 0 <= entry["mcnemar_p"] <= 1
    assert summary["judges"]["arena_hard"]["demonstration"] is True


def test_the_report_is_one_file_that_loads_nothing(bnf, first):
    html = (bnf.home / "state" / "runs" / first["run"] / "report.html").read_text()
    assert "gsm8k (sample)" in html
    assert "<script" not in html and 'src="http' not in html and "@import" not in html


def test_one_engine_process_serves_all_benchmarks_of_a_model(bnf, first):
    logs = sorted(path.name for path in (bnf.home / "state" / "runs" / first["run"] / "logs").glob("generate-*"))
    assert logs == ["generate-aligned.log", "generate-base.log"]


def test_the_policy_is_a_model_folder_and_its_manifest_lists_its_weights(bnf, first):
    folder = bnf.home / "state" / "runs" / first["run"] / "artifacts" / "train"
    manifest = json.loads((folder / "manifest.json").read_text())
    weights = [name for name in manifest["files"] if name.endswith(".safetensors") and "checkpoint" not in name]
    assert weights == ["policy/model.safetensors"]
    assert len(manifest["files"]["policy/model.safetensors"]["sha256"]) == 64
    assert {"policy/config.json", "policy/tokenizer.json", "policy/chat_template.jinja"} <= set(manifest["files"])


def test_completions_have_every_item_once(bnf, first):
    folder = bnf.home / "state" / "runs" / first["run"] / "artifacts" / "generate-base-number_comparison"
    records = [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]
    assert len(records) == len({record["id"] for record in records}) == 16
    assert {"id", "prompt", "completion", "finish_reason", "num_prompt_tokens", "num_completion_tokens"} <= set(records[0])


def test_again_everything_comes_from_the_cache(bnf, first):
    plan = bnf.json("plan", RECIPE, *SMALL)
    assert all(stage["cached"] is True and stage["changed"] == [] for stage in plan["stages"])
    assert plan["settings"]["sample.num_prompts"] == 16
    started = time.monotonic()
    again = bnf.json("run", RECIPE, *SMALL)
    print(f"all cached: {time.monotonic() - started:.1f} s")
    assert bnf.executed() == set()
    assert again["summary"] == first["summary"]


def test_the_plan_names_what_changed(bnf, first):
    plan = {name_of(s): s for s in bnf.json("plan", RECIPE, *SMALL, "train.learning_rate=1e-5")["stages"]}
    assert plan["train"]["cached"] is False
    assert plan["train"]["changed"] == [{"key": "settings.learning_rate", "old": 2e-5, "new": 1e-5}]
    assert plan["reference"]["cached"] is True and plan["generate/base/gsm8k"]["cached"] is True
    assert plan["generate/aligned/gsm8k"]["cached"] is None
    plan = {name_of(s): s for s in bnf.json("plan", RECIPE, *SMALL, "evaluation.benchmarks.gsm8k.limit=2")["stages"]}
    assert {name for name, stage in plan.items() if stage["cached"] is False} >= {
        "generate/base/gsm8k",
        "generate/aligned/gsm8k",
    }
    assert plan["train"]["cached"] is True and plan["generate/base/number_comparison"]["cached"] is True


def name_of(stage):
    return "/".join(filter(None, [stage["stage"], stage["model"], stage["benchmark"]]))


def test_refresh_judge_judges_again_and_nothing_else_unless_its_verdicts_change(bnf, first):
    bnf("run", RECIPE, *SMALL, "--refresh", "judge")
    assert bnf.executed() in ({"judge/arena_hard"}, {"judge/arena_hard", "report"})


def test_evaluate_a_run_reruns_the_evaluation_alone(bnf, first):
    bnf("evaluate", first["run"], "evaluation.max_new_tokens=12")
    stages = {name.split("/")[0] for name in bnf.executed()}
    assert stages <= {"generate", "score", "report"} and "generate" in stages
    assert not any("arena_hard" in name for name in bnf.executed())
    compared = bnf.json("compare", first["run"], "latest")
    assert compared


def test_a_stage_outside_the_selection_that_is_not_cached_is_refused(bnf, first):
    bnf("run", RECIPE, *SMALL, "train.learning_rate=3e-5", "--only", "generate,score,report", code=2)
    assert "none for train, which is not cached; add train" in bnf.err


def test_from_train_keeps_what_is_before(bnf, first):
    bnf("run", RECIPE, *SMALL, "train.max_steps=1", "--from", "train")
    executed = bnf.executed()
    assert {"train", "analyze", "generate/aligned/gsm8k"} <= executed
    assert not {"sample", "label", "prepare", "reference", "generate/base/gsm8k"} & executed


def test_a_deleted_artifact_is_made_again_with_a_message(bnf, first):
    folder = bnf.home / "state" / "runs" / first["run"] / "artifacts" / "score-base-gsm8k"
    (folder.resolve() / "scores.jsonl").unlink()
    bnf("run", RECIPE, *SMALL)
    assert "scores.jsonl is missing" in bnf.err
    assert bnf.executed() == {"score/base/gsm8k"}


def test_runs_show_and_report_name_the_run(bnf, first):
    assert first["run"] in [run["run"] for run in bnf.json("runs")["runs"]]
    assert bnf("report", first["run"]).strip().endswith("report.html")
    assert "gsm8k (sample)" in bnf("show", first["run"])


def test_items_are_shown_and_have_a_page_that_the_report_links(bnf, first):
    found = bnf.json("show", first["run"], "--items", "gsm8k")
    assert found["num_items"] == found["num_found"] == len(found["items"]) == 3
    assert all([one["model"] for one in item["replies"]] == ["base", "aligned"] for item in found["items"])
    run = bnf.home / "state" / "runs" / first["run"]
    assert {path.name for path in (run / "items").iterdir()} == {"gsm8k.html", "number_comparison.html"}
    assert '<a href="items/gsm8k.html">gsm8k (sample)</a>' in (run / "report.html").read_text()
    assert f'"id":"{found["items"][0]["id"]}"' in (run / "items" / "gsm8k.html").read_text()


def test_score_stored_completions(bnf, first):
    file = bnf.home / "state" / "runs" / first["run"] / "artifacts" / "generate-base-gsm8k" / "completions.jsonl"
    result = bnf.json("score", "gsm8k", str(file))
    assert result["n"] == 3 and result["n_benchmark"] == 1319 and result["partial"] is True
    bnf("score", "gsm8k", str(file) + ".none", code=2)
    file = bnf.home / "broken.jsonl"
    file.write_text("not json\n")
    assert bnf("score", "gsm8k", str(file), "--json", code=1) == ""
