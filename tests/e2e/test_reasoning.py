"""A model that learns to think, by a reasoning template: trained, sampled and scored with the thought kept and taken off; and its policy
isn't evaluated otherwise than it was trained."""

import json

import pytest

from evaluation.answers.thoughts import answer_of
from evaluation.benchmarks import capitals
from tests.e2e.conftest import Bnf
from tests.unit.bnf.test_templates import REASONING

pytestmark = [pytest.mark.e2e, pytest.mark.nightly]

TEMPLATE = ("chat_template=reasoning.jinja", "chat_template_kwargs={enable_thinking: true}")
SETTINGS = (
    *("data.path=mine.jsonl", "train.objective=sft", "train.learning_rate=1.0e-4", "train.num_train_epochs=4"),
    *("evaluation.engine=transformers", "evaluation.max_new_tokens=48"),
    "evaluation.benchmarks={capitals: {limit: 12}}",
)


def test_thoughts_from_the_data_to_the_score_and_a_switch_between_training_and_serving(model, shared_api, tmp_path):
    bnf = Bnf(tmp_path, PREFECT_API_URL=shared_api)
    (tmp_path / "reasoning.jinja").write_text(REASONING)
    rows = []
    for item in capitals.train_items(64):
        rows.append(
            {
                "prompt": capitals.messages(item)[0]["content"],
                "chosen": f"<think>Paris or {item['answer']}</think>{item['answer']}",
                "rejected": "I can't say.",
            }
        )
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    shown = bnf.json("run", "flows/recipes/pairs.yaml", *SETTINGS, *TEMPLATE)
    result = shown["summary"]["benchmarks"]["capitals"]
    assert "thoughts" not in result["base"] and result["aligned"]["thoughts"]["share"] > 50
    assert result["aligned"]["thoughts"]["mean_thought_tokens"] > 5
    run = tmp_path / "state" / "runs" / shown["run"]
    (scores,) = (run / "artifacts").glob("*score*aligned*capitals*")
    records = [json.loads(line) for line in (scores / "scores.jsonl").read_text().splitlines()]
    items = {item["id"]: item for item in capitals.load(None, None)}
    thinking = [record for record in records if "answer_start" in record]
    for record in thinking:
        assert "</think>" in record["completion"] or record["outcome"] == "no_answer"
        said = answer_of(record)
        if said is not None:
            # Two cities stand in the thought: with it the scorer would find several and call it wrong.
            verdict = capitals.score(items[record["id"]], said, record["finish_reason"])
            assert record["outcome"] == verdict.outcome and "<think>" not in said
    assert any(record["rule"] == "only_capital" for record in thinking)
    assert "thoughts are not scored" in (run / "report.html").read_text()

    policy = shown["policy"]["folder"]
    alone = ("run", "flows/recipes/evaluate.yaml", f"model_name_or_path={policy}", *SETTINGS[-3:])
    bnf(*alone, "chat_template_kwargs={enable_thinking: false}", code=2)
    assert "chat_template_kwargs.enable_thinking must be true, as the policy in" in bnf.err and "got false" in bnf.err
    # Left out, it is served as it was trained: what it says is the same.
    again = bnf.json(*alone)["summary"]["benchmarks"]["capitals"]["base"]
    assert (again["accuracy"], again["thoughts"]) == (result["aligned"]["accuracy"], result["aligned"]["thoughts"])
