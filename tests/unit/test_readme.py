"""What the README shows is true: its example computes BNF's gradient, and its recipe keys exist."""

import re
import shutil
from types import SimpleNamespace

import torch
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from bnf.training.config import TrainConfig
from data.rows import Candidate, Fields, Row
from flows.recipe import docs
from flows.recipe.benchmark_sections import LmEvalTask
from flows.recipe.config import make_recipe
from tasks.keys import ROOT
from tests.unit.conftest import DEMONSTRATION_MODEL

README = (ROOT / "README.md").read_text()
RECIPES = (ROOT / "docs" / "recipes.md").read_text()


def block(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)[number]


def test_the_examples_gradient_is_the_published_losss():
    torch.manual_seed(0)
    shape = (2, 5, 7)
    ids = torch.randint(7, shape[:2])
    logits = torch.randn(shape, requires_grad=True)
    reference = logits.detach() + 0.5 * torch.randn(shape)
    mask = torch.tensor([[0.0, 1, 1, 1], [0, 0, 1, 1]])
    sign = torch.tensor([1.0, -1.0])
    names = {
        "model": lambda _: SimpleNamespace(logits=logits),
        "reference_model": lambda _: SimpleNamespace(logits=reference),
        **{"ids": ids, "mask": torch.cat([torch.zeros(2, 1), mask], 1), "signs": sign},
    }
    exec(block("python"), names)
    (found,) = torch.autograd.grad(names["loss"], logits)

    # Equations 7 and 8 of the paper, over the whole vocabulary.
    logps = logits[:, :-1].log_softmax(-1)
    label = ids[:, 1:, None]
    p, r = logps.gather(-1, label).exp(), reference[:, :-1].log_softmax(-1).gather(-1, label).exp()
    f_label = (p / r).clamp(max=1)
    target = ((1 - f_label) / (1 - p) * logps.exp()).scatter(-1, label, f_label).detach()
    per_completion = (target * logps).sum(-1).mul(mask).sum(-1) / mask.sum(-1)
    (expected,) = torch.autograd.grad(-(sign * per_completion).mean(), logits)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_training_it_shows_runs_as_it_stands(tmp_path, monkeypatch):
    model = tmp_path / "models" / "SmolLM2-135M-Instruct"
    model.mkdir(parents=True)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMONSTRATION_MODEL / file, model)
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
    config = LlamaConfig(**shape, vocab_size=49152, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True)
    before = LlamaForCausalLM(config).to(torch.bfloat16)
    before.save_pretrained(model)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block("python", 1), names)
    assert (names["summary"].steps, names["summary"].groups) == (2, 1)
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "policy")
    assert any(not torch.equal(a, b) for a, b in zip(policy.parameters(), before.parameters(), strict=True))


def test_the_recipe_it_shows_is_valid():
    recipe = make_recipe({"name": "readme", **yaml.safe_load(block("yaml"))})
    assert recipe.train["learning_rate"] == 5e-7


def test_every_recipe_key_is_documented():
    recipe = make_recipe(
        {
            **{"name": "all", "model_name_or_path": "m", "train": {}, "data": {"source": "s", "path": "p"}},
            "judge": {"model_name_or_path": "m", "benchmarks": {"arena_hard": {}}},
            "spending": {"prices": {"m": {"input": 1, "output": 2}}},
        }
    )
    keys = set(type(recipe).model_fields) | set(TrainConfig().to_dict())
    for section in ("data", "prepare", "evaluation", "judge", "spending"):
        keys |= set(type(getattr(recipe, section)).model_fields)
    keys |= set(type(recipe.judge.benchmarks["arena_hard"]).model_fields)
    keys |= set(LmEvalTask.model_fields)
    undocumented = {key for key in keys if f"`{key}`" not in RECIPES}
    assert not undocumented


def test_the_example_of_docs_data_is_a_recipe_of_sources_that_there_are():
    text = (ROOT / "docs" / "data.md").read_text()
    recipe = make_recipe({"name": "data", **yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.S).group(1))})
    there = {path.stem for path in (ROOT / "data" / "sources").glob("[!_]*.py")} - {"number_comparison"}
    assert {one.source for one in recipe.sources()} <= there
    without = there - rows_of("data.md")
    assert not without, f"docs/data.md must have a row for each source; add `| `{min(without)}` | what it reads | a record |`"


def rows_of(document):
    """The names that stand first in the rows of a document's tables."""
    return set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / document).read_text(), re.M))


def test_the_rounds_of_docs_data_are_a_recipe():
    _, example = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.S)
    recipe = make_recipe({"name": "rounds", "model_name_or_path": "m", **yaml.safe_load(example)})
    assert recipe.sample.rounds * recipe.sample.prompts_per_round == recipe.sample.num_prompts


def test_the_source_that_contributing_shows_reads_its_record():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    [code] = [block for block in blocks if "data.rows" in block]
    module: dict = {}
    exec(code, module)
    row = module["row"](Fields({"question": "q", "reply": "a", "stars": 4}, module["COLUMNS"]))
    assert row == Row([{"role": "user", "content": "q"}], (Candidate("a", None, 4.0),))


def test_the_tables_of_recipe_keys_are_those_of_the_code():
    assert docs.with_tables(RECIPES) == RECIPES, "run `python -m flows.recipe.docs`"
    shown = set(re.findall(r"^<!-- keys of (\S+) -->$", RECIPES, re.M))
    # Other judges have the keys of the first one.
    assert docs.sections().keys() - shown == {"judge.second", "label.judge"} and shown <= docs.sections().keys()
