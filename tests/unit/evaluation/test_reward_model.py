"""A reward model as judge and labeler: a tiny, randomly initialised sequence classifier."""

import json

import pytest

from bnf.parallel.cluster import Cluster, Machine
from bnf.parallel.share import WorkerEnded
from data.labelers import judge as judge_labeler
from data.labelers import reward_model as reward_labeler
from evaluation.judging.answers import Answers
from evaluation.judging.client import ModelJudge, RewardJudge
from evaluation.judging.reward_model import RewardModel
from evaluation.judging.run import judge, reward
from tests.unit.evaluation.fake_engine import FakeEngine, no_progress

TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} w2 {% endfor %}"
ITEMS = [{"id": f"q{n}", "conversation": [{"role": "user", "content": f"w{n + 10}"}], "prompt": f"w{n + 10}"} for n in range(6)]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, tiny_model_dir):
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    folder = tmp_path_factory.mktemp("reward_model")
    torch.manual_seed(1)
    config = LlamaConfig.from_pretrained(tiny_model_dir, num_labels=1, pad_token_id=None, max_position_embeddings=32)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.chat_template = TEMPLATE
    tokenizer.pad_token = "w3"
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scorer(model_dir):
    return RewardModel(model_dir, batch_size=4)


def answer_of(number):
    return " ".join(f"w{20 + (number * 7 + k) % 60}" for k in range(1 + number % 5))


def test_rewards_do_not_depend_on_the_batch(scorer, model_dir):
    conversations = [[*item["conversation"], {"role": "assistant", "content": answer_of(n)}] for n, item in enumerate(ITEMS)]
    together = {index: float(reply.completion) for index, reply in scorer.rewards(conversations)}
    alone = RewardModel(model_dir, batch_size=1)
    for index, conversation in enumerate(conversations):
        ((_, reply),) = alone.rewards([conversation])
        assert float(reply.completion) == pytest.approx(together[index], abs=1e-5)
    assert len(set(together.values())) > 3


class Worker:
    """A worker on Ray, in this process. Where it `ends`, it does so in its second batch, and comes back."""

    def __init__(self, server, ends, computed):
        self.server, self.ends, self.computed = server, ends, computed

    def ready(self, until):
        return not until()

    def ask(self, message):
        for number, (place, found) in enumerate(self.server(message)):
            if self.ends and number == 1:
                self.ends = False
                raise WorkerEnded("worker 1 ended")
            self.computed.append(message[place])
            yield place, found

    def end(self):
        pass


@pytest.fixture
def on_ray(monkeypatch):
    asked = {"computed": []}

    def start(number, opens, opening, **resources):
        asked.update(number=number, **resources)
        return [Worker(opens(opening), one == 0, asked["computed"]) for one in range(number)]

    monkeypatch.setattr("evaluation.judging.reward_model.connect", lambda address: Cluster((Machine(0, 9), Machine(0, 4))))
    monkeypatch.setattr("evaluation.judging.reward_model.start_workers", start)
    return asked


def test_workers_compute_the_batches_that_one_model_would(scorer, model_dir, on_ray, monkeypatch, capsys):
    conversations = [[{"role": "user", "content": "w9"}, {"role": "assistant", "content": answer_of(n)}] for n in range(90)]
    conversations[7] = [{"role": "user", "content": "w5 " * 40}]
    alone = []
    rate = scorer._classifier
    monkeypatch.setattr(scorer, "_classifier", lambda batches: alone.extend(batches) or rate(batches))
    expected = dict(scorer.rewards(conversations))
    computed = on_ray["computed"]
    found = list(RewardModel(model_dir, batch_size=4, num_replicas=3, ray="auto").rewards(conversations))
    assert len(found) == len(conversations) and dict(found) == expected
    # The chunk of the worker that ended is there twice.
    assert set(map(str, alone)) == set(map(str, computed)) and len(computed) > len(alone)
    assert "worker 1 ended" in capsys.readouterr().err
    assert (on_ray["number"], on_ray["num_gpus"], on_ray["num_cpus"]) == (3, 0, 4)
    one = RewardModel(model_dir, ray="auto")
    assert list(one.rewards([])) == [] and on_ray["number"] == 1
    one._classifier._workers.clear()
    with pytest.raises(WorkerEnded, match="every worker has ended"):
        list(one.rewards(conversations))


def test_a_conversation_that_is_too_long_is_a_null(scorer):
    ((_, reply),) = scorer.rewards([[{"role": "user", "content": "w5 " * 40}]])
    assert reply.finish_reason == "prompt_too_long"


def test_a_classifier_with_several_outputs_is_refused(tmp_path, model_dir):
    import shutil

    folder = tmp_path / "two"
    shutil.copytree(model_dir, folder)
    from transformers import LlamaConfig, LlamaForSequenceClassification

    LlamaForSequenceClassification(LlamaConfig.from_pretrained(model_dir, num_labels=2)).save_pretrained(folder)
    with pytest.raises(ValueError, match="a reward model must have one output, got 2"):
        RewardModel(folder)


def test_the_answer_with_the_higher_reward_wins_in_either_order(scorer, tmp_path):
    asked = RewardJudge(scorer, {"reward_model": "digest"})
    own = {item["id"]: [answer_of(n)] for n, item in enumerate(ITEMS)}
    other = {item["id"]: [answer_of(n + 11)] for n, item in enumerate(ITEMS)}
    summary = judge(
        asked,
        "pairwise",
        judge_name="rm",
        questions=ITEMS,
        models={"new": Answers("new", own)},
        baseline=Answers("old", other),
        output_dir=tmp_path,
        progress=no_progress,
    )
    options = {"calls_file": tmp_path / "calls.jsonl", "progress": no_progress}
    pairs = [reward(asked, [(item, answers[item["id"]][0]) for item in ITEMS], **options) for answers in (own, other)]
    wins = sum(a > b for a, b in zip(*pairs, strict=True))
    result = summary["models"]["new"]
    assert result["score"] == pytest.approx(100 * wins / 6) and result["position_bias"] == 0.0
    assert summary["cost"]["num_requests"] == 12, "one request an answer, whatever the order"
    with pytest.raises(ValueError, match=r"judge.engine must be a language model for .*checklist_score"):
        judge(
            asked,
            "checklist_score",
            judge_name="rm",
            questions=ITEMS,
            models={"new": Answers("new", own)},
            baseline=None,
            output_dir=tmp_path / "b",
            progress=no_progress,
        )


def samples_file(path, texts=("w20 w21", "w22", "w5 " * 60)):
    rows = [
        {
            "id": item["id"],
            "messages": item["conversation"],
            "item": {},
            "prompt_ids": [1],
            "completions": [{"text": text, "token_ids": [1, 2], "finish_reason": "stop"} for text in texts],
        }
        for item in ITEMS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def labelled(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_samples_are_labelled_by_what_is_above_the_prompts_mean(scorer, tmp_path):
    asked = RewardJudge(scorer, {"reward_model": "digest"})
    options = {"calls_file": tmp_path / "calls.jsonl", "progress": no_progress}
    reward_labeler.label(samples_file(tmp_path / "samples.jsonl"), tmp_path / "out.jsonl", judge=asked, **options)
    for record in labelled(tmp_path / "out.jsonl"):
        first, second, too_long = record["completions"]
        assert (first["raw_reward"] > second["raw_reward"]) == (first["reward"] > second["reward"])
        assert (first["reward"] > 0.5) != (second["reward"] > 0.5) and first["reward"] + second["reward"] == pytest.approx(1)
        assert first["outcome"] == "rated" and too_long["outcome"] == "error" and too_long["raw_reward"] is None
    with pytest.raises(ValueError, match=r"label\.judge\.engine must be reward_model"):
        language = ModelJudge(FakeEngine(lambda _: "x"), None, {"model": "j"}, "text")
        reward_labeler.label(tmp_path / "samples.jsonl", tmp_path / "out.jsonl", judge=language, **options)


def test_samples_are_labelled_by_a_judges_rating(tmp_path):
    def rates(messages):
        text = messages[1]["content"]
        return json.dumps({"score": 10 if text.endswith("w20 w21") else 5}) if "w5 w5" not in text else "I can't say."

    asked = ModelJudge(FakeEngine(rates), None, {"model": "j"}, "text")
    options = {"calls_file": tmp_path / "calls.jsonl", "progress": no_progress}
    judge_labeler.label(samples_file(tmp_path / "samples.jsonl"), tmp_path / "out.jsonl", judge=asked, **options)
    for record in labelled(tmp_path / "out.jsonl"):
        assert [one["reward"] for one in record["completions"]] == [1.0, pytest.approx(4 / 9), 0.0]
        assert [one["outcome"] for one in record["completions"]] == ["rated", "rated", "error"]
