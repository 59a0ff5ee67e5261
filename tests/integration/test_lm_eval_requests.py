"""What lm-eval's tasks ask of the engines: the token ids of lm-eval's own models, whole prompts, and the same ones in every process."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.harness.model import EngineModel
from evaluation.harness.tasks import run_task
from evaluation.types import Generation

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
TEMPLATE = "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}{% if add_generation_prompt %}w9{% endif %}"


def _quiet(done, total, note):
    pass


class Notes:
    """An engine that notes what it is asked, and writes `w7` as often as there is room, or finds every text equally likely."""

    takes, supports_choices, version = "ids", False, "notes 1"

    def __init__(self, max_model_len=None):
        self.max_model_len = max_model_len
        self.prompts, self.samplings, self.pairs = [], [], []

    def generate(self, prompts, sampling, received=None):
        for index, prompt in enumerate(prompts):
            self.prompts.append(list(prompt))
            self.samplings.append(sampling)
            room = sampling.max_new_tokens
            if self.max_model_len is not None:
                room = min(room, self.max_model_len - len(prompt))
            if room < 1:
                yield index, [Generation("", [], "prompt_too_long", len(prompt), 0)]
            else:
                yield index, [Generation("w7 " * room, [7] * room, "length", len(prompt), room)]

    def loglikelihoods(self, pairs):
        for index, (context, continuation) in enumerate(pairs):
            self.pairs.append((list(context), list(continuation)))
            yield index, (-1.0, False)


def _tokenizer(adds_bos):
    """The tiny model's words; `adds_bos` as Llama's tokenizer does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"w0": 0, "<s>": 1, "</s>": 2, **{f"w{index}": index for index in range(3, 97)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    named = {"bos_token": "<s>"} if adds_bos else {}
    if adds_bos:
        words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="w0", chat_template=TEMPLATE, **named)


def _instances(kind, *arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, one, index, (None, index, 1)) for index, one in enumerate(arguments)]


def _task(folder, name, *lines, rows=None):
    """The definition of a task over rows of its own, in `folder`."""
    folder.mkdir(exist_ok=True)
    rows = rows or [{"question": " ".join(f"w{20 + n}" for n in range(2 + number)), "answer": "w7"} for number in range(4)]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    definition = [
        f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder / name}.jsonl\ntest_split: test",
        'doc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\nmetadata:\n  version: 1.0',
        "metric_list:\n  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true",
        *lines,
    ]
    (folder / f"{name}.yaml").write_text("\n".join(definition) + "\n")
    return folder


GENERATES = "output_type: generate_until"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("adds_bos", [True, False])
def test_token_ids_are_those_of_lm_evals_own_model(adds_bos, tiny_model_dir, monkeypatch):
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    tokenizer, engine = _tokenizer(adds_bos), Notes()
    theirs = HFLM(AutoModelForCausalLM.from_pretrained(tiny_model_dir), tokenizer=tokenizer, batch_size=1, backend="causal")
    ours = EngineModel(engine, tokenizer, _quiet)
    chat = ours.apply_chat_template([{"role": "user", "content": "w12"}])
    assert chat == theirs.apply_chat_template([{"role": "user", "content": "w12"}])

    asked = {"until": ["w3"], "max_gen_toks": 4, "do_sample": False}
    texts = ["w10 w11", "<s> w10", "<s>w10 ", "</s> w10", chat, f"<s>{chat}"]
    prompts = {}

    def generated(context, **_):
        prompts[len(prompts)] = context[0].tolist()
        return context

    monkeypatch.setattr(theirs, "_model_generate", generated)
    for text in texts:
        theirs.generate_until(_instances("generate_until", (text, dict(asked))), disable_tqdm=True)
    ours.generate_until(_instances("generate_until", *((text, dict(asked)) for text in texts)))
    assert engine.prompts == list(prompts.values())
    assert engine.prompts[0] == ([1, 10, 11] if adds_bos else [10, 11])
    assert engine.prompts[1] == ([1, 10] if adds_bos else [0, 0, 0, 10])

    weighed = []

    def weighs(requests, **_):
        weighed.extend((context, continuation) for _, context, continuation in requests)
        return [(-1.0, False)] * len(requests)

    monkeypatch.setattr(theirs, "_loglikelihood_tokens", weighs)
    pairs = [
        ("w10 w11", " w12"),
        ("<s>w10", " w11 w12"),
        ("w10 ", "w11"),
        ("", "w12 w13"),
        ("", "<s> w13"),
        ("", "</s> w13"),
        (chat, " w5"),
    ]
    theirs.loglikelihood(_instances("loglikelihood", *pairs), disable_tqdm=True)
    ours.loglikelihood(_instances("loglikelihood", *pairs), disable_tqdm=True)
    assert engine.pairs == weighed
    assert engine.pairs[0] == (([1, 10, 11] if adds_bos else [10, 11]), [12])
    # What stands before a text without a context is the token that begins one, where there is such a token.
    assert engine.pairs[3] == ([1 if adds_bos else 2], [12, 13])

    weighed.clear(), engine.pairs.clear()
    theirs.loglikelihood_rolling(_instances("loglikelihood_rolling", ("w10 w11 w12",)), disable_tqdm=True)
    ours.loglikelihood_rolling(_instances("loglikelihood_rolling", ("w10 w11 w12",)))
    assert engine.pairs == weighed and engine.pairs[0][0] == [1 if adds_bos else 2]


def test_a_prompt_stays_whole_where_the_task_asks_for_more_than_the_context_holds(tmp_path):
    """Prompts of 2, 3, 4 and 5 tokens, 32,768 new ones, and a context of 5 tokens: one prompt has no room at all."""
    folder = _task(
        tmp_path / "tasks", "bnf_long", GENERATES, "generation_kwargs:\n  until: []\n  max_gen_toks: 32768\n  do_sample: false"
    )
    engine = Notes(max_model_len=5)
    results = run_task(engine, _tokenizer(False), "bnf_long", tmp_path / "out", _quiet, include_path=folder)
    assert sorted(engine.prompts, key=len) == [list(range(20, 20 + size)) for size in (2, 3, 4, 5)]
    samples = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert [sample["answers"][0].split() for sample in samples] == [["w7"] * 3, ["w7"] * 2, ["w7"], []]
    assert results["room"] == {
        **{"max_length": 5, "num_requests": 4},
        **{"num_less_room": 3, "num_cut_off": 3, "num_too_long": 1, "num_contexts_cut": 0},
    }


def test_a_task_that_fits_has_nothing_to_say(tmp_path):
    folder = _task(
        tmp_path / "tasks", "bnf_fits", GENERATES, "generation_kwargs:\n  until: []\n  max_gen_toks: 8\n  do_sample: false"
    )
    results = run_task(Notes(13), _tokenizer(False), "bnf_fits", tmp_path / "out", _quiet, include_path=folder)
    assert [key for key, value in results["room"].items() if value] == ["max_length", "num_requests"]


def test_contexts_of_choices_are_cut_from_the_left_and_counted(tmp_path):
    """As many tokens as a context of 5 leaves beside the one that vLLM generates: 4, the choice's among them."""
    lines = ["output_type: multiple_choice", 'doc_to_choice: ["w7", "w8 w9"]']
    folder = _task(tmp_path / "tasks", "bnf_choices", *lines)
    definition = folder / "bnf_choices.yaml"
    definition.write_text(definition.read_text().replace("exact_match", "acc"))
    engine = Notes(max_model_len=5)
    results = run_task(engine, _tokenizer(False), "bnf_choices", tmp_path / "out", _quiet, include_path=folder)
    contexts = {len(choice): [context for context, one in engine.pairs if one == choice] for choice in ([7], [8, 9])}
    assert contexts[1] == [[20, 21], [20, 21, 22], [21, 22, 23], [22, 23, 24]]
    assert contexts[2] == [[20, 21], [21, 22], [22, 23], [23, 24]]
    assert results["room"]["num_requests"] == 8 and results["room"]["num_contexts_cut"] == 5


def test_examples_of_chat_prompts_are_turns_of_their_own(tmp_path, monkeypatch):
    examples = "num_fewshot: 2\nfewshot_split: test\nfewshot_config:\n  sampler: first_n"
    folder = _task(tmp_path / "tasks", "bnf_turns", GENERATES, examples)
    asked, encode = [], EngineModel.tok_encode

    def noted(self, text, *rest):
        asked.append(text)
        return encode(self, text, *rest)

    monkeypatch.setattr(EngineModel, "tok_encode", noted)
    for chat, turns in ((True, 3), (False, 0)):
        asked.clear()
        run_task(Notes(), _tokenizer(False), "bnf_turns", tmp_path / str(chat), _quiet, include_path=folder, limit=1, chat=chat)
        assert asked[0].count("user") == turns and asked[0].count("assistant") == max(0, turns - 1)


DRAWN = """
import random
import numpy as np

def process_docs(dataset):
    def shuffled(doc):
        words = doc["question"].split()
        random.shuffle(words)
        return {"question": " ".join(words)}
    return dataset.map(shuffled)

def doc_to_text(doc):
    return f"{doc['question']} w{np.random.randint(40, 90)} w{random.choice(range(40, 90))} w{np.random.permutation(30)[0]}"
"""
PROCESS = """
import random, sys
from pathlib import Path
import numpy as np, torch
from tests.integration.test_lm_eval_requests import Notes, _quiet, _tokenizer
from evaluation.harness.tasks import run_task

for earlier in (random.seed, np.random.seed, torch.manual_seed):
    earlier(int(sys.argv[2]))
engine, folder = Notes(), Path(sys.argv[1])
run_task(engine, _tokenizer(False), "bnf_drawn", Path(sys.argv[3]), _quiet, include_path=folder)
Path(sys.argv[3], "prompts.txt").write_text("\\n".join(map(str, engine.prompts)))
"""


def test_a_task_that_draws_asks_the_same_in_every_process(tmp_path):
    """Of other hash seeds, other random numbers before, and with or without what `datasets` kept of the definition's own shuffling."""
    rows = [{"question": " ".join(f"w{n}" for n in range(10, 30)), "answer": f"w{number}"} for number in range(6)]
    folder = _task(tmp_path / "tasks", "bnf_drawn", GENERATES, "process_docs: !function drawn.process_docs", rows=rows)
    (folder / "drawn.py").write_text(DRAWN)
    definition = folder / "bnf_drawn.yaml"
    definition.write_text(definition.read_text().replace('"{{question}}"', "!function drawn.doc_to_text"))
    found = []
    for number, cache in enumerate(("one", "another", "one")):
        out = tmp_path / f"out-{number}"
        env = {**os.environ, "PYTHONHASHSEED": str(number + 1), "HF_DATASETS_CACHE": str(tmp_path / cache)}
        subprocess.run([sys.executable, "-c", PROCESS, str(folder), str(number), str(out)], cwd=ROOT, env=env, check=True)
        found.append((out / "prompts.txt").read_text().splitlines())
        samples = [json.loads(line)["doc_hash"] for line in (out / "samples.jsonl").read_text().splitlines()]
        found[-1] += samples
    assert found[0] == found[1] == found[2] and len(set(found[0])) == 12


def test_the_process_s_own_random_numbers_go_on_as_if_nothing_had_been_drawn(tmp_path):
    def numbers():
        return random.random(), np.random.random(), float(torch.rand(()))

    def seed():
        random.seed(5), np.random.seed(6), torch.manual_seed(7)

    seed()
    expected = numbers()
    seed()
    folder = _task(tmp_path / "tasks", "bnf_plain", GENERATES)
    run_task(Notes(), _tokenizer(False), "bnf_plain", tmp_path / "out", _quiet, include_path=folder)
    assert numbers() == expected


class Draws(Notes):
    """One that samples with torch's random numbers, and breaks after so many replies."""

    def __init__(self, most=1000):
        super().__init__()
        self.most = most

    def generate(self, prompts, sampling, received=None):
        for index in range(len(prompts)):
            if len(self.prompts) == self.most:
                raise RuntimeError("the engine broke")
            self.prompts.append(prompts[index])
            text = str(float(torch.rand(())))
            yield index, [Generation(text, [7], "stop", 1, 1)]


def test_samples_of_one_prompt_stay_different_ones_where_a_task_goes_on(tmp_path):
    rows = [{"question": "w10", "answer": "w7"}]
    lines = ["repeats: 8", "generation_kwargs:\n  until: []\n  do_sample: true\n  temperature: 0.7"]
    lines.append("filter_list:\n  - name: all\n    filter:\n      - function: take_first_k\n        k: 8")
    folder = _task(tmp_path / "tasks", "bnf_samples", GENERATES, *lines, rows=rows)

    def run(engine):
        return run_task(engine, _tokenizer(False), "bnf_samples", tmp_path / "out", _quiet, include_path=folder)

    with pytest.raises(RuntimeError, match="broke"):
        run(Draws(4))
    run(Draws())
    (sample,) = (json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines())
    assert len(set(sample["texts"][0])) == 8


def test_a_definition_that_names_no_temperature_is_decoded_greedily_and_beams_are_refused(tmp_path):
    """61 of lm-eval's definitions name none."""
    folder = _task(tmp_path / "tasks", "bnf_bare", GENERATES, "generation_kwargs:\n  until: [w3]\n  num_beams: 1")
    engine = Notes()
    run_task(engine, _tokenizer(False), "bnf_bare", tmp_path / "out", _quiet, include_path=folder)
    assert {(one.temperature, one.max_new_tokens, tuple(one.stop)) for one in engine.samplings} == {(0.0, 256, ("w3",))}
    folder = _task(tmp_path / "tasks", "bnf_beams", GENERATES, "generation_kwargs:\n  until: [w3]\n  num_beams: 10")
    with pytest.raises(ValueError, match=r"generation_kwargs are among .* got num_beams: 10 of bnf_beams; leave the task out"):
        run_task(engine, _tokenizer(False), "bnf_beams", tmp_path / "out", _quiet, include_path=folder)
