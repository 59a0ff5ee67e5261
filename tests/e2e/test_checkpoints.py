"""The best policy, and the policies of a training's way, through the whole pipeline and in a later evaluation."""

import json

import pytest

from tests.e2e.conftest import Bnf

pytestmark = [pytest.mark.e2e, pytest.mark.nightly]

RECIPE = "flows/recipes/pairs.yaml"
SETTINGS = (
    *("data.path=mine.jsonl", "prepare.dev_fraction=0.3"),
    *("train.max_steps=2", "train.save_steps=1", "train.eval_steps=1", "train.dev_prompts=1", "train.dev_max_new_tokens=2"),
    *("train.keep_best=eval_loss", "evaluation.engine=transformers", "evaluation.max_new_tokens=8"),
    "evaluation.benchmarks={number_comparison: {limit: 2}}",
)


def test_a_curve_over_training_and_what_a_later_evaluation_finds(model, shared_api, tmp_path):
    bnf = Bnf(tmp_path, PREFECT_API_URL=shared_api)
    rows = [json.dumps({"prompt": f"Say {n}.", "chosen": f"{n}", "rejected": f"No. {n} {n}"}) for n in range(12)]
    (tmp_path / "mine.jsonl").write_text("\n".join(rows) + "\n")
    shown = bnf.json("run", RECIPE, *SETTINGS, "evaluation.checkpoints=all")
    found, train = shown["summary"]["checkpoints"], shown["summary"]["train"]
    assert [point["step"] for point in found["points"]] == [1, 2] and train["policies"] == {"save1": 1, "save2": 2}
    assert train["kept"]["step"] == found["taken"] == min((1, 2), key=lambda step: dev_loss(train, step))
    # The policy that was taken is that of a save, and its completions are not generated twice.
    same = f"generate/aligned-save{found['taken']}/number_comparison"
    tasks = shown["tasks"]
    assert tasks[same]["fingerprint"] == tasks["generate/aligned/number_comparison"]["fingerprint"]
    assert tasks[same]["cached"] and not tasks["train"]["cached"]
    assert (
        "over training" in bnf("show", "latest")
        and 'id="checkpoints"' in (tmp_path / "state" / "runs" / shown["run"] / "report.html").read_text()
    )

    later = bnf.json("evaluate", shown["run"], "evaluation.checkpoints=[1, 2, 9]")
    assert "not kept, and so not evaluated: 9" in bnf.err
    assert bnf.executed(later["run"]) == {"checkpoint/aligned-step1", "checkpoint/aligned-step2", "report"}
    # Without them the training is another one; what evaluates the base model is the same.
    planned = bnf.json("plan", RECIPE, *SETTINGS)
    states = {
        f"{task['stage']}/{task['model']}": task["cached"]
        for task in planned["stages"]
        if task["stage"] in ("train", "generate")
    }
    assert states["train/None"] is False and states["generate/base"] is True


def dev_loss(train: dict, step: int) -> float:
    return next(entry["eval_loss"] for entry in train["dev"]["evaluations"] if entry["step"] == step)
