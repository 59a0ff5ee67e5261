"""lm-eval: our completions through its own tasks, and its tasks on our engines, with no network."""

import dataclasses
import json
import math
import os
import shutil
from pathlib import Path

import pytest

from evaluation.answers.letters import gpqa_letter
from evaluation.harness.replay import cross_check, cross_check_folder
from evaluation.harness.tasks import run_task, unknown_task
from evaluation.report.lm_eval import cross_check_of, task_rows, tasks_of
from evaluation.scoring.score import score_records
from evaluation.types import Generation

pytestmark = pytest.mark.integration
DEFINITIONS = Path(__file__).parent / "lm_eval_tasks"

GSM8K = [{"id": f"g{n}", "question": f"{n} + 1?", "answer": str(n + 1)} for n in range(4)]
TEXTS = [
    '{"reasoning": "0 + 1 = 1", "answer": "1"}',  # both read 1
    '{"answer": "2", "reasoning": "because 1 + 1 is 3 - 1"}',  # lm-eval takes the last number, 1
    "The sum is 3",  # no answer for us; the last number for lm-eval
    '{"answer": "7"}',
]


def _quiet(done, total, note):
    pass


def test_stored_completions_are_read_by_lm_evals_own_filters_and_every_difference_is_named(tmp_path):
    completions = [{"id": item["id"], "completion": text} for item, text in zip(GSM8K, TEXTS, strict=True)]
    records = score_records("gsm8k", GSM8K, completions)
    assert [record["outcome"] for record in records] == ["correct", "correct", "no_answer", "wrong"]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in GSM8K))
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    cross_check_folder("gsm8k", tmp_path, tmp_path, tmp_path, _quiet)

    found = cross_check_of(tmp_path)
    columns = {(column["task"], column["filter"]): column for column in found["columns"]}
    assert set(columns) == {
        (task, name)
        for task in ("gsm8k", "gsm8k_cot_zeroshot", "gsm8k_cot_llama")
        for name in ("strict-match", "flexible-extract")
    }
    flexible = columns["gsm8k", "flexible-extract"]
    assert (flexible["value"], flexible["n"], flexible["agreement"], flexible["n_killed"]) == (50, 4, 50, 0)
    # lm-eval's standard error of 1, 0, 1, 0: √(p (1 − p) / (n − 1)).
    assert flexible["stderr"] == pytest.approx(100 * math.sqrt(0.25 / 3))
    assert columns["gsm8k", "strict-match"]["value"] == 0
    assert found["main"] == flexible
    assert [(entry["id"], entry["outcome"], entry["lm_eval"], entry["lm_eval_answer"]) for entry in found["disagreements"]] == [
        ("g1", "correct", 0.0, "1"),
        ("g2", "no_answer", 1.0, "3"),
    ]


def test_maths_tasks_read_latex_and_crux_has_none():
    maths = [{"id": "m", "question": "q", "answer": r"\frac{1}{2}", "level": "Level 5", "subject": "Algebra"}]
    text = r'{"answer": "1/2"} Final Answer: The final answer is $\frac{1}{2}$. I hope it is correct.'
    records = score_records("math", maths, [{"id": "m", "completion": text}])
    found, disagreements = cross_check("math", maths, records)
    values = {(column["task"], column["metric"]): column["value"] for column in found["columns"]}
    assert values[("minerva_math500", "exact_match")] == 100 and values[("hendrycks_math500", "exact_match")] == 100
    assert not disagreements and values[("minerva_math500", "math_verify")] == 100
    with pytest.raises(ValueError, match="lm-eval can read without executing answers, got crux"):
        cross_check("crux", [], [])


def test_boxed_and_lettered_replies_are_read_by_lm_evals_tasks():
    r"""Where a column differs, it is for the reason that stands beside the reply."""

    def checked(name, items, replies):
        completions = [{"id": item["id"], "completion": reply} for item, reply in zip(items, replies, strict=True)]
        records = score_records(name, items, completions)
        found, disagreements = cross_check(name, items, records)
        main = {key: found["main"][key] for key in ("task", "filter", "metric")}
        differs = {entry["id"] for entry in disagreements if main.items() <= entry.items()}
        return [record["outcome"] for record in records], found["main"]["value"], differs

    for name in ("aime_2024", "aime_2025"):
        items = [{"id": str(n), "question": "q", "answer": "73"} for n in range(4)]
        # lm-eval compares texts: 073 is not 73 there. Without a box it takes what stands between dollars.
        replies = [r"\boxed{73}", r"\boxed{5}", r"\boxed{073}", "$73$"]
        outcomes = ["correct", "wrong", "correct", "no_answer"]
        assert checked(name, items, replies) == (outcomes, 50, {"2", "3"})
    maths = [
        {"id": str(n), "question": "q", "answer": r"\frac{1}{2}", "level": "Level 5", "subject": "Algebra"} for n in range(2)
    ]
    assert checked("math_500", maths, [r"So $\boxed{0.5}$.", r"So $\boxed{2}$."]) == (["correct", "wrong"], 50, set())
    row = {"question": "q", "choices": list("abcdefghij"), "answer": "J", "subject": "law"}
    # lm-eval has the first of the three expressions alone.
    replies = ["The answer is (J).", "the answer is J", "The answer is (A).", "", "Answer: J"]
    outcomes = ["correct", "correct", "wrong", "no_answer", "correct"]
    pro = [{"id": str(n), **row} for n in range(5)]
    assert checked("mmlu_pro", pro, replies) == (outcomes, 40, {"4"})


def test_gpqas_letters_are_those_of_lm_evals_filters():
    """lm-eval orders the choices at random, so only its filters can be compared: on replies in the form that the prompt asks for."""
    import re

    import lm_eval
    from lm_eval.filters.extraction import MultiChoiceRegexFilter, RegexFilter

    definition = Path(lm_eval.__file__).parent / "tasks" / "gpqa" / "cot_zeroshot" / "_gpqa_cot_zeroshot_yaml"
    strict, flexible = re.findall(r'regex_pattern: "(.*)"', definition.read_text())
    replies = ["So it can't be (A). The answer is (B).", "The answer is (D).", "It is B.", ""]
    letters = [gpqa_letter(reply).value for reply in replies]
    assert letters == ["B", "D", None, None]
    found = RegexFilter(regex_pattern=strict).apply([[reply] for reply in replies], [{}] * 4)
    assert [one.strip("()") for (one,) in found] == ["B", "D", "[invalid]", "[invalid]"]
    documents = [{"choices": ["w", "x", "y", "z"]}] * 4
    last = MultiChoiceRegexFilter(
        regex_pattern=flexible.replace("\\\\", "\\"), group_select=-1, ignore_case=True, ignore_punctuation=True
    )
    found = last.apply([[reply] for reply in replies[:2]], documents[:2])
    assert [one.strip("()") for (one,) in found] == ["B", "D"]


@pytest.fixture
def definitions(tmp_path):
    """The folder of definitions, with a data file of their own."""
    folder = tmp_path / "definitions"
    shutil.copytree(DEFINITIONS, folder)
    rows = [{"question": f"w{n}", "choices": [f"w{n + 1} w5", f"w{n + 2}"], "answer": n % 2} for n in range(10, 16)]
    data = tmp_path / "colours.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path in folder.glob("*.yaml"):
        path.write_text(path.read_text().replace("DATA", str(data)))
    return folder


@pytest.fixture
def model_dir(tiny_model_dir, tmp_path):
    """The tiny model with a chat template, which engines ask for."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }} {% endfor %}")
    return folder


@pytest.fixture
def engine(model_dir, tmp_path, monkeypatch):
    from bnf.data.rendering import load_tokenizer
    from evaluation.engines import open_engine

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return open_engine("transformers", model_dir), load_tokenizer(model_dir)


def test_a_task_of_ones_own_weighs_choices_as_the_model_does(definitions, engine, model_dir, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    results = run_task(*engine, "bnf_colours", tmp_path / "out", _quiet, include_path=definitions)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16).eval()

    def logp(context, continuation):
        ids = [*context, *continuation]
        scores = model(torch.tensor([ids])).logits[0].detach().float().log_softmax(-1)
        return sum(float(scores[place - 1, ids[place]]) for place in range(len(context), len(ids)))

    right = [
        (logp([n], [n + 1, 5]) < logp([n], [n + 2])) == bool(n % 2) for n in range(10, 16)
    ]  # the second choice is taken where it is likelier
    assert results["results"]["bnf_colours"]["acc,none"]["value"] == pytest.approx(sum(right) / 6)
    samples = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert [sample["metrics"]["acc"] for sample in samples] == [float(value) for value in right]
    assert results["n_samples"]["bnf_colours"]["effective"] == 6


def test_a_generating_task_with_a_few_shots_a_limit_and_a_comparison(definitions, engine, tmp_path):
    first = run_task(*engine, "bnf_echo", tmp_path / "base", _quiet, include_path=definitions, limit=4)
    second = run_task(*engine, "bnf_echo", tmp_path / "aligned", _quiet, include_path=definitions, limit=4, num_fewshot=0)
    assert first["num_fewshot"]["bnf_echo"] == 1 and second["num_fewshot"]["bnf_echo"] == 0
    found = tasks_of({"bnf_echo": {name: tmp_path / name for name in ("base", "aligned")}})
    entry = found["bnf_echo"]["bnf_echo"]["exact_match,none"]
    assert entry["n"] == entry["n_paired"] == 4
    assert entry["delta"] == entry["aligned"]["value"] - entry["base"]["value"]
    (row,) = task_rows({"lm_eval": found})
    assert row["lm-eval task"] == "bnf_echo" and row["documents"] == "4" and row["Δ [95 %]"].startswith("0.0000")


class Counts:
    """An engine that counts what it is asked, and fails after so many replies."""

    takes, supports_choices, version = "ids", False, "counts 1"

    def __init__(self, engine, most=1000):
        self.engine, self.most, self.num = engine, most, 0
        self.max_model_len = engine.max_model_len

    def _counted(self, replies):
        for reply in replies:
            if self.num == self.most:
                raise RuntimeError("the engine broke")
            self.num += 1
            yield reply

    def generate(self, prompts, sampling):
        return self._counted(self.engine.generate(prompts, sampling))

    def loglikelihoods(self, pairs):
        return self._counted(self.engine.loglikelihoods(pairs))


@pytest.mark.parametrize(("task", "requests"), [("bnf_colours", 12), ("bnf_echo", 6)])
def test_a_task_that_broke_off_goes_on_and_its_results_are_those_of_one_that_didn_t(
    definitions, engine, tmp_path, task, requests
):
    def run(engine_, folder):
        return run_task(engine_, engine[1], task, tmp_path / folder, _quiet, include_path=definitions)

    whole = Counts(engine[0])
    expected = run(whole, "whole")
    assert whole.num == requests
    with pytest.raises(RuntimeError, match="the engine broke"):
        run(Counts(engine[0], 4), "broken")
    assert len((tmp_path / "broken" / "replies.jsonl").read_text().splitlines()) == 4
    rest = Counts(engine[0])
    assert run(rest, "broken") == expected and rest.num == requests - 4
    assert {path.name: path.read_bytes() for path in (tmp_path / "broken").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()
    }


def test_a_system_prompt_stands_before_chat_prompts_that_have_no_system_message(engine):
    from evaluation.harness.model import EngineModel

    opened, tokenizer = engine
    tokenizer.chat_template = "{% for message in messages %}{{ message.role }}: {{ message.content }} {% endfor %}"
    asked, own = {"role": "user", "content": "12"}, {"role": "system", "content": "11"}
    for given, messages, text in (
        ("10", [asked], "system: 10 user: 12 "),
        ("10", [own, asked], "system: 11 user: 12 "),
        (None, [asked], "user: 12 "),
    ):
        assert EngineModel(opened, tokenizer, _quiet, given).apply_chat_template(messages) == text


@pytest.mark.skipif("BNF_TEST_DATA" not in os.environ, reason="BNF_TEST_DATA names no folder of upstream data")
def test_lm_evals_own_definition_with_its_examples_runs_over_local_data(engine, tmp_path):
    import lm_eval

    data = Path(os.environ["BNF_TEST_DATA"]) / "gsm8k"
    own = Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
    files = {"train": str(data / "train.first1000.jsonl"), "test": str(data / "test.jsonl")}
    (tmp_path / "gsm8k_local.yaml").write_text(
        f"include: {own}\ntask: gsm8k_local\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs:\n  data_files: {json.dumps(files)}\n"
    )
    results = run_task(*engine, "gsm8k_local", tmp_path / "out", _quiet, include_path=tmp_path, limit=1)
    assert results["num_fewshot"]["gsm8k_local"] == 5
    assert results["n_samples"]["gsm8k_local"] == {"original": 1319, "effective": 1}
    assert {"exact_match,strict-match", "exact_match,flexible-extract"} <= set(results["results"]["gsm8k_local"])
    samples = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 2  # one document, read by two filters
    assert all(sample["target"].endswith("#### 18") for sample in samples)


def test_unknown_names_are_told_with_the_nearest_and_own_definitions_count(definitions, engine, tmp_path):
    assert unknown_task("ifeval") is None and unknown_task("arc_challenge") is None
    assert unknown_task("bnf_colours", definitions) is None
    with pytest.raises(ValueError, match=r"must name tasks of lm-eval.* got 'ifevall'; did you mean ifeval"):
        run_task(*engine, "ifevall", tmp_path, _quiet)
    with pytest.raises(ValueError, match="must not execute what a model wrote, got bnf_unsafe"):
        (definitions / "bnf_unsafe.yaml").write_text(
            (definitions / "bnf_echo.yaml").read_text().replace("bnf_echo", "bnf_unsafe") + "unsafe_code: true\n"
        )
        run_task(*engine, "bnf_unsafe", tmp_path, _quiet, include_path=definitions)


class Thinks:
    """An engine whose model writes a line of thought before each answer, and ends where a stop text stands, as an engine may."""

    takes, supports_choices, max_model_len, version = "ids", False, None, "thinks 1"

    def __init__(self, *texts):
        self.texts, self.asked = texts, []

    def generate(self, prompts, sampling, received=None):
        for index in range(len(prompts)):
            text = self.texts[len(self.asked) % len(self.texts)]
            self.asked.append(sampling.stop)
            stops = [text.find(stop) + len(stop) for stop in sampling.stop or () if stop in text]
            yield index, [Generation(text[: min(stops, default=len(text))], [], "stop", 1, 9)]


def test_a_task_s_stop_texts_end_no_thought_and_thoughts_are_on_record(definitions, engine, tmp_path):
    """The task ends at a line break, and so would the thought; after it the answer is still cut there."""
    thinking = Thinks("<think>\nit is <colour>?\n</think>\n\nblue\nor so")
    results = run_task(thinking, engine[1], "bnf_echo", tmp_path, _quiet, include_path=definitions, limit=2)
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [sample["answers"] for sample in samples] == [["blue"]] * 2
    assert results["thoughts"] == {"num": 2, "num_unfinished": 0}
    kept = [json.loads(line) for line in (tmp_path / "thoughts.jsonl").read_text().splitlines()]
    assert [one["completion"] for one in kept] == [thinking.texts[0]] * 2 and all(one["is_finished"] for one in kept)
    assert thinking.asked.count(None) == 2


class EndsThoughts(Thinks):
    """One that says that it ended each thought, as `ThinkingEngine` does."""

    def generate(self, prompts, sampling, received=None):
        for index, (one,) in super().generate(prompts, sampling):
            yield index, [dataclasses.replace(one, is_thought_cut=True)]


def test_thoughts_that_met_their_limit_are_counted(definitions, engine, tmp_path):
    results = run_task(
        EndsThoughts("<think>\nit is\n</think>blue"), engine[1], "bnf_echo", tmp_path, _quiet, include_path=definitions, limit=2
    )
    assert results["thoughts"] == {"num": 2, "num_unfinished": 0, "num_cut": 2}
    kept = [json.loads(line) for line in (tmp_path / "thoughts.jsonl").read_text().splitlines()]
    assert [one["is_thought_cut"] for one in kept] == [True, True]


def test_nothing_is_read_of_a_thought_that_doesn_t_end_and_a_plain_answer_is_generated_once(definitions, engine, tmp_path):
    lost = Thinks("<think>\nblue")
    results = run_task(lost, engine[1], "bnf_echo", tmp_path / "lost", _quiet, include_path=definitions, limit=2)
    assert results["thoughts"] == {"num": 2, "num_unfinished": 2}
    samples = [json.loads(line) for line in (tmp_path / "lost" / "samples.jsonl").read_text().splitlines()]
    assert [sample["answers"] for sample in samples] == [[""]] * 2
    plain = Thinks("blue\nor so")
    results = run_task(plain, engine[1], "bnf_echo", tmp_path / "plain", _quiet, include_path=definitions, limit=2)
    assert "thoughts" not in results and len(plain.asked) == 2 and not (tmp_path / "plain" / "thoughts.jsonl").exists()
