"""`chat_template` and `chat_template_kwargs` in a recipe: one folder has them for all stages, and a policy is served as it was trained."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from bnf.data.rendering import load_tokenizer, prompt_text
from bnf.model.digests import model_digest
from bnf.model.served import write_alignment
from evaluation.engines.openai import OpenaiEngine
from evaluation.spending import Meter
from evaluation.types import Sampling
from flows.commands import running
from flows.dag.graph import build
from flows.dag.preflight import preflight
from flows.dag.selection import Options
from flows.errors import RecipeError
from flows.recipe.config import Recipe, load_recipe, make_recipe
from tasks.job import Job
from tasks.keys import ROOT, Ingredients
from tasks.nodes import Forecast, Node, model_folder
from tasks.remote import Remote
from tasks.stages import resolve
from tasks.store import Artifact, Store
from tests.unit.bnf.test_templates import REASONING
from tests.unit.evaluation.fake_engine import no_progress

MODEL = "models/SmolLM2-135M-Instruct"
OFF = "chat_template_kwargs={enable_thinking: false}"
QUESTION = [{"role": "user", "content": "2 + 2?"}]

pytestmark = pytest.mark.skipif(not (ROOT / MODEL).exists(), reason="the demonstration model is not there; run `make env`")


@pytest.fixture
def template(tmp_path: Path) -> str:
    """The setting that names a file with a reasoning template."""
    (tmp_path / "reasoning.jinja").write_text(REASONING)
    return f"chat_template={tmp_path / 'reasoning.jinja'}"


def nodes(recipe: str, *overrides: str) -> dict[str, Node]:
    return {node.id: node for node in build(load_recipe(f"flows/recipes/{recipe}.yaml", overrides))}


def problems(recipe: str, home: Path, *overrides: str) -> str:
    made = load_recipe(f"flows/recipes/{recipe}.yaml", overrides)
    checks = preflight(made, [Forecast(node, None, False, None, []) for node in build(made)], home)
    return "\n".join(check.problem for check in checks if check.problem)


@pytest.mark.parametrize("recipe", ["quickstart", "pairs", "rounds", "evaluate", "grpo"])
def test_a_recipe_without_them_has_the_keys_that_it_had(recipe: str):
    for node in nodes(recipe).values():
        assert "chat_template" not in json.dumps(node.settings) and "conversations" not in node.settings


def test_the_model_alone_has_them_and_every_key_follows_from_its_digest(template: str):
    before, after = nodes("pairs"), nodes("pairs", template, OFF)
    changed = {
        node.id for name, node in after.items() if (node.settings, node.files) != (before[name].settings, before[name].files)
    }
    assert changed == {"resolve/base", "report"}
    assert after["resolve/base"].settings["chat_template_kwargs"] == {"enable_thinking": False}
    assert after["resolve/base"].files["template"].name == "reasoning.jinja"


def committed(store: Store, folder: Path, template: Path | None, values: dict[str, object], served: object = None) -> Artifact:
    """The artifact of the stage `resolve` for the model of a folder."""
    made_of = Ingredients("resolve", {"values": values}, {"model": model_digest(folder)}, {})
    work = store.work_folder("resolve", made_of.key())
    settings = {"model_name_or_path": "m", "revision": None, "chat_template_kwargs": values}
    inputs = {"model": folder, **({"template": template} if template else {})}
    resolve.run(Job({**settings, **({"served": served} if served else {})}, inputs, work, no_progress))
    about = {name: value for name, value in vars(resolve.identity(work)).items() if value is not None}
    return store.commit(made_of, work, content=resolve.CONTENT, fingerprint=about.pop("fingerprint"), about=about)


@pytest.fixture
def model(tiny_model_dir: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "chat_template.jinja").write_text(REASONING)
    return folder


def test_the_artifact_is_a_model_of_links_that_renders_with_the_values(model: Path, tmp_path: Path):
    store = Store(tmp_path / "artifacts", verify=True)
    artifact = committed(store, model, None, {"enable_thinking": False})
    made = model_folder(artifact.path)
    assert made.parent == artifact.path and artifact.fingerprint == model_digest(made)[:32]
    assert prompt_text(load_tokenizer(made), QUESTION).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    # The weights are not the artifact's bytes.
    assert set(artifact.manifest["files"]) == {"model.json", "model/chat_template.jinja"}
    assert json.loads((artifact.path / "model.json").read_text())["path"] == str(model)
    assert store.damage(artifact) is None


def test_an_artifact_whose_model_is_gone_or_altered_is_not_used(model: Path, tmp_path: Path):
    artifact = committed(Store(tmp_path / "artifacts"), model, None, {"enable_thinking": False})
    weights = model / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "was altered" in str(Store(tmp_path / "artifacts", verify=True).damage(artifact))
    weights.unlink()
    assert "is gone" in str(Store(tmp_path / "artifacts").damage(artifact))


def test_a_model_of_links_never_comes_into_a_shared_store(model: Path, tmp_path: Path):
    """Elsewhere its links would lead to nothing."""
    shared = tmp_path / "shared"
    store = Store(tmp_path / "artifacts", Remote(str(shared)))
    assert store.publish(artifact := committed(store, model, None, {"enable_thinking": False})) == artifact
    assert not shared.exists() or not any(path.is_file() for path in shared.rglob("*"))


def test_a_system_prompt_is_in_the_key_of_the_training_whose_policy_notes_it():
    """Rows that all have a system message of their own are the same with any: two recipes would share a policy that notes the first's."""
    plain, brief, long = (
        nodes("pairs", *more)["train"] for more in ((), ("system_prompt=Be brief.",), ("system_prompt=Be long.",))
    )
    assert "conversations" not in plain.settings
    assert brief.settings["conversations"] == {"system_prompt": "Be brief."} != long.settings["conversations"]
    assert {**brief.settings, **brief.unkeyed}["conversations"] == {"system_prompt": "Be brief.", "date": "2024-07-26"}
    # A day that the template doesn't ask for trains nothing anew.
    assert nodes("pairs", "date=2026-01-01")["train"].settings == plain.settings


def test_what_is_wrong_with_a_judges_template_is_said_of_its_section(model: Path, tmp_path: Path):
    judge = "judge={engine: transformers, model_name_or_path: MODEL, chat_template_kwargs: {thinkng: false}, benchmarks: [mt_bench]}"
    (node,) = [
        one
        for one in nodes("evaluate", judge.replace("MODEL", str(model))).values()
        if one.role == "judge" and one.stage == "resolve"
    ]
    job = Job({**node.settings, **node.unkeyed}, node.files, tmp_path / "work", no_progress)
    with pytest.raises(
        ValueError, match=r"^judge\.chat_template_kwargs must hold variables that the chat template reads, got thinkng"
    ):
        resolve.run(job)
    assert nodes("evaluate")["resolve/base"].unkeyed.keys() == {"served"}


def test_what_a_killed_try_left_is_made_anew(model: Path, tmp_path: Path):
    left = tmp_path / "work" / "model"
    left.mkdir(parents=True)
    (left / "chat_template.jinja").write_text("half")
    job = Job({"chat_template_kwargs": {"enable_thinking": False}}, {"model": model}, tmp_path / "work", no_progress)
    resolve.run(job)
    assert prompt_text(load_tokenizer(left), QUESTION).endswith("</think>\n\n")


def test_a_policy_is_not_evaluated_otherwise_than_it_was_trained(model: Path, tmp_path: Path):
    write_alignment(model, None, "2024-07-26")
    served = {"system_prompt": None, "date": "2024-07-26"}
    with pytest.raises(
        ValueError, match=r"chat_template_kwargs\.enable_thinking must be left out, as the policy in .* got false"
    ):
        committed(Store(tmp_path / "artifacts"), model, None, {"enable_thinking": False}, served)


def test_the_preflight_refuses_what_is_switched_between_training_and_serving(tmp_path: Path):
    policy = tmp_path / "policy"
    policy.mkdir()
    for file in (ROOT / MODEL).iterdir():
        if file.is_file() and file.name != "chat_template.jinja":
            os.link(file, policy / file.name)
    (policy / "chat_template.jinja").write_text(REASONING)
    write_alignment(policy, "Be brief.", "2024-07-26")
    of_policy = (f"model_name_or_path={policy}", "evaluation.benchmarks={number_comparison: {}}")
    assert problems("evaluate", tmp_path, *of_policy, "system_prompt=Be brief.") == ""
    said = problems("evaluate", tmp_path, *of_policy, "system_prompt=Be brief.", OFF)
    assert said.startswith("chat_template_kwargs.enable_thinking must be left out, as the policy in ")
    assert problems("evaluate", tmp_path, *of_policy).startswith("system_prompt must be Be brief., as the policy in ")
    # What it was trained with says nothing of another training that begins with it.
    assert "alignment.json" not in problems("pairs", tmp_path, of_policy[0], OFF)


def test_a_policy_that_is_resolved_already_is_checked_all_the_same(tmp_path: Path):
    """What it is served with is no part of resolving it: the second evaluation finds that in the cache."""
    policy = tmp_path / "policy"
    policy.mkdir()
    for file in (ROOT / MODEL).iterdir():
        if file.is_file():
            os.link(file, policy / file.name)
    write_alignment(policy, None, "2024-07-26")
    of_policy = [f"model_name_or_path={policy}", "evaluation.benchmarks={number_comparison: {}}", "system_prompt=Be brief."]
    recipe = load_recipe("flows/recipes/evaluate.yaml", of_policy)
    known = [Forecast(node, "key", node.stage == "resolve", None, []) for node in build(recipe)]
    assert "system_prompt must be left out, as the policy in" in "\n".join(
        check.problem for check in preflight(recipe, known, tmp_path) if check.problem
    )


def test_markers_that_begin_or_end_turns_are_refused_before_anything_runs(tmp_path: Path):
    assert problems("pairs", tmp_path, "think_tokens=['[THINK]', '[/THINK]']") == ""
    said = problems("pairs", tmp_path, "think_tokens=['<|im_start|>', '<|im_end|>']")
    assert said.startswith("think_tokens must be texts that decoding keeps, got <|im_start|>")
    for given in ("[a, b, c]", "[a]", "[]"):
        with pytest.raises(
            RecipeError, match=r"^think_tokens must hold two texts, the one that begins .*, got \d: .*; write e.g. \[<th"
        ):
            nodes("pairs", f"think_tokens={given}")
    with pytest.raises(RecipeError, match="think_tokens must hold two different texts"):
        nodes("pairs", "think_tokens=[a, a]")
    with pytest.raises(RecipeError, match=r"think_tokens must hold texts without white space .*; write \[<think>, </think>\]"):
        nodes("pairs", r'think_tokens=["<think>\n", "</think>\n"]')
    with pytest.raises(RecipeError, match="think_tokens must hold two texts of which none is a part of the other"):
        nodes("pairs", "think_tokens=[a, ab]")


def test_markers_are_in_the_keys_of_what_reads_them():
    before, after = nodes("quickstart"), nodes("quickstart", "think_tokens=['[A]', '[/A]']")
    assert {node.stage for name, node in after.items() if node.settings != before[name].settings} == {
        "sample",
        "generate",
        "report",
    }


def test_a_limit_of_thoughts_is_in_the_keys_of_what_the_models_answer_and_of_no_sample():
    limit = "evaluation.max_thinking_tokens=64"
    roomy = ("evaluation.lm_eval=[ifeval]", "evaluation.benchmarks=[gsm8k]")
    before, after = (nodes("quickstart", *roomy, *more) for more in ((), (limit,)))
    changed = {node.stage for name, node in after.items() if node.settings != before[name].settings}
    assert changed == {"generate", "lm_eval", "report"}
    for stage in ("generate", "lm_eval"):
        (one, *_) = [node for node in after.values() if node.stage == stage]
        assert one.settings["max_thinking_tokens"] == 64 and "max_thinking_tokens" not in before[one.id].settings


def test_names_in_a_value_stay_as_they_are():
    made = make_recipe({"model_name_or_path": MODEL}, ["chat_template_kwargs={opts: {a-b: {c-d: 1}}}"])
    assert made.chat_template_kwargs == {"opts": {"a-b": {"c-d": 1}}}
    said = {"model_name_or_path": MODEL, "chat_template_kwargs": {"tools": {"get-x": 1}}}
    assert make_recipe(said, ["chat_template_kwargs.tools.get-x=2"]).chat_template_kwargs == {"tools": {"get-x": 2}}


def test_the_preflight_names_the_key_and_what_the_template_reads(template: str, tmp_path: Path):
    said = problems("pairs", tmp_path, OFF)
    assert said.startswith(
        "chat_template_kwargs must hold variables that the chat template reads, got enable_thinking; it reads none"
    )
    said = problems("pairs", tmp_path, template, "chat_template_kwargs={enable-thinking: false}")
    assert "got enable-thinking; it reads enable_thinking, note" in said
    assert problems("pairs", tmp_path, template, OFF) == ""
    (tmp_path / "broken.jinja").write_text("{% if %}")
    said = problems("pairs", tmp_path, f"chat_template={tmp_path / 'broken.jinja'}")
    assert said.startswith("chat_template must be a file with a Jinja template, got ") and "TemplateSyntaxError" in said


def test_the_system_prompt_is_tried_with_the_recipe_s_template(tmp_path: Path):
    (tmp_path / "no_system.jinja").write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    )
    said = problems("pairs", tmp_path, f"chat_template={tmp_path / 'no_system.jinja'}", "system_prompt=Be brief.")
    assert "system_prompt must be left out" in said and "no system" in said


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["chat_template=nowhere.jinja"], "chat_template: nowhere.jinja must exist"),
        (
            ["chat_template_kwargs={a: .inf}"],
            "chat_template_kwargs must hold texts, finite numbers, .* got Out of range float values",
        ),
        (["chat_template_kwargs=[a]"], "chat_template_kwargs"),
    ],
)
def test_values_that_can_t_be_meant_are_refused(overrides: list[str], said: str):
    with pytest.raises(RecipeError, match=said):
        nodes("pairs", *overrides)


def test_an_endpoint_has_a_template_of_its_own_and_is_sent_the_values(template: str):
    there = {"model_name_or_path": MODEL, "evaluation": {"engine": "openai", "model": "m", "benchmarks": {"gsm8k": {}}}}
    with pytest.raises(RecipeError, match=r"chat_template must be left out with evaluation\.engine openai"):
        make_recipe(there, [template])
    made = {node.id: node for node in build(make_recipe(there, ["chat_template_kwargs={enable_thinking: false}"]))}
    assert made["generate/base/gsm8k"].settings["engine"]["chat_template_kwargs"] == {"enable_thinking": False}
    asked: list[dict[str, object]] = []
    create = SimpleNamespace(create=lambda **given: asked.append(given))
    client = SimpleNamespace(chat=SimpleNamespace(completions=create))
    for values in ({"enable_thinking": False}, None):
        engine = OpenaiEngine("m", client, "KEY", "max_tokens", 1, 0, Meter(), values)
        list(engine.generate([QUESTION], Sampling(4)))
    assert asked[0]["extra_body"] == {"chat_template_kwargs": {"enable_thinking": False}} and "extra_body" not in asked[1]


def test_a_judge_that_is_the_recipe_s_model_is_of_its_revision():
    judge = "judge={model_name_or_path: owner/name, engine: vllm, benchmarks: {arena_hard: {limit: 2}}}"
    made = nodes("pairs", "model_name_or_path=owner/name", "revision=abc", judge, "chat_template_kwargs={a: 1}")
    assert made["resolve/judge"].settings["revision"] == "abc" and "chat_template_kwargs" not in made["resolve/judge"].settings


def test_a_judge_has_values_of_its_own():
    """Also where it is the model that is trained."""
    judged = "engine: vllm, benchmarks: {arena_hard: {limit: 2}}"
    made = nodes("pairs", f"judge={{model_name_or_path: {MODEL}, chat_template_kwargs: {{enable_thinking: true}}, {judged}}}")
    assert made["resolve/judge"].settings["chat_template_kwargs"] == {"enable_thinking": True}
    assert "chat_template_kwargs" not in made["resolve/base"].settings
    endpoint = "judge={engine: openai, model: j, base_url: 'http://127.0.0.1:1/v1', benchmarks: {arena_hard: {limit: 2}}%s}"
    asked = next(node for node in nodes("pairs", endpoint % ", chat_template_kwargs: {a: 1}").values() if node.stage == "judge")
    assert asked.settings["engine"]["chat_template_kwargs"] == {"a": 1}
    asked = next(node for node in nodes("pairs", endpoint % "").values() if node.stage == "judge")
    assert "chat_template_kwargs" not in asked.settings["engine"]


def test_a_model_by_itself_is_told_how_it_was_trained_and_a_run_s_models_aren_t(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BNF_HOME", str(tmp_path))
    asked: list[Recipe] = []
    monkeypatch.setattr(running, "run_recipe", lambda recipe, options, **rest: asked.append(recipe))
    words = ["system_prompt=Be brief.", "chat_template_kwargs={a: 1}", "date=2026-01-01"]
    running.evaluate_target(str(ROOT / MODEL), None, words, Options(), as_json=False, debug=False)
    assert (asked[0].system_prompt, asked[0].chat_template_kwargs, asked[0].date) == ("Be brief.", {"a": 1}, "2026-01-01")
    with pytest.raises(
        RecipeError, match=r"evaluate must change keys of .* alone, and for a model by itself system_prompt, .* got 'train"
    ):
        running.evaluate_target(str(ROOT / MODEL), None, ["train.learning_rate=1"], Options(), as_json=False, debug=False)
    run = SimpleNamespace(recipe=load_recipe("flows/recipes/pairs.yaml"))
    monkeypatch.setattr(running, "_evaluated_run", lambda home, target: run)
    with pytest.raises(RecipeError, match=r"evaluate must change keys of .*, ray alone, got 'system_prompt"):
        running.evaluate_target("latest", None, words, Options(), as_json=False, debug=False)
