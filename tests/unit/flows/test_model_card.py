"""What an export says in words: no text ends its place in the card, and no key and no folder of this machine is given away."""

import ast
import re
from dataclasses import replace
from types import SimpleNamespace

import yaml

from flows.commands import exporting, model_card
from flows.recipe.config import make_recipe


def test_a_cell_of_the_card_cannot_break_its_table():
    assert model_card._table([{"a": "1 | 2", "b": "<b>\n"}]) == "| a | b |\n| --- | --- |\n| 1 \\| 2 | &lt;b> |"


def test_no_text_of_a_run_or_a_base_model_ends_its_place_in_the_card():
    recipe = make_recipe(
        {
            "name": "n",
            "model_name_or_path": "a/b",
            "data": {"source": "pairs", "path": "c/d"},
            "train": {},
            "system_prompt": "Answer in\n```\n<script>\n````\nblocks.",
        }
    )
    licence = model_card.Licence("other", "terms](javascript:x) | <b>", "javascript:alert(1)")
    facts = model_card.CardFacts('my"x', "run", recipe, "a/b", licence, model_card.Code("1", None))
    card = model_card.model_card(facts)
    (block,) = re.findall(r"^(`{3,})yaml\n(.*?)\n\1$", card, re.MULTILINE | re.DOTALL)
    assert yaml.safe_load(block[1])["system_prompt"] == recipe.system_prompt and len(block[0]) == 5
    assert 'from_pretrained("my\\"x")' in card
    assert "[terms" not in card and "<b>" not in card.split("## Licence")[1]
    good = model_card._licence(replace(facts, licence=model_card.Licence("other", "terms", "https://x.org/t")))
    assert good.endswith("[terms](https://x.org/t).")


def test_the_use_of_a_policy_has_the_system_prompt_that_it_was_evaluated_with():
    recipe = {"name": "n", "model_name_or_path": "a/b", "data": {"source": "pairs", "path": "c/d"}, "train": {}}
    prompt = 'Say "yes"\nor ```no```.'
    said = []
    for given in ({}, {"system_prompt": prompt}):
        facts = model_card.CardFacts("n", "run", make_recipe(recipe | given), "a/b", None, model_card.Code("1", None))
        (line,) = re.findall(r"^messages = (.*)$", model_card.model_card(facts), re.MULTILINE)
        said.append(ast.literal_eval(line))
    user = {"role": "user", "content": "…"}
    assert said == [[user], [{"role": "system", "content": prompt}, user]]


def test_a_card_of_foreign_front_matter_that_is_none_has_no_licence(tmp_path):
    (tmp_path / "README.md").write_text("---\n: [\n---\n")
    assert model_card.known_licence(tmp_path, None) is None


def test_paths_of_a_recipe_that_is_given_away_are_names():
    recipe = make_recipe(
        {
            "name": "n",
            "model_name_or_path": "/a/b/model",
            "data": {"source": "pairs", "path": "data/samples/pairs.jsonl"},
            "train": {},
        }
    )
    shown = exporting.without_folders(recipe)
    assert (shown.model_name_or_path, shown.sources()[0].path) == ("model", "data/samples/pairs.jsonl")


def test_keys_in_urls_are_not_given_away():
    secret = "https://user:hunter2@host:81/a/b.jsonl?X-Amz-Signature=hunter2#hunter2"
    recipe = make_recipe(
        {
            "name": "n",
            "model_name_or_path": "a/b",
            "data": [{"source": "pairs", "path": "https://host/x.jsonl"}, {"source": "pairs", "path": "s3://bucket/c.jsonl"}],
            "train": {},
            "judge": {
                "engine": "openai",
                "model": "m",
                "base_url": "https://host/v1",
                "benchmarks": {"arena_hard": {"source": "sample"}},
            },
        }
    )
    # A recipe that holds keys is refused; one that was made in another way gives none away.
    data = [recipe.data[0].model_copy(update={"path": secret}), *recipe.data[1:]]
    judge = recipe.judge.model_copy(update={"base_url": "https://u:hunter2@host/v1?key=hunter2"})
    recipe = recipe.model_copy(update={"data": data, "judge": judge})
    text = exporting._recipe_file(recipe) + str(exporting._sources(SimpleNamespace(artifacts={}), recipe))
    assert "hunter2" not in text and "https://host/v1" in text
    assert text.count("https://host:81/a/b.jsonl") == text.count("s3://bucket/c.jsonl") == 2
    assert recipe.sources()[0].path == secret
