"""The day that chat templates are told: one for a run, in the key of every stage that applies a template, and of no other."""

import pytest

from evaluation.generation.generate import generate
from evaluation.types import Sampling
from flows.dag.graph import build
from flows.errors import RecipeError
from flows.recipe.config import load_recipe, make_recipe
from tasks.keys import ROOT
from tests.unit.evaluation.fake_engine import FakeEngine, no_progress

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct"
pytestmark = pytest.mark.skipif(not MODEL.is_dir(), reason="the demonstration model is not there; make env fetches it")
RECIPES = ("quickstart", "pairs", "rounds")
RENDERING = {"prepare", "sample", "generate", "lm_eval", "judge"}


def changed_stages(recipe):
    before, after = (
        {node.id: node.settings for node in build(load_recipe(f"flows/recipes/{recipe}.yaml", [f"date={day}"]))}
        for day in ("2024-07-26", "2031-02-03")
    )
    return {name for name in before if before[name] != after[name]} - {"report"}, before


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_is_in_the_keys_of_the_stages_that_apply_a_template(recipe):
    changed, settings = changed_stages(recipe)
    # An endpoint applies its own, and samples and labels by a rule come without.
    rendering = {
        name
        for name, given in settings.items()
        if name.split("/")[0] in RENDERING
        and given.get("engine", {}).get("name") != "openai"
        and not (name.startswith("prepare") and "sources" not in given)
    }
    assert changed == rendering and any(name.startswith("generate") for name in changed)


def test_a_day_may_be_yamls_own_or_text(tmp_path):
    (tmp_path / "r.yaml").write_text("model_name_or_path: some/model\ndate: 2025-03-04\n")
    assert load_recipe(str(tmp_path / "r.yaml")).date == "2025-03-04"
    assert make_recipe({"model_name_or_path": "some/model"}).date == "2024-07-26"
    for wrong in ("tomorrow", "2025-3-4", 20250304, True, "2025-02-30"):
        with pytest.raises(RecipeError, match=r"^date must be a day as YYYY-MM-DD, got"):
            make_recipe({"model_name_or_path": "some/model", "date": wrong})


def test_a_benchmarks_prompt_that_the_template_does_not_write_is_refused(tmp_path):
    from bnf.data.rendering import load_tokenizer

    tokenizer = load_tokenizer(MODEL)
    tokenizer.chat_template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    with pytest.raises(
        ValueError, match=r"model_name_or_path must have a chat template .* message 0 \(system\) with 'Be brief.'"
    ):
        generate(FakeEngine(takes="ids"), tokenizer, [{"id": "1"}], lambda _: asked, Sampling(4), tmp_path, no_progress)
