"""Recipes: what is wrong is said in one message that names the key, the value and the remedy."""

from pathlib import Path

import pytest
import yaml

from flows.errors import RecipeError
from flows.recipe.config import Recipe, find_path, load_recipe, make_recipe
from flows.recipe.sweep_file import is_sweep
from tasks.keys import ROOT
from tests.recipes import RECIPES

MINIMAL = {"name": "r", "model_name_or_path": "some/model"}
TRAINED = {**MINIMAL, "data": {"source": "pairs", "path": "x.jsonl"}, "train": {}}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trian.learning_rate=1"], r"trian must be a key of the recipe, got an unknown one; did you mean train\?"),
        (["evaluation.max_new_token=5"], r"evaluation.max_new_token must be .* did you mean max_new_tokens\?"),
        (
            ["sharding=full"],
            r"sharding must be a key of the recipe, got an unknown one; write train.sharding, or put it into `train`",
        ),
        (["prepare.nproc_per_node=2"], r"prepare.nproc_per_node must be .*; write train.nproc_per_node"),
        (["train.learning_rte=1"], r"train.learning_rte must be a known key.*did you mean learning_rate\?"),
        (["train.objective=bnff"], r"objective must be one of .*bnf.*got 'bnff'; did you mean bnf\?"),
        (["train.per_device_train_batch_size=4"], r"per_device_train_batch_size must be left out.*global_batch_size"),
        (["train.seed=1"], r"train.seed must not be set.*seed=… at the top level"),
        (["prepare.mask_fraction=1.5"], r"prepare.mask_fraction must be at most 1, got 1.5; correct it"),
        (["seed"], r"overrides must be key=value, got 'seed'"),
        (["name.deep=1"], r"name.deep must name a key of the recipe, got one inside name"),
        (["sample.source=x"], "data must stand beside sample where sample.offline_mix .* got offline_mix 0 with data"),
        (["data=null"], r"train must come with data or sample"),
        (["data={source: pairs}"], r"^data\.path must be given"),
        (["data=[{source: pairs, path: x}, {source: pairs}]"], r"^data\.1\.path must be given"),
        (
            ["data=[{source: pairs, pth: x}]"],
            r"data\.0\.pth must be a key of the recipe, got an unknown one; did you mean path\?",
        ),
        (["data=[{source: a, path: x, weight: 1}, {source: b, path: y}]"], r"data\.weight must be set for every source"),
        (["data.weight=2"], r"data\.weight must be left out for one source, got 2; remove it"),
        (
            ["prepare.mask_to_chosen=0.6", "prepare.mask_to_rejected=0.5"],
            r"mask_to_rejected must sum to 1 at most .*0\.6, 0\.5",
        ),
        (["prepare.mask_to_chosen=0.6", "prepare.mask_fraction=0.1"], r"stand without mask_fraction"),
        (["prepare.ratings.treshold=3"], r"prepare\.ratings\.treshold must be .*did you mean threshold\?"),
        (["prepare.ratings.quantile=0.6"], r"prepare\.ratings\.quantile must be at most 0\.5, got 0\.6"),
        (["evaluation.lm_eval.ifeval.few_shot=5"], r"evaluation.lm_eval.ifeval.few_shot must be .* did you mean num_fewshot\?"),
        (
            ["evaluation.lm_eval=[ifeval]", "evaluation.engine=openai"],
            r"evaluation.lm_eval must run on an engine .* got openai",
        ),
        (
            ["evaluation.max_thinking_tokens=64", "evaluation.engine=openai"],
            r"evaluation.max_thinking_tokens must be left out with engine openai, .* got 64; remove it and give the server",
        ),
        (["evaluation.max_thinking_tokens=0"], r"evaluation.max_thinking_tokens must be above 0, got 0"),
        (["evaluation.thinking_budget=64"], r"thinking_budget .*evaluation\.max_thinking_tokens"),
        (
            ["sample={source: x, num_prompts: 4, prompts_per_round: 5}"],
            r"prompts_per_round must be at most sample.num_prompts \(4\), got 5",
        ),
        (
            ["sample={source: x, config: main}"],
            r"sample.config must come with sample.path, .* got 'main' alone",
        ),
        (
            ["sample={source: x, samples_per_prompt: 1, temperature: [0.5, 1]}"],
            r"sample.temperature must be .* not more of them than",
        ),
        (
            ["sample={source: x, offline_mix: 0.5}", "data=null"],
            r"data must stand beside sample .* got offline_mix 0.5 without data",
        ),
        (["judge.benchmarks.arena_hard={}"], r"judge.model_name_or_path must name a local judge"),
        (["judge.engine=openai"], r"judge.model must name the judge at the endpoint"),
        (
            ["judge.engine=openai", "judge.model=m", "judge.verdict=choice"],
            r"judge.verdict must be text or structured or logprobs with engine openai, got choice",
        ),
        (
            ["judge={engine: reward_model, model_name_or_path: m, verdict: text}"],
            r"judge.verdict must be left out with engine reward_model",
        ),
        (["judge={engine: openai, model: m}", "judge.second.modle=n"], r"judge.second.modle .* did you mean model\?"),
        (["name=a/b"], r"name must be letters, digits, .* got 'a/b'; write name=a-b"),
        (["name=../../esc"], r"name must be .* got '../../esc'; write name=esc"),
        (["name=''"], r"name must be .* write name=recipe"),
        (["name=-x"], r"name must be .* write name=x"),
        ([f"name={'x' * 101}"], r"name must be .* 100 at most"),
        (["spending.max_usd=0"], r"spending.max_usd must be above 0, got 0;"),
        (["prepare.dev_fraction=1"], r"prepare.dev_fraction must be below 1, got 1;"),
        (["seed=4294967296"], r"seed must be at most 4294967295, got 4294967296;"),
        (["data=[]"], r"data must be 1 or more, got \[\]; add one"),
        (["data.path="], r"data.path must be text, got nothing; write one, or leave the key out"),
        (["label.labeler=verifier"], r"^label must come with sample, .* got label without sample; remove it"),
        (["seed=-1"], r"seed must be at least 0, got -1;"),
        (["prepare.pairing=pairs"], r"prepare.pairing must be 'none', 'best_worst' or 'all', got 'pairs'; write one of these"),
        (["prepare.pairing=best"], r"prepare.pairing must be .*, got 'best'; did you mean best_worst\?$"),
        (["train.keep_best=eval_acc"], r"train.keep_best must be .*, got 'eval_acc'; did you mean eval_accuracy\?"),
        (["date=yesterday"], r"^date must be a day as YYYY-MM-DD, got 'yesterday'"),
        (["spending.prices={m: {inptu: 1, output: 2}}"], r"spending.prices.m.inptu .* did you mean input\?"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(overrides, message):
    with pytest.raises(RecipeError, match=message):
        make_recipe(TRAINED, overrides)


def test_keys_with_dashes_are_those_with_underscores_in_a_file_too(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "model-name-or-path: some/model\n"
        "data: {source: pairs, path: a/x.jsonl, columns: {prompt: my-question}}\n"
        "prepare: {mask-fraction: 0.5}\n"
        "train: {learning-rate: 1e-5, objective: bnf-contrast, objective-options: {contrast-weight: 0.2}}\n"
        "evaluation: {lm-eval: {gsm8k-cot: {num-fewshot: 5}}}\n"
        "spending: {prices: {gpt-x: {input: 1, output: 2}}}\n"
    )
    recipe = load_recipe(str(tmp_path / "r.yaml"), ["train.learning-rate=1e-6", "prepare.mask_fraction=0.25"])
    assert recipe.prepare.mask_fraction == 0.25 and recipe.train["learning_rate"] == 1e-6
    assert recipe.train["objective_options"] == {"contrast_weight": 0.2}
    assert recipe.data.columns == {"prompt": "my-question"}
    assert recipe.evaluation.lm_eval["gsm8k-cot"].num_fewshot == 5 and list(recipe.spending.prices) == ["gpt-x"]


def test_a_key_with_dashes_beside_the_same_with_underscores_is_refused():
    with pytest.raises(RecipeError, match=r"^train.learning_rate must be given once, got it with - and with _; remove one"):
        make_recipe({**TRAINED, "train": {"learning-rate": 1e-5, "learning_rate": 1e-6}})


@pytest.mark.parametrize(("file", "name"), [("llama-3.1", "llama-3.1"), ("my own", "my-own"), ("-ä", "recipe")])
def test_a_recipe_without_a_name_is_called_as_its_file_is(tmp_path, file, name):
    (tmp_path / f"{file}.yaml").write_text("model_name_or_path: some/model\n")
    assert load_recipe(str(tmp_path / f"{file}.yaml")).name == name


def test_the_form_says_of_every_field_what_it_means():
    schema = Recipe.model_json_schema()
    sections = {"recipe": schema, "train": schema["properties"]["train"]["anyOf"][0], **schema["$defs"]}
    silent = [
        f"{section}.{name}"
        for section, value in sections.items()
        for name, field in value["properties"].items()
        if not field.get("description")
    ]
    assert silent == [] and len(sections["train"]["properties"]) > 25


def test_every_choice_of_the_form_has_a_name():
    """The UI shows a button per choice: the title of what it refers to, or its type."""

    def unnamed(value, where):
        if isinstance(value, list):
            return [one for entry in value for one in unnamed(entry, where)]
        if not isinstance(value, dict):
            return []
        choices = [*value.get("anyOf", []), *value.get("oneOf", [])]
        found = [where for choice in choices if not choice.keys() & {"$ref", "type", "title", "const", "enum"}]
        return found + [one for key, entry in value.items() for one in unnamed(entry, f"{where}.{key}")]

    assert unnamed(Recipe.model_json_schema(), "recipe") == []


def test_a_missing_key_is_named():
    with pytest.raises(RecipeError, match="model_name_or_path must be given"):
        make_recipe({"name": "r"})


def test_overrides_are_yaml_and_numbers_may_be_written_as_people_do():
    recipe = make_recipe(
        TRAINED, ["train.learning_rate=2e-5", "seed=3", "evaluation.benchmarks={gsm8k: {limit: 4}}", "train.bf16=false"]
    )
    assert recipe.train["learning_rate"] == 2e-5 and recipe.train["bf16"] is False
    assert recipe.seed == 3 and recipe.train_config().seed == 3
    assert recipe.evaluation.benchmarks["gsm8k"].limit == 4


def test_a_list_of_benchmarks_takes_overrides_of_one():
    recipe = make_recipe({**MINIMAL, "evaluation": {"benchmarks": ["gsm8k", "crux"]}}, ["evaluation.benchmarks.crux.limit=7"])
    assert recipe.evaluation.benchmarks["crux"].limit == 7 and recipe.evaluation.benchmarks["gsm8k"].limit is None


def test_a_mixture_is_a_list_and_takes_no_override_of_one_of_its_sources():
    mixture = {
        **TRAINED,
        "data": [{"source": "pairs", "path": "x", "weight": 1}, {"source": "thumbs", "path": "y", "weight": 2}],
    }
    recipe = make_recipe(mixture)
    assert [(one.source, one.weight) for one in recipe.sources()] == [("pairs", 1.0), ("thumbs", 2.0)]
    assert make_recipe(recipe.model_dump()) == recipe
    assert [one.source for one in make_recipe(TRAINED).sources()] == ["pairs"] and make_recipe(MINIMAL).sources() == []
    with pytest.raises(RecipeError, match=r"data\.path must name one of several, got a list of 2 in data; edit the recipe"):
        make_recipe(mixture, ["data.path=z"])
    with pytest.raises(RecipeError, match=r"prepare\.max_length must name one of several, got a list of 1 in prepare"):
        make_recipe({**TRAINED, "prepare": [[]]}, ["prepare.max_length=4"])


@pytest.mark.parametrize("override", ["train.\udcff=1", "name=\udcff", 'name="\\ud800"', 'chat_template_kwargs={"\\ud800": 1}'])
def test_text_that_no_file_can_hold_is_refused_and_shown(override):
    with pytest.raises(RecipeError, match="UTF-8") as caught:
        make_recipe(TRAINED, [override])
    assert str(caught.value).isascii()


def test_lm_eval_tasks_are_names_or_names_with_settings():
    recipe = make_recipe({**MINIMAL, "evaluation": {"lm_eval": ["ifeval", "arc-x"]}}, ["evaluation.lm_eval.ifeval.limit=7"])
    assert recipe.evaluation.lm_eval["ifeval"].limit == 7 and recipe.evaluation.lm_eval["arc-x"].num_fewshot is None


def test_a_resolved_recipe_is_a_recipe():
    recipe = make_recipe(TRAINED, ["evaluation.benchmarks=[gsm8k]"])
    again = make_recipe(yaml.safe_load(yaml.safe_dump(recipe.model_dump())))
    assert again == recipe


@pytest.mark.parametrize("path", [path.relative_to(ROOT).as_posix() for path in RECIPES])
def test_the_projects_recipes_are_valid_from_any_folder(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # What begins with _ is there for other recipes.
    assert load_recipe(path).name == Path(path).stem.removeprefix("_")


@pytest.mark.parametrize(("text", "message"), [("a: [", "must be YAML"), ("- a", "must be a mapping"), ("\xff", "must be")])
def test_an_ill_formed_file_is_a_recipe_error(tmp_path, text, message):
    file = tmp_path / "r.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(file))


def test_a_missing_file_is_named_with_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=rf"nowhere.yaml must exist, got no such file or folder in {tmp_path}"):
        load_recipe("nowhere.yaml")
    (tmp_path / "mine.yaml").write_text("model_name_or_path: m\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"^mine must exist, got no such file .*; write mine.yaml$"):
        load_recipe("mine")


def test_the_working_folder_comes_before_the_project(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert find_path("README.md") == tmp_path / "README.md"
    assert find_path("Makefile").read_text().startswith("# make demo")


@pytest.mark.parametrize("name", ["./model", "owner/some-model"])
def test_a_model_in_a_recipes_place_leads_to_its_evaluation(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(
        RecipeError, match=rf"`bnf evaluate {name}`, and `bnf plan .*evaluate.yaml model_name_or_path={name}` says"
    ):
        load_recipe(name)
    if name != "./model":
        with pytest.raises(RecipeError, match=rf"`bnf evaluate {name}`, and `bnf plan"):
            is_sweep(name)
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(RecipeError, match=r"got the folder .*/model; the project's own lie in flows/recipes"):
        load_recipe("./model")
    with pytest.raises(
        RecipeError, match=r"recipes/mine.yaml must exist, got no such file or folder in \S+( or \S+)*; check the path$"
    ):
        load_recipe("recipes/mine.yaml")
